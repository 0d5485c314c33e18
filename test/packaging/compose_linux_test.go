package packaging

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gopkg.in/yaml.v3"

	"github.com/matrix-org/dendrite/futures/test/rig"
)

// A service is what the tests follow of a service in a compose file.
type service struct {
	Image       string
	User        string
	Command     []string
	Volumes     []string
	Tmpfs       []string
	Environment map[string]string
	ReadOnly    bool `yaml:"read_only"`
}

// compose reads a compose file.
func compose(t *testing.T, path string) map[string]service {
	t.Helper()
	var file struct{ Services map[string]service }
	if err := yaml.Unmarshal(readFile(t, path), &file); err != nil {
		t.Fatal(err)
	}
	return file.Services
}

const patience = 2 * time.Minute // under load; nothing waits for all of it unless something is wrong

func eventually(t *testing.T, try func() error) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		err := try()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

// answers fails unless the server answers 200. With authorities its certificate must be one of theirs, for the name.
func answers(t *testing.T, url, name string, authorities *x509.CertPool) {
	t.Helper()
	client := http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{
		InsecureSkipVerify: authorities == nil, RootCAs: authorities, ServerName: name,
	}}}
	eventually(t, func() error {
		res, err := client.Get(url)
		if err != nil {
			return err
		}
		defer res.Body.Close()
		if res.StatusCode != http.StatusOK {
			return fmt.Errorf("%s: %s", url, res.Status)
		}
		return nil
	})
}

// configure makes signing key, certificate and configuration with the image's own programs, as Dendrite's documentation
// has it, and changes lines of it, each of which must be there.
func (c *container) configure(folder, data, db string, lines ...string) {
	c.t.Helper()
	uid, gid := c.ids()
	c.must(os.Chown(folder, uid, gid))
	c.exec("/usr/bin/generate-keys", "-private-key", "matrix_key.pem", "-tls-cert", "server.crt", "-tls-key", "server.key")
	args := []string{"/usr/bin/generate-config", "-server", "example.test", "-dir", data}
	if db != "" {
		args = append(args, "-db", db)
	}
	text := c.exec(args...)
	lines = append(lines, `registration_shared_secret: ""`, "registration_shared_secret: geheim", "bcrypt_cost: 10", "bcrypt_cost: 4")
	for i := 0; i < len(lines); i += 2 {
		if !strings.Contains(text, lines[i]) {
			c.t.Fatalf("no %q in\n%s", lines[i], text)
		}
		text = strings.Replace(text, lines[i], lines[i+1], 1)
	}
	c.must(os.WriteFile(filepath.Join(folder, "dendrite.yaml"), []byte(text), 0o644))
}

// live makes an account with the container's program for that, and has a future fire.
func (c *container) live(createAccount, name string) (user *rig.User, room string) {
	c.t.Helper()
	c.exec(createAccount, "-config", "/etc/dendrite/dendrite.yaml", "-username", name, "-password", "correct horse")
	user = rig.LoginAt(c.t, "http://127.0.0.1:8008", name, "correct horse")
	room = user.CreateRoom(nil)
	user.SendFuture(room, "m.room.message", map[string]any{"body": "later"}, rig.Params{Timeout: time.Second})
	user.WaitFor(room, rig.HasBody("later"), patience)
	return user, room
}

// restarts stops the server in order, starts it again, and looks for what was there.
func (c *container) restarts(user *rig.User, room string) {
	c.t.Helper()
	if code := c.stop(); code != 0 {
		c.t.Errorf("it ended with %d\n%s", code, c.log)
	}
	c.start()
	c.healthy()
	user.WaitFor(room, rig.HasBody("later"), patience)
	if code := c.stop(); code != 0 {
		c.t.Errorf("it ended with %d\n%s", code, c.log)
	}
}

// Dendrite's own compose file, unchanged but for the image's name.
func TestDendritesCompose(t *testing.T) {
	services := compose(t, root+"/.base/dendrite/build/docker/docker-compose.yml")
	server := services["monolith"]
	if server.Image != "matrixdotorg/dendrite-monolith:latest" {
		t.Fatalf("the server is %+v", server)
	}
	env := services["postgres"].Environment
	startPostgres(t, env["POSTGRES_USER"], env["POSTGRES_PASSWORD"])
	folder := scratch(t)
	c := newContainer(t, server, folder)
	c.configure(filepath.Join(folder, "config"), "/var/dendrite/", "postgresql://dendrite:itsasecret@postgres/dendrite?sslmode=disable")
	c.start()
	c.healthy()
	c.restarts(c.live("/usr/bin/create-account", "alice"))
}

// A compose file of the kind that people write for a small server: one container with SQLite, another user, a read-only
// root file system, HTTPS with a certificate beside the configuration.
func TestSmallCompose(t *testing.T) {
	server := compose(t, "testdata/small.yaml")["dendrite"]
	folder := scratch(t)
	c := newContainer(t, server, folder)
	uid, gid := c.ids()
	c.must(os.Chown(filepath.Join(folder, "data"), uid, gid))
	c.configure(filepath.Join(folder, "config"), "/var/dendrite", "", "type: file", "type: std")
	c.start()
	c.healthy()
	user, room := c.live("/usr/bin/create-account", "alice")
	answers(t, "https://127.0.0.1:8448/_matrix/federation/v1/version", "", nil)
	c.restarts(user, room)
}

// Files that a container has written as root, as Dendrite's own image does, can be taken over by giving them to the image's
// user, and until then the server says what is wrong.
func TestFromRootsFiles(t *testing.T) {
	server := compose(t, "testdata/small.yaml")["dendrite"]
	server.Command = nil
	server.User = "0:0"
	folder := scratch(t)
	before := newContainer(t, server, folder)
	before.configure(filepath.Join(folder, "config"), "/var/dendrite", "", "type: file", "type: std")
	before.start()
	before.healthy()
	user, room := before.live("/usr/bin/create-account", "alice")
	before.stop()

	server.User = "" // the image's
	after := newContainer(t, server, folder)
	after.start()
	<-after.ended
	if !strings.Contains(after.log.String(), "permission denied") {
		t.Errorf("it says: %s", after.log)
	}
	if _, err := output(exec.Command("chown", "-R", after.image.config.User, folder)); err != nil {
		t.Fatal(err)
	}
	after.start()
	after.healthy()
	after.restarts(user, room)
}

// The project's own compose file, as prepare.sh makes it: PostgreSQL and NATS are what it says, LiveKit is not needed before
// somebody calls.
func TestOwnCompose(t *testing.T) {
	folder := filepath.Join(scratch(t), "server")
	if _, err := output(exec.Command(packDir+"/compose/prepare.sh", "example.test", folder)); err != nil {
		t.Fatal(err)
	}
	services := compose(t, filepath.Join(folder, "compose.yaml"))
	env := services["postgres"].Environment
	startPostgres(t, env["POSTGRES_USER"], env["POSTGRES_PASSWORD"])

	queue := newSystem(t)
	queue.install(os.Getenv(nats), "/usr/bin/nats-server", 0o755)
	queue.install(filepath.Join(folder, "nats.conf"), "/etc/nats/nats.conf", 0o644)
	queue.image.config.Cmd = append([]string{"/usr/bin/nats-server"}, services["nats"].Command...)
	queue.start()
	eventually(t, func() error {
		conn, err := net.Dial("tcp", "127.0.0.1:4222")
		if err == nil {
			err = conn.Close()
		}
		return err
	})

	c := newContainer(t, services["dendrite"], folder)
	c.exec("/usr/bin/generate-keys", "-private-key", "/var/dendrite/matrix_key.pem")
	c.start()
	c.healthy()
	user, room := c.live("/usr/bin/create-account", "alice")
	if r := user.Do("GET", "/_matrix/client/unstable/org.matrix.msc4143/rtc/transports", nil, nil); !strings.Contains(string(r.Body), "https://example.test/_matrix/livekit/jwt") {
		t.Errorf("the SFU is not announced: %d %s", r.Status, r.Body)
	}
	c.restarts(user, room)
	queue.stop()
}

// Those who write compose files check them so.
func TestComposeFilesAreValid(t *testing.T) {
	need(t, "docker-compose")
	for _, name := range []string{packDir + "/compose/compose.yaml", "testdata/small.yaml"} {
		if _, err := output(exec.Command("docker-compose", "-f", name, "config", "-q")); err != nil {
			t.Error(err)
		}
	}
}
