package crash_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/futures/test/judge"
	"github.com/matrix-org/dendrite/futures/test/rig"
)

// TestRareSteps kills a server at each step that only a heartbeat, a clean stop or a restart reaches.
func TestRareSteps(t *testing.T) {
	const wait = 3 * time.Second
	for _, step := range rare {
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			s := rig.New(t, rig.Config{})
			alice := s.Register(t, "alice")
			room := alice.CreateRoom(nil)
			asked := time.Now()
			f := alice.SendFuture(room, "m.room.message", map[string]any{"body": "later", judge.Mark: room}, rig.Params{Timeout: wait})
			switch step {
			case "raised":
				s.CrashAt(step, 1)
				again := time.Now()
				anybody := s.Client()
				r, err := anybody.Do(t.Context(), http.MethodPost, rig.Path("futures", f.Refresh), nil, nil)
				if err == nil && r.Status == http.StatusOK {
					asked = again
				}
			case "exact":
				asked = time.Now()
				s.UseToken(t, f.Refresh)
				s.CrashAt(step, 1)
				s.Terminate()
			default:
				s.UseToken(t, f.Refresh)
				s.Stop() // the exact deadline is on disk, so
				if step == "graced" {
					time.Sleep(wait) // it passes while no server runs
				}
				s.CrashAt(step, 1)
				s.TryStart() //nolint:errcheck // the exit is waited for
			}
			if !s.WaitExit(patience) || s.Exit() != "signal: killed" {
				t.Fatalf("the server never came to the step %q: %s", step, s.Exit())
			}
			s.Start()
			event := alice.WaitFor(room, isMark(room), patience)
			if early := asked.Add(wait).UnixMilli() - 1 - event.Get("origin_server_ts").Int(); early > 0 { // whole milliseconds
				t.Errorf("the event came %d ms early", early)
			}
			waitOver(t, s, alice, f)
			if n := count(alice.Timeline(room), isMark(room)); n != 1 {
				t.Errorf("the event is in the room %d times", n)
			}
		})
	}
}
