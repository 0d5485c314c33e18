package main

import (
	"strings"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/futures/test/rig"
)

func TestMain(m *testing.M) { rig.Main(m) }

// TestShow plays the demonstration on a server of the kit. It must show everything that it announces, in order and
// within half a minute.
func TestShow(t *testing.T) {
	s := rig.New(t, rig.Config{})
	start := time.Now()
	var out strings.Builder
	if err := show(t.Context(), newStage(&out, false), s.URL, rig.Secret); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	if took := time.Since(start); took > 30*time.Second {
		t.Errorf("it took %s", took)
	}
	rest := out.String()
	for _, line := range []string{
		"joins the call", "Alice is in the call", "heartbeat 4", "battery dies", "Alice has left the call",
		"sends the message", "Alice: The door code is 4711.", "(the message has been deleted)", "each once",
	} {
		_, after, found := strings.Cut(rest, line)
		if !found {
			t.Fatalf("%q is not shown, or not in its place:\n%s", line, out.String())
		}
		rest = after
	}
	if strings.Contains(out.String(), "\x1b") {
		t.Error("colours, although this is no terminal")
	}
}
