// Package crash kills whole servers with SIGKILL, at every step of a future's life and at random times. It decides by
// the rooms' timelines alone whether futures were lost, doubled or early.
package crash_test

import (
	"flag"
	"fmt"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"github.com/matrix-org/dendrite/futures/test/judge"
	"github.com/matrix-org/dendrite/futures/test/rig"
)

var (
	kills = flag.Int("kills", 140, "how often the server on SQLite is killed under the crowd; half as often on PostgreSQL")
	seed  = flag.Uint64("seed", uint64(time.Now().UnixNano()), "of the crowd and of the kills")
)

func TestMain(m *testing.M) {
	flag.Parse()
	rig.Main(m)
}

// steps are the points in a future's life at which the server can be killed, in order.
var steps = []string{
	"accepted",  // decided, not yet in a batch
	"commit",    // a batch is about to be written
	"committed", // it has been written
	"built",     // the event has its ID
	"claimed",   // the event is on disk; from here on it is this event or none
	"submitted", // the event has been submitted to the room
	"proved",    // the event is confirmed to be in the room
	"finalised", // the outcome is on disk
}

// rare are steps that a run with few futures does not reach by itself.
var rare = []string{
	"raised",    // a refreshed deadline is on disk
	"exact",     // at a clean stop all true deadlines are on disk
	"recovered", // memory equals the disk, nothing runs yet
	"graced",    // the grace of futures that became due while no server ran is on disk
}

const timeout = 500 * time.Millisecond

// patience exceeds the 30 s after which JetStream redelivers an event that one of Dendrite's components had not
// acknowledged when it was killed. Until then the event is in the room, but clients do not see it.
const patience = 60 * time.Second

// TestEachStep kills a server once at each step of a single future's life, which has three commits: of the creation,
// the claim and the outcome. After the restart its event is in the room exactly once.
func TestEachStep(t *testing.T) {
	for i, step := range slices.Concat(steps, []string{"commit", "commit", "committed", "committed"}) {
		nth := 1
		if i >= len(steps) {
			nth = 2 + i%2
		}
		t.Run(fmt.Sprintf("%s %d", step, nth), func(t *testing.T) {
			t.Parallel()
			s := rig.New(t, rig.Config{})
			alice := s.Register(t, "alice")
			room := alice.CreateRoom(nil)
			s.CrashAt(step, nth)
			start := time.Now()
			f := schedule(t, s, alice, room)
			if !s.WaitExit(patience) {
				t.Fatalf("the future never came to the step %q", step)
			}
			s.Start()
			if f.Send == "" { // the crash came first: repeat the request
				f = schedule(t, s, alice, room)
			}
			event := alice.WaitFor(room, isMark(room), patience)
			if early := start.Add(timeout).UnixMilli() - event.Get("origin_server_ts").Int(); early > 0 {
				t.Errorf("the event came %d ms early", early)
			}
			waitOver(t, s, alice, f)
			if n := count(alice.Timeline(room), isMark(room)); n != 1 {
				t.Errorf("the event is in the room %d times", n)
			}
		})
	}
}

// TestStormAtEachStep kills a server while it sends many events of one room together.
func TestStormAtEachStep(t *testing.T) {
	const events = 30
	for _, step := range []string{"built", "claimed", "submitted", "proved"} {
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			s := rig.New(t, rig.Config{})
			alice := s.Register(t, "alice")
			room := alice.CreateRoom(nil)
			due := time.Now().Add(3 * time.Second)
			for i := range events {
				mark := fmt.Sprint(i)
				content := map[string]any{"body": "later", judge.Mark: mark}
				if i%3 == 0 {
					alice.SendFuture(room, "m.room.message", content, rig.Params{Timeout: time.Until(due)})
				} else {
					alice.StateFuture(room, "com.example.leave", mark, content, rig.Params{Timeout: time.Until(due)})
				}
			}
			s.CrashAt(step, 2)
			if !s.WaitExit(patience) {
				t.Fatalf("no future came to the step %q", step)
			}
			s.Start()
			for i := range events {
				if e := alice.WaitFor(room, isMark(fmt.Sprint(i)), patience); e.Get("origin_server_ts").Int() < due.UnixMilli()-1 { // a timeout is in whole milliseconds
					t.Errorf("event %d came early", i)
				}
			}
			timeline := alice.Timeline(room)
			for i := range events {
				if n := count(timeline, isMark(fmt.Sprint(i))); n != 1 {
					t.Errorf("event %d is in the room %d times", i, n)
				}
			}
		})
	}
}

// schedule schedules a future; the answer is empty if the server died during the request.
func schedule(t *testing.T, s *rig.Server, u *rig.User, room string) rig.Future {
	t.Helper()
	path := rig.Path("rooms", room, "send_future", "m.room.message", room)
	content := map[string]any{"msgtype": "m.text", "body": "later", judge.Mark: room}
	r, err := u.Client.Do(t.Context(), http.MethodPut, path, rig.Params{Timeout: timeout}.Query(), content)
	if err != nil {
		return rig.Future{}
	}
	if r.Status != http.StatusOK {
		t.Fatalf("scheduling: %d %s", r.Status, r.Body)
	}
	return r.Future()
}

func isMark(mark string) func(gjson.Result) bool {
	return func(e gjson.Result) bool { return e.Get("content."+judge.Mark).String() == mark }
}

func count(timeline []gjson.Result, condition func(gjson.Result) bool) (n int) {
	for _, e := range timeline {
		if condition(e) {
			n++
		}
	}
	return n
}

// waitOver waits until the user has no running future, and tries the tokens of this one.
func waitOver(t *testing.T, s *rig.Server, u *rig.User, f rig.Future) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); ; <-tick.C {
		list := u.Do(http.MethodGet, rig.Path("futures"), nil, nil).JSON
		if len(list.Array()) == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("still running: %s", list.Raw)
		}
	}
	for _, token := range []string{f.Refresh, f.Send, f.Cancel} {
		if got := s.UseToken(t, token).Status; got != http.StatusGone {
			t.Errorf("a token of a future that is over is answered with %d", got)
		}
	}
}
