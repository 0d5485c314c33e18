package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/matrix-org/dendrite/setup/config"
	"gopkg.in/yaml.v3"

	"github.com/matrix-org/dendrite/futures/setup"
	"github.com/matrix-org/dendrite/futures/test/rig"
)

const (
	ourProgram   = "github.com/matrix-org/dendrite/futures/cmd/dendrite"
	stockProgram = "github.com/matrix-org/dendrite/cmd/dendrite" // v0.13.8, with the dependencies of our go.mod

	startTime = 2 * time.Minute
)

// server is a homeserver in a process of its own.
type server struct {
	*child
	url string
	log string // its file
}

// plan describes a server.
type plan struct {
	program  string            // ourProgram if empty
	database config.DataSource // of the futures or, if it is PostgreSQL, of everything
	set      map[string]any    // configuration, by the full name of the key
	pinned   bool              // to one processor
}

// binary builds a program, once.
func (b *bench) binary(ctx context.Context, program string) (string, error) {
	if path, ok := b.binaries[program]; ok {
		return path, nil
	}
	dir, err := b.folder()
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "dendrite")
	build := exec.CommandContext(ctx, "go", "build", "-o", path, program)
	if program == stockProgram {
		build.Env = append(os.Environ(), "GOWORK=off") // without the patches
	}
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build %s: %w\n%s", program, err, out)
	}
	b.binaries[program] = path
	return path, nil
}

// config writes a server's configuration: the quick start's, without the limits for single users, because a benchmark
// is a single user.
func (b *bench) config(p plan) (path string, err error) {
	dir := ""
	if p.database.IsSQLite() {
		dir = folderOf(p.database) // where the quick start puts the file
	} else if dir, err = b.folder(); err != nil {
		return "", err
	}
	if path, _, err = setup.QuickStart(dir); err != nil {
		return "", err
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	root := map[string]any{}
	if err := yaml.Unmarshal(data, &root); err != nil {
		return "", err
	}
	if p.database != "" && !p.database.IsSQLite() {
		dropConnections(root)
		put(root, "global.database.connection_string", string(p.database))
		put(root, "global.database.max_idle_conns", 30) // as generate-config writes it
	}
	unlimited := map[string]any{"per_second": 0}
	for key, value := range map[string]any{
		"client_api.registration_shared_secret": rig.Secret,
		"client_api.rate_limiting.enabled":      false,
		"user_api.bcrypt_cost":                  4,
		"global.disable_federation":             true,
		"global.metrics.enabled":                true,
		"future_server.rate_limits.create":      unlimited,
		"future_server.max_futures_per_user":    1_000_000,
	} {
		put(root, key, value)
	}
	for key, value := range p.set {
		put(root, key, value)
	}
	if data, err = yaml.Marshal(root); err != nil {
		return "", err
	}
	return path, os.WriteFile(path, data, 0o600)
}

func put(m map[string]any, key string, value any) {
	first, rest, nested := strings.Cut(key, ".")
	if !nested {
		m[first] = value
		return
	}
	child, ok := m[first].(map[string]any)
	if !ok {
		child = map[string]any{}
		m[first] = child
	}
	put(child, rest, value)
}

func dropConnections(node any) {
	m, _ := node.(map[string]any)
	delete(m, "connection_string")
	for _, child := range m {
		dropConnections(child)
	}
}

// start creates and starts a server. The caller must kill it.
func (b *bench) start(ctx context.Context, p plan) (*server, error) {
	path, err := b.config(p)
	if err != nil {
		return nil, err
	}
	s, err := b.launch(ctx, p, path)
	if err != nil {
		return nil, err
	}
	if err := s.waitUp(ctx); err != nil {
		s.kill()
		return nil, err
	}
	return s, nil
}

// launch starts a server and does not wait until it is up.
func (b *bench) launch(ctx context.Context, p plan, configPath string) (*server, error) {
	program := p.program
	if program == "" {
		program = ourProgram
	}
	binary, err := b.binary(ctx, program)
	if err != nil {
		return nil, err
	}
	address, err := freeAddress()
	if err != nil {
		return nil, err
	}
	s := &server{url: "http://" + address, log: filepath.Join(filepath.Dir(configPath), "log")}
	log, err := os.OpenFile(s.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command(binary, "-config", configPath, "-http-bind-address", address)
	cmd.Dir = filepath.Dir(configPath)
	cmd.Stdout, cmd.Stderr = log, log
	s.child, err = spawn(cmd, p.pinned)
	return s, err
}

func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

func (s *server) waitUp(ctx context.Context) error {
	return s.poll(ctx, func(client *http.Client) (*http.Response, error) {
		return client.Get(s.url + "/_matrix/client/versions")
	})
}

// poll repeats a request until it gets 200.
func (s *server) poll(ctx context.Context, ask func(*http.Client) (*http.Response, error)) error {
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	client := &http.Client{Timeout: startTime, Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	for {
		r, err := ask(client)
		if err == nil {
			r.Body.Close()
			if r.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-s.exited:
			log, _ := os.ReadFile(s.log)
			return fmt.Errorf("a server ended:\n%s", log[max(0, len(log)-2000):])
		case <-ctx.Done():
			return errors.Join(errors.New("a server does not come up"), ctx.Err(), err)
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// user is a user with an account.
type user struct {
	rig.Client
}

// register makes an account.
func (s *server) register(ctx context.Context, name string) (*user, error) {
	u := &user{rig.Client{URL: s.url, HTTP: &http.Client{
		Timeout: time.Minute, Transport: &http.Transport{MaxIdleConnsPerHost: 128},
	}}}
	r, err := u.Register(ctx, rig.Secret, name, "a long password", false)
	if err != nil || r.Status != http.StatusOK {
		return nil, fmt.Errorf("registering %s: %d %s %v", name, r.Status, r.Body, err)
	}
	return u, nil
}

// do sends a request that must succeed.
func (u *user) do(ctx context.Context, method, path string, query map[string][]string, body any) (rig.Response, error) {
	r, err := u.Do(ctx, method, path, query, body)
	if err == nil && r.Status != http.StatusOK {
		err = fmt.Errorf("%s: %d %s", method, r.Status, r.Body) // the path may contain a token
	}
	return r, err
}

// createRooms makes that many rooms.
func (u *user) createRooms(ctx context.Context, n int) ([]string, error) {
	rooms := make([]string, n)
	err := each(ctx, 4, n, func(ctx context.Context, i int) error {
		r, err := u.do(ctx, http.MethodPost, rig.Path("createRoom"), nil, map[string]any{"preset": "private_chat"})
		rooms[i] = r.JSON.Get("room_id").String()
		return err
	})
	return rooms, err
}
