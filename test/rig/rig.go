// Package rig is the kit for black-box end-to-end tests: a whole homeserver in a process of its own, which can be
// killed at any instant, and clients that use it over HTTP. It sees futures only from outside: requests go in, events
// come out.
//
// The server is the test binary itself, started again. A package that uses the kit needs
//
//	func TestMain(m *testing.M) { rig.Main(m) }
package rig

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

const (
	startTime = 60 * time.Second // a server that takes longer to start counts as hung
	armTime   = 10 * time.Second
	logTail   = 300 // lines of the log shown with a failed test
)

// Config describes a server; the zero value is a server on SQLite without federation.
type Config struct {
	Postgres    bool           // on a new PostgreSQL database; without PostgreSQL the test is skipped
	Database    string         // connection string of an existing PostgreSQL database to use
	Federation  bool           // federates over TLS with servers on this machine; its name is then localhost:PORT
	Program     string         // path of another Dendrite to start instead of ours the first time
	Proxy       bool           // with Federation: other servers reach it through Server.Proxy, which can be cut
	Descriptors uint64         // maximum of open files and connections of the server; 0: as for the test
	Open        bool           // anybody may register, as with make run
	LiveKit     []*LiveKit     // its SFUs, which the test starts
	Set         map[string]any // settings of dendrite.yaml by dotted path, such as "future_server.max_timeout": "1h"
}

// Server is one homeserver with its folder and its port, which stay the same over restarts.
type Server struct {
	Name string // server name
	URL  string // of the client-server API
	Dir  string

	Proxy *Proxy // in front of its federation port; nil without Config.Proxy

	t      testing.TB
	http   *http.Client
	launch launch
	log    *os.File

	cmd     *exec.Cmd
	orders  io.WriteCloser // to the child's standard input
	replies chan string
	exited  chan struct{}
}

// New prepares a server and its database, and starts it. When the test ends it kills the server and, if the test
// failed, shows its log.
func New(t testing.TB, cfg Config) *Server {
	t.Helper()
	dir := t.TempDir()
	port, tlsPort := ReservePort(t), ReservePort(t)
	s := &Server{
		Name: "localhost",
		URL:  fmt.Sprintf("http://127.0.0.1:%d", port),
		Dir:  dir,
		t:    t,
		http: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}},
	}
	s.launch.Descriptors, s.launch.Open = cfg.Descriptors, cfg.Open
	s.launch.HTTP = fmt.Sprintf("127.0.0.1:%d", port)
	if cfg.Federation {
		s.Name = fmt.Sprintf("localhost:%d", tlsPort)
		s.launch.HTTPS = fmt.Sprintf("127.0.0.1:%d", tlsPort)
		s.launch.Cert, s.launch.Key = writeCertificate(t, dir)
	}
	if cfg.Proxy {
		s.Proxy = newProxy(t, s.launch.HTTPS)
		s.Name = fmt.Sprintf("localhost:%d", s.Proxy.Port)
	}
	s.launch.Config = s.writeConfig(cfg)
	log, err := os.Create(filepath.Join(dir, "server.log"))
	if err != nil {
		t.Fatal(err)
	}
	s.log = log
	t.Cleanup(s.cleanup)
	if cfg.Program != "" {
		s.StartProgram(cfg.Program)
	} else {
		s.Start()
	}
	return s
}

// Start starts the server again and returns when it answers requests.
func (s *Server) Start() {
	s.t.Helper()
	if err := s.TryStart(); err != nil {
		s.t.Fatal(err)
	}
}

// TryStart is Start for tests that expect the start to fail or the server to die during it.
func (s *Server) TryStart() error {
	if err := s.spawn(); err != nil {
		return err
	}
	select {
	case <-s.replies: // the server is up
		return nil
	case <-s.exited:
		return fmt.Errorf("the server ended while starting: %s", s.cmd.ProcessState)
	case <-time.After(startTime):
		s.Kill()
		return fmt.Errorf("the server did not come up in %s", startTime)
	}
}

// StartAndKill starts the server again and kills it after the given time, wherever it is then.
func (s *Server) StartAndKill(after time.Duration) {
	s.t.Helper()
	if err := s.spawn(); err != nil {
		s.t.Fatal(err)
	}
	s.WaitExit(after)
	s.Kill()
}

// StartProgram starts another Dendrite, such as the stock one, with the configuration and the data of this server, and
// returns when it answers requests. CrashAt has no effect on it.
func (s *Server) StartProgram(path string) {
	s.t.Helper()
	if err := s.run(exec.Command(path, "-config", s.launch.Config, "-http-bind-address", s.launch.HTTP)); err != nil {
		s.t.Fatal(err)
	}
	s.poll()
}

// poll waits until the server answers requests.
func (s *Server) poll() {
	s.t.Helper()
	for deadline := time.Now().Add(startTime); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if res, err := s.http.Get(s.URL + "/_matrix/client/versions"); err == nil {
			res.Body.Close()
			if res.StatusCode == http.StatusOK {
				return
			}
		}
		if !s.Running() {
			s.t.Fatalf("the server ended while starting: %s", s.cmd.ProcessState)
		}
	}
	s.Kill()
	s.t.Fatalf("the server did not come up in %s", startTime)
}

func (s *Server) spawn() error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.Command(self)
	// Dendrite's own races must not change the exit code; ours are searched for in the log.
	cmd.Env = append(os.Environ(), s.launch.env(), "GORACE=exitcode=0 atexit_sleep_ms=0")
	s.launch.Step = "" // only for this run
	return s.run(cmd)
}

func (s *Server) run(program *exec.Cmd) (err error) {
	s.http.CloseIdleConnections() // they belong to the server's previous run
	s.cmd = program
	s.cmd.Dir = s.Dir
	s.cmd.Stdout, s.cmd.Stderr = s.log, s.log
	if s.orders, err = s.cmd.StdinPipe(); err != nil {
		return err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	s.cmd.ExtraFiles = []*os.File{w} // file descriptor 3 of the child
	if err := s.cmd.Start(); err != nil {
		return err
	}
	w.Close()
	cmd, exited, replies := s.cmd, make(chan struct{}), make(chan string, 16)
	s.exited, s.replies = exited, replies
	go func() {
		defer r.Close()
		for lines := bufio.NewScanner(r); lines.Scan(); {
			replies <- lines.Text()
		}
	}()
	go func() {
		cmd.Wait() //nolint:errcheck // the state is read from cmd.ProcessState
		close(exited)
	}()
	return nil
}

// Kill ends the server at once, with SIGKILL.
func (s *Server) Kill() {
	s.cmd.Process.Kill() //nolint:errcheck // it may be gone already
	<-s.exited
}

// Terminate sends SIGTERM and does not wait. It does nothing if the server has already ended.
func (s *Server) Terminate() {
	s.t.Helper()
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		s.t.Fatalf("stopping the server: %v", err)
	}
}

// Stop sends SIGTERM, and returns the exit code and how long the stop took.
func (s *Server) Stop() (code int, took time.Duration) {
	s.t.Helper()
	start := time.Now()
	s.Terminate()
	if !s.WaitExit(time.Minute) {
		s.Kill()
		s.t.Fatal("the server did not stop in a minute")
	}
	return s.cmd.ProcessState.ExitCode(), time.Since(start)
}

// CrashAt makes the server kill itself, as by SIGKILL, when a future passes the named step for the nth time: from now
// on or, if the server is down, from its next start on.
func (s *Server) CrashAt(step string, n int) {
	s.t.Helper()
	if !s.Running() {
		s.launch.Step, s.launch.N = step, n
		return
	}
	fmt.Fprintf(s.orders, "%s %d\n", step, n)
	select {
	case <-s.replies:
	case <-s.exited: // an earlier step was faster
	case <-time.After(armTime):
		s.t.Fatal("the server does not take orders")
	}
}

// PauseAt makes the server pause whenever it passes the named step, from its next start on.
func (s *Server) PauseAt(step string, pause time.Duration) {
	s.launch.PauseAt, s.launch.Pause = step, pause
}

// WaitExit waits until the server has ended, and reports whether it did within the time.
func (s *Server) WaitExit(within time.Duration) bool {
	select {
	case <-s.exited:
		return true
	case <-time.After(within):
		return false
	}
}

// Running reports whether the server's process is running.
func (s *Server) Running() bool {
	select {
	case <-s.exited:
		return false
	default:
		return true
	}
}

// Exit describes how the server has ended.
func (s *Server) Exit() string { return s.cmd.ProcessState.String() }

// PID is the process ID of the server.
func (s *Server) PID() int { return s.cmd.Process.Pid }

// Log returns everything that the server has logged, in all its runs.
func (s *Server) Log() string {
	s.t.Helper()
	data, err := os.ReadFile(s.log.Name())
	if err != nil {
		s.t.Fatal(err)
	}
	return string(data)
}

func (s *Server) cleanup() {
	if s.cmd != nil && s.cmd.Process != nil {
		s.Kill()
	}
	s.http.CloseIdleConnections()
	if race := ourRace(s.Log()); race != "" {
		s.t.Errorf("a data race:\n%s", race)
	}
	if s.t.Failed() {
		// JetStream's long report at each start is left out.
		lines := slices.DeleteFunc(slices.Collect(strings.Lines(s.Log())), func(line string) bool {
			return strings.Contains(line, "level=info") && strings.Contains(line, "component=jetstream")
		})
		s.t.Logf("log of %s, the last %d of %d lines:\n%s", s.Name, min(logTail, len(lines)), len(lines),
			strings.Join(lines[max(0, len(lines)-logTail):], ""))
	}
	s.log.Close()
}

// ourRace returns the report of a data race in which both sides are this module's code, or "". Dendrite has races of
// its own.
func ourRace(log string) string {
	const rule = "==================\n"
	for _, report := range strings.Split(log, rule) {
		if !strings.HasPrefix(report, "WARNING: DATA RACE") {
			continue
		}
		sides := strings.SplitN(report, "\n\n", 3)
		if len(sides) == 3 && isOurs(sides[0]) && isOurs(sides[1]) {
			return report
		}
	}
	return ""
}

// isOurs reports whether the innermost call of a stack, except those of the Go library, is in this module.
func isOurs(stack string) bool {
	for line := range strings.Lines(stack) {
		call := strings.TrimSpace(line)
		if !strings.HasSuffix(call, ")") || strings.HasPrefix(call, "runtime.") || strings.HasPrefix(call, "sync") {
			continue
		}
		return strings.HasPrefix(call, "github.com/matrix-org/dendrite/futures/")
	}
	return false
}

// ReservePort finds a TCP port that nothing listens on and reserves it for the test. It holds the UDP port of the same
// number, so that other users of the kit, also in other processes, avoid it while the server is down. Ports below 32768
// are never used for outgoing connections.
func ReservePort(t testing.TB) int {
	t.Helper()
	for offset := range 10_000 {
		port := 20_000 + (os.Getpid()*7+offset)%10_000
		mark, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port})
		if err != nil {
			continue
		}
		l, err := net.Listen("tcp4", "127.0.0.1:"+strconv.Itoa(port))
		if err != nil {
			mark.Close()
			continue
		}
		l.Close()
		t.Cleanup(func() { mark.Close() })
		return port
	}
	t.Fatal("no free port")
	return 0
}
