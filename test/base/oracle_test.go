// Package base tests the patched base: for room versions up to 11 it behaves like the original modules, and for version
// 12 as the specification says.
package base

import (
	"bufio"
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

var (
	wanted    = flag.Int("questions", 20_000, "how many questions to ask the original and the patched library")
	firstSeed = flag.Uint64("seed", 1, "the seed of the first of them")
)

// oracle is a running process of the program of that name.
type oracle struct {
	in  io.WriteCloser
	out *bufio.Scanner
	cmd *exec.Cmd
}

// start builds the oracle, with the additional environment, and runs it.
func start(t *testing.T, name string, env ...string) *oracle {
	t.Helper()
	binary := filepath.Join(t.TempDir(), name)
	build := exec.Command("go", "build", "-o", binary, "./oracle")
	build.Env = append(os.Environ(), env...)
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	log, err := os.Create(binary + ".log")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(binary)
	cmd.Stderr = log
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			cmd.Process.Kill() //nolint:errcheck // it may have ended
		}
		if err := cmd.Wait(); err != nil && !t.Failed() {
			t.Error(err)
		}
		if said, err := os.ReadFile(log.Name()); err == nil && t.Failed() && !bytes.HasPrefix(said, []byte("time=")) {
			t.Logf("%s said: %s", name, said[:min(len(said), 3000)])
		}
		log.Close()
	})
	o := &oracle{in, bufio.NewScanner(out), cmd}
	o.out.Buffer(nil, 1<<26)
	return o
}

func (o *oracle) answer() ([]byte, error) {
	if !o.out.Scan() {
		return nil, fmt.Errorf("the oracle has ended: %w", o.out.Err())
	}
	return o.out.Bytes(), nil
}

// asked is a question that both oracles have got, with its seed.
type asked struct {
	question
	seed uint64
}

// Rooms of versions 1 to 11 are the same with the patched library as with the original one.
func TestOlderVersionsAreAsBefore(t *testing.T) {
	original, patched := start(t, "original", "GOWORK=off"), start(t, "patched")
	queue := make(chan asked, 10_000)
	go ask(queue, original.in, patched.in)
	begin, seen, ops := time.Now(), make(map[string]int), make(map[string]int)
	n := 0
	for q := range queue {
		a, err := original.answer()
		if err != nil {
			t.Fatalf("original: %v (%d questions, seed %d)", err, n, q.seed)
		}
		b, err := patched.answer()
		if err != nil {
			t.Fatalf("patched: %v (%d questions, seed %d)", err, n, q.seed)
		}
		n++
		ops[q.Op]++
		if !bytes.Equal(a, b) {
			compare(t, q, a, b, seen)
		}
		if t.Failed() {
			t.Fatalf("%s %s; repeat it with -seed %d -questions 1", q.Op, q.Version, q.seed)
		}
	}
	for _, k := range known {
		t.Logf("%d times, because %s", seen[k.name], k.reason)
		if seen[k.name] == 0 && n >= 10_000 {
			t.Errorf("%s: never seen", k.name)
		}
	}
	t.Logf("%d questions in %v: %v", n, time.Since(begin).Round(time.Millisecond), ops)
}

// ask sends the questions to both. Each has a goroutine and a queue of its own: while one waits for its answers to be
// read, the other must get its questions.
func ask(queue chan<- asked, oracles ...io.WriteCloser) {
	defer close(queue)
	var lines []chan []byte
	for _, o := range oracles {
		c := make(chan []byte, 1000)
		defer close(c)
		lines = append(lines, c)
		go write(o, c)
	}
	put := func(q asked) {
		line, err := json.Marshal(q.question)
		if err != nil {
			panic(err)
		}
		for _, c := range lines {
			c <- line
		}
		queue <- q
	}
	for seed, n := *firstSeed, 0; n < *wanted; seed++ {
		for _, q := range questions(seed) {
			put(asked{q, seed})
			n++
		}
	}
	put(asked{question{Op: "versions"}, 0})
}

func write(to io.WriteCloser, lines <-chan []byte) {
	w := bufio.NewWriter(to)
	for line := range lines {
		w.Write(append(line[:len(line):len(line)], '\n')) //nolint:errcheck // the other side says what has become of it
		if len(lines) == 0 {
			w.Flush()
		}
	}
	w.Flush()
	to.Close()
}

// compare reports unknown differences.
func compare(t *testing.T, q asked, original, patched []byte, seen map[string]int) {
	t.Helper()
	var a, b map[string]string
	if err := json.Unmarshal(original, &a); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(patched, &b); err != nil {
		t.Fatal(err)
	}
	names := make(map[string]bool)
	for name := range a {
		names[name] = true
	}
	for name := range b {
		names[name] = true
	}
	for name := range names {
		if a[name] == b[name] {
			continue
		}
		d := difference{q: q.question, name: name, original: a[name], patched: b[name]}
		explained := false
		for _, k := range known {
			if k.explains(d) {
				seen[k.name]++
				explained = true
				break
			}
		}
		if !explained {
			t.Errorf("%s of %s\n%s\noriginal: %s\npatched:  %s", name, q.Op, q.Raw, d.original, d.patched)
		}
	}
}
