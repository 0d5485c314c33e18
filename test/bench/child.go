package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// jobVariable is the environment variable that turns the program into one of its own children.
const jobVariable = "BENCH_JOB"

// runJob is main in a child. It ends when its standard input ends.
func runJob(name string) (code int) {
	jobs := map[string]func() error{"bare": serveBare, "sleep": sleepBare, "load": loadAndWeigh}
	job, ok := jobs[name]
	if !ok {
		return 2
	}
	if err := job(); err != nil {
		fmt.Fprintln(os.Stderr, name+":", err)
		return 1
	}
	return 0
}

// child is a process that this one has started, and will end.
type child struct {
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	stdout *bufio.Reader
	exited chan struct{}
}

// spawn starts a program. With pinned it gets a processor of its own, if there is more than one and the system can do
// it.
func spawn(cmd *exec.Cmd, pinned bool) (*child, error) {
	if taskset, err := exec.LookPath("taskset"); pinned && err == nil && runtime.NumCPU() > 1 {
		cmd.Args = slices.Concat([]string{taskset, "-c", "0", cmd.Path}, cmd.Args[1:])
		cmd.Path = taskset
	}
	// A process group of its own, so that Ctrl+C reaches only this program, which then ends the child.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	c := &child{cmd: cmd, stdin: stdin, exited: make(chan struct{})}
	if cmd.Stdout == nil {
		out, in, err := os.Pipe()
		if err != nil {
			return nil, err
		}
		defer in.Close()
		cmd.Stdout, c.stdout = in, bufio.NewReader(out)
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		cmd.Wait() //nolint:errcheck // whoever wants to know reads its output
		close(c.exited)
	}()
	return c, nil
}

// stepAside moves this process off the processor of pinned children, until back is called. Otherwise it would be chance
// whether a child shares its processor with its own client.
func stepAside() (back func(), err error) {
	taskset, err := exec.LookPath("taskset")
	if err != nil || runtime.NumCPU() == 1 {
		return func() {}, nil
	}
	move := func(processors string) error {
		out, err := exec.Command(taskset, "-a", "-c", "-p", processors, strconv.Itoa(os.Getpid())).CombinedOutput()
		if err != nil {
			return fmt.Errorf("taskset: %w: %s", err, out)
		}
		return nil
	}
	last := strconv.Itoa(runtime.NumCPU() - 1)
	return func() { move("0-" + last) }, move("1-" + last)
}

// self starts this program as a child with that job.
func self(job string, pinned bool, env ...string) (*child, error) {
	path, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(path)
	cmd.Env = append(append(os.Environ(), jobVariable+"="+job), env...)
	cmd.Stderr = os.Stderr
	return spawn(cmd, pinned)
}

// startBare starts an HTTP server with a fixed answer, and returns where it listens.
func startBare(pinned bool) (c *child, address string, err error) {
	if c, err = self("bare", pinned); err != nil {
		return nil, "", err
	}
	if err = c.answer(&address); err != nil {
		c.kill()
		return nil, "", err
	}
	return c, address, nil
}

// kill ends the child at once.
func (c *child) kill() {
	c.cmd.Process.Kill() //nolint:errcheck // it may be gone already
	<-c.exited
}

// answer reads one line of JSON from the child.
func (c *child) answer(to any) error {
	line, err := c.stdout.ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("a child process ended without an answer: %w", err)
	}
	return json.Unmarshal(line, to)
}

// cpu returns the processor time the child has taken so far, in user and system mode.
func (c *child) cpu() (time.Duration, error) { return cpuOf(c.cmd.Process.Pid) }

func cpuOf(pid int) (time.Duration, error) {
	// The clock of another process, as clock_getcpuclockid(3) names it; /proc only has hundredths of a second.
	var t unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|2), &t); err != nil {
		return 0, os.NewSyscallError("clock_gettime", err)
	}
	return time.Duration(t.Nano()), nil
}

// rss returns the memory that this process has in use, in bytes.
func rss() float64 {
	data, _ := os.ReadFile("/proc/self/status")
	for line := range strings.Lines(string(data)) {
		if kb, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			n, _ := strconv.ParseFloat(strings.Fields(kb)[0], 64)
			return n * 1024
		}
	}
	return 0
}

// untilStdinEnds returns a context that ends when the parent no longer needs the child.
func untilStdinEnds() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		io.Copy(io.Discard, os.Stdin) //nolint:errcheck // whatever the end is, it is the end
		cancel()
	}()
	return ctx
}

// say answers the parent.
func say(v any) error { return json.NewEncoder(os.Stdout).Encode(v) }

// serveBare is the least that an HTTP server can do: a fixed answer, with the headers of the answer to a heartbeat and
// the same time limit on writing. It has a large heap, so that the garbage collector works no more for it than for a
// server with futures.
func serveBare() error {
	debug.SetGCPercent(-1)
	debug.SetMemoryLimit(512 << 20)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	ctx := untilStdinEnds()
	answer := http.Header{
		"Content-Type":                 {"application/json"},
		"Access-Control-Allow-Origin":  {"*"},
		"Access-Control-Allow-Methods": {"GET, POST, PUT, DELETE, OPTIONS"},
		"Access-Control-Allow-Headers": {"Origin, X-Requested-With, Content-Type, Accept, Authorization"},
	}
	server := http.Server{WriteTimeout: 5 * time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		maps.Copy(w.Header(), answer)
		io.WriteString(w, "{}") //nolint:errcheck // the client's loss
	})}
	go server.Serve(l) //nolint:errcheck // it ends with the process
	if err := say(l.Addr().String()); err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}

// sleepBare repeatedly sleeps for a millisecond and answers by how much it oversleeps, in ms, as p99.
func sleepBare() error {
	ctx := untilStdinEnds()
	var over []time.Duration
	for ctx.Err() == nil {
		start := time.Now()
		time.Sleep(time.Millisecond)
		over = append(over, time.Since(start)-time.Millisecond)
	}
	slices.Sort(over)
	return say(percentile(over, 0.99).Seconds() * 1000)
}
