package rig

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// runSynapse is Synapse's own main, which also ends when its standard input does, together with the process that
// started it.
const runSynapse = `
import os, sys, threading
def watch():
    sys.stdin.read()
    os._exit(1)
threading.Thread(target=watch, daemon=True).start()
from synapse.app.homeserver import main
main()
`

// Synapse is a Synapse on this machine, on SQLite, as the other end of federation. Other servers reach it over TLS
// through its proxy; its name is the proxy's localhost:PORT.
type Synapse struct {
	Name  string // server name
	URL   string // of the client-server API
	Dir   string
	Proxy *Proxy

	t      testing.TB
	http   *http.Client
	python string
	log    *os.File

	cmd    *exec.Cmd
	stdin  io.WriteCloser
	exited chan struct{}
}

// NewSynapse prepares and starts a Synapse that is installed in that Python. When the test ends it is killed and, if
// the test failed, the end of its log is shown.
func NewSynapse(t testing.TB, python string) *Synapse {
	t.Helper()
	port, tlsPort := ReservePort(t), ReservePort(t)
	s := &Synapse{
		URL:    fmt.Sprintf("http://127.0.0.1:%d", port),
		Dir:    t.TempDir(),
		Proxy:  newProxy(t, fmt.Sprintf("127.0.0.1:%d", tlsPort)),
		t:      t,
		http:   &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}},
		python: python,
	}
	s.Name = fmt.Sprintf("localhost:%d", s.Proxy.Port)
	s.writeConfig(port, tlsPort)
	log, err := os.Create(filepath.Join(s.Dir, "synapse.log"))
	if err != nil {
		t.Fatal(err)
	}
	s.log = log
	t.Cleanup(s.cleanup)
	s.Start()
	return s
}

// Start starts the server again and returns when it answers requests.
func (s *Synapse) Start() {
	s.t.Helper()
	s.http.CloseIdleConnections() // they belong to the server's previous run
	cmd := exec.Command(s.python, "-c", runSynapse, "-c", filepath.Join(s.Dir, "homeserver.yaml"))
	cmd.Dir = s.Dir
	cmd.Stdout, cmd.Stderr = s.log, s.log
	stdin, err := cmd.StdinPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		s.t.Fatalf("starting Synapse: %v", err)
	}
	exited := make(chan struct{})
	s.cmd, s.stdin, s.exited = cmd, stdin, exited
	go func() {
		cmd.Wait() //nolint:errcheck // the state is read from cmd.ProcessState
		close(exited)
	}()
	s.awaitUp()
}

func (s *Synapse) awaitUp() {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), startTime)
	defer cancel()
	client := s.Client()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		if r, err := client.Do(ctx, http.MethodGet, "/health", nil, nil); err == nil && r.Status == http.StatusOK {
			return
		}
		select {
		case <-s.exited:
			s.t.Fatalf("Synapse ended while starting: %s", s.cmd.ProcessState)
		case <-ctx.Done():
			s.t.Fatalf("Synapse did not come up in %s", startTime)
		case <-tick.C:
		}
	}
}

// Kill ends the server at once, with SIGKILL.
func (s *Synapse) Kill() {
	s.cmd.Process.Kill() //nolint:errcheck // it may be gone already
	<-s.exited
}

// Stop sends SIGTERM and waits until the server has ended.
func (s *Synapse) Stop() {
	s.t.Helper()
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		s.t.Fatalf("stopping Synapse: %v", err)
	}
	select {
	case <-s.exited:
	case <-time.After(time.Minute):
		s.Kill()
		s.t.Fatal("Synapse did not stop in a minute")
	}
}

// Running reports whether the server's process is running.
func (s *Synapse) Running() bool {
	select {
	case <-s.exited:
		return false
	default:
		return true
	}
}

// PID returns the number of the server's process.
func (s *Synapse) PID() int { return s.cmd.Process.Pid }

// Client returns a client without a login.
func (s *Synapse) Client() Client { return Client{URL: s.URL, HTTP: s.http} }

// Register creates an account and logs it in.
func (s *Synapse) Register(t testing.TB, name string) *User {
	t.Helper()
	return register(t, s.Client(), name, false)
}

func (s *Synapse) cleanup() {
	if s.cmd != nil && s.cmd.Process != nil {
		s.Kill()
		s.stdin.Close()
	}
	s.http.CloseIdleConnections()
	if data, err := os.ReadFile(s.log.Name()); err == nil && s.t.Failed() {
		lines := slices.Collect(strings.Lines(string(data)))
		s.t.Logf("log of Synapse %s, the last %d of %d lines:\n%s", s.Name, min(logTail, len(lines)), len(lines),
			strings.Join(lines[max(0, len(lines)-logTail):], ""))
	}
	s.log.Close()
}
