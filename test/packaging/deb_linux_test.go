package packaging

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/futures/test/rig"
)

const unit = packDir + "/deb/dendrite.service"

// need skips the test where a program cannot be had.
func need(t *testing.T, program string) {
	t.Helper()
	if _, err := exec.LookPath(program); err != nil {
		t.Skip(err)
	}
}

// buildDeb builds the Debian package in the given version, and copies it into the system.
func (c *container) buildDeb(version string) string {
	c.t.Helper()
	build := exec.Command(packDir+"/deb/build.sh", runtime.GOARCH, scratch(c.t))
	build.Env = append(build.Environ(), "VERSION="+version, "COMPRESSION=none")
	built, err := output(build)
	c.must(err)
	to := "/root/" + version + ".deb"
	c.install(strings.TrimSpace(built), to, 0o644)
	return to
}

// The package is installed, upgraded, removed, installed again and purged. The server runs in between, and keeps its data.
func TestDeb(t *testing.T) {
	need(t, "dpkg-deb")
	c := newSystem(t)
	older, newer := c.buildDeb("0.0.1"), c.buildDeb("0.0.2")
	c.exec("dpkg", "-i", older)
	for _, command := range firstConfiguration(t) {
		c.exec("sh", "-ec", "cd /etc/dendrite && "+command)
	}
	config := "/etc/dendrite/dendrite.yaml"
	c.exec("sed", "-i", `s/registration_shared_secret: ""/registration_shared_secret: geheim/; s/bcrypt_cost: .*/bcrypt_cost: 4/`, config)
	configured := c.read(config)

	c.image.config.WorkingDir = "/etc/dendrite" // as the README has it for the tools

	server := c.asService()
	server.startService()
	user, room := c.live("/usr/bin/dendrite-create-account", "alice")
	server.stop()
	for _, step := range [][]string{
		{"dpkg", "-i", newer}, {"dpkg", "-r", "dendrite-futures"}, {"dpkg", "-i", newer}, {"dpkg", "-P", "dendrite-futures"}, {"dpkg", "-i", newer},
	} {
		t.Log(c.exec(step...))
		if c.read(config) != configured {
			t.Errorf("%v has changed the configuration", step)
		}
		_, err := os.Stat(path(c.image.root, "/usr/bin/dendrite"))
		if step[1] != "-i" {
			if err == nil {
				t.Errorf("%v has left the program", step)
			}
			continue
		}
		c.must(err)
		server.startService()
		user.WaitFor(room, rig.HasBody("later"), patience)
		if code := server.stop(); code != 0 {
			t.Errorf("it ended with %d\n%s", code, server.log)
		}
	}
}

// firstConfiguration returns the commands that the package's README tells the operator to type, but for the last one, which
// speaks to systemd.
func firstConfiguration(t *testing.T) (commands []string) {
	t.Helper()
	_, text, _ := strings.Cut(string(readFile(t, packDir+"/deb/README.Debian")), "    cd /etc/dendrite\n")
	text, last, found := strings.Cut(text, "    systemctl ")
	if commands = strings.Split(strings.TrimSpace(text), "\n"); !found || len(commands) < 4 {
		t.Fatalf("%q %q", commands, last)
	}
	return commands
}

// asService is the system as the unit has the server see it, as far as that can be had without systemd.
func (c *container) asService() *container {
	c.t.Helper()
	img := *c.image
	img.config.User = strings.TrimSpace(c.exec("id", "-u", "dendrite")) + ":" + strings.TrimSpace(c.exec("id", "-g", "dendrite"))
	img.config.WorkingDir = setting(c.t, "WorkingDirectory")
	img.config.Env = append(img.config.Env, "NOTIFY_SOCKET=/run/notify")
	img.config.Cmd = strings.Fields(strings.TrimSuffix(setting(c.t, "ExecStart"), " $DENDRITE_FLAGS"))
	return &container{t: c.t, image: &img, log: c.log}
}

func setting(t *testing.T, key string) string {
	t.Helper()
	for _, line := range strings.Split(string(readFile(t, unit)), "\n") {
		if value, found := strings.CutPrefix(line, key+"="); found {
			return value
		}
	}
	t.Fatalf("the unit does not set %s", key)
	return ""
}

// startService starts the server and waits until it says that it is ready, as systemd does with Type=notify.
func (c *container) startService() {
	c.t.Helper()
	name := path(c.image.root, "/run/notify")
	os.Remove(name) // of the last start
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	c.must(err)
	defer socket.Close()
	c.must(os.Chmod(name, 0o777))
	c.must(socket.SetReadDeadline(time.Now().Add(patience)))
	c.start()
	for message := make([]byte, 4096); ; {
		n, err := socket.Read(message)
		if err != nil {
			c.stop()
			c.t.Fatalf("the server does not say that it is ready: %v\n%s", err, c.log)
		}
		if strings.Contains(string(message[:n]), "READY=1") {
			return
		}
	}
}

// systemd rates what a service could do to the machine from 0 to 10.
func TestUnitIsHardened(t *testing.T) {
	need(t, "systemd-analyze")
	folder := scratch(t)
	text := strings.ReplaceAll(string(readFile(t, unit)), "/usr/bin/dendrite ", "/bin/true ") // which it need not find
	name := filepath.Join(folder, "dendrite.service")
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := output(exec.Command("systemd-analyze", "security", "--offline=true", "--threshold=20", name)); err != nil {
		t.Error(out, err)
	}
	if out, err := exec.Command("systemd-analyze", "verify", "--man=no", name).CombinedOutput(); err != nil || strings.Contains(string(out), "dendrite.service") {
		t.Errorf("%v\n%s", err, out)
	}
	if setting(t, "Type") != "notify" || setting(t, "ExecReload") == "" || setting(t, "WatchdogSec") == "" {
		t.Error("the unit does not use what the server offers")
	}
}
