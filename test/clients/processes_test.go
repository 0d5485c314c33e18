package clients

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"github.com/matrix-org/dendrite/futures/test/rig"
)

// processEnd is the longest time for a client, from its start to its end.
const processEnd = 150 * time.Second

// client is a process with a Matrix client: the lines that it has printed, and its log.
type client struct {
	t     testing.TB
	name  string
	cmd   *exec.Cmd
	stdin io.WriteCloser
	log   lockedBuffer
	ended chan struct{}

	mu    sync.Mutex
	lines []gjson.Result
	more  chan struct{} // closed and replaced with each line
}

// start runs the program as the user's client in the room. The process ends with the test, and if the test failed its
// log is shown.
func start(t testing.TB, program *exec.Cmd, sdk string, u *rig.User, room string) *client {
	t.Helper()
	who, err := json.Marshal(map[string]string{
		"sdk": sdk, "url": u.URL, "user": u.ID, "device": u.DeviceID, "token": u.Token, "room": room,
	})
	if err != nil {
		t.Fatal(err)
	}
	c := &client{t: t, name: u.ID, cmd: program, ended: make(chan struct{}), more: make(chan struct{})}
	c.cmd.Env = append(os.Environ(), "CLIENT="+string(who))
	c.cmd.Stderr = &c.log
	c.cmd.WaitDelay = time.Second
	stdout, err := c.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if c.stdin, err = c.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go c.read(stdout)
	t.Cleanup(func() {
		c.kill()
		if t.Failed() {
			t.Logf("the client of %s, %s: its log ends with\n%s", c.name, c.cmd.ProcessState, c.log.tail(100))
		}
	})
	return c
}

// read records what the process prints until it ends.
func (c *client) read(stdout io.Reader) {
	for lines := bufio.NewScanner(stdout); lines.Scan(); {
		c.mu.Lock()
		c.lines = append(c.lines, gjson.Parse(lines.Text()))
		close(c.more)
		c.more = make(chan struct{})
		c.mu.Unlock()
	}
	c.cmd.Wait() //nolint:errcheck // the state is read from cmd.ProcessState
	close(c.ended)
}

// kill ends the process at once, with SIGKILL.
func (c *client) kill() {
	c.cmd.Process.Kill() //nolint:errcheck // it may be gone already
	<-c.ended
}

// order tells the process to do something.
func (c *client) order(what string) {
	c.t.Helper()
	if _, err := io.WriteString(c.stdin, what+"\n"); err != nil {
		c.t.Fatalf("telling the client of %s to %s: %v", c.name, what, err)
	}
}

// told returns all lines so far, and a channel that is closed at the next line.
func (c *client) told() ([]gjson.Result, <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lines, c.more
}

// wait waits until the process has printed a wanted line of the kind, after the first skip lines. It returns the line,
// and the number of lines up to it.
func (c *client) wait(kind string, skip int, within time.Duration, wanted func(gjson.Result) bool) (gjson.Result, int) {
	c.t.Helper()
	deadline := time.After(within)
	for {
		lines, more := c.told()
		for n := skip; n < len(lines); n++ {
			if value := lines[n].Get(kind); value.Exists() && wanted(value) {
				return value, n + 1
			}
		}
		select {
		case <-more:
		case <-c.ended:
			c.t.Fatalf("the client of %s ended, %s, without the %s wanted; it told %s", c.name, c.cmd.ProcessState, kind, lines)
		case <-deadline:
			c.t.Fatalf("the client of %s did not tell the %s wanted in %s, but %s", c.name, kind, within, lines)
		}
	}
}

// finish waits for the process to end by itself and returns its exit code.
func (c *client) finish() int {
	c.t.Helper()
	select {
	case <-c.ended:
	case <-time.After(processEnd):
		c.kill()
		c.t.Errorf("the client of %s did not end in %s", c.name, processEnd)
	}
	return c.cmd.ProcessState.ExitCode()
}

// lockedBuffer is a log for concurrent writing and reading.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

// tail returns the last n lines.
func (b *lockedBuffer) tail(n int) []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	lines := bytes.SplitAfter(b.buf.Bytes(), []byte("\n"))
	return bytes.Join(lines[max(0, len(lines)-n):], nil)
}

// requireNode makes sure that js/node_modules has exactly the packages of js/package-lock.json. Without Node.js the
// test is skipped, or fails if FUTURES_TEST_CLIENTS=required.
func requireNode(t testing.TB) {
	t.Helper()
	for _, tool := range []string{"node", "npm"} {
		if _, err := exec.LookPath(tool); err == nil {
			continue
		}
		if os.Getenv("FUTURES_TEST_CLIENTS") == "required" {
			t.Fatalf("the clients are required, but there is no %s", tool)
		}
		t.Skipf("matrix-js-sdk needs Node.js: there is no %s", tool)
	}
	if err := install(); err != nil {
		t.Fatal(err)
	}
}

var install = sync.OnceValue(func() error {
	lock, err := os.ReadFile("js/package-lock.json")
	if err != nil {
		return err
	}
	const mark = "js/node_modules/.installed" // a copy of the lock file of the installed packages
	if done, err := os.ReadFile(mark); err == nil && bytes.Equal(done, lock) {
		return nil
	}
	npm := exec.Command("npm", "ci", "--ignore-scripts")
	npm.Dir = "js"
	if out, err := npm.CombinedOutput(); err != nil {
		return fmt.Errorf("npm ci: %w\n%s", err, out)
	}
	return os.WriteFile(mark, lock, 0o600)
})

// script is a program with a client of matrix-js-sdk.
func script(t testing.TB, name string) *exec.Cmd {
	t.Helper()
	tracked(t, "js/*.mjs")
	cmd := exec.Command("node", name)
	cmd.Dir = "js"
	return cmd
}

// tracked makes the files known to go test, whose cache would otherwise not notice changes.
func tracked(t testing.TB, pattern string) {
	t.Helper()
	paths, err := filepath.Glob(pattern)
	if err != nil || len(paths) == 0 {
		t.Fatalf("%s: %v %v", pattern, paths, err)
	}
	for _, path := range paths {
		if _, err := os.Stat(path); err != nil {
			t.Fatal(err)
		}
	}
}
