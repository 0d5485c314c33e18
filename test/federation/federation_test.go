// Package federation tests futures on two whole servers that federate over TLS on this machine. A future concerns only
// its own server until it fires, and newer state from any server counts.
package federation_test

import (
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"github.com/matrix-org/dendrite/futures/test/rig"
)

func TestMain(m *testing.M) { rig.Main(m) }

const (
	patience = 30 * time.Second
	member   = "org.matrix.msc3401.call.member"
)

// rooms is the start of each test: a room of alice on one server, which bob on the other has joined.
type rooms struct {
	a, b       *rig.Server
	alice, bob *rig.User
	room       string
}

func setUp(t *testing.T) *rooms {
	t.Helper()
	r := &rooms{a: rig.New(t, rig.Config{Federation: true}), b: rig.New(t, rig.Config{Federation: true})}
	r.alice, r.bob = r.a.Register(t, "alice"), r.b.Register(t, "bob")
	r.room = r.alice.CreateRoom(map[string]any{
		"preset": "public_chat",
		"power_level_content_override": map[string]any{
			"events": map[string]any{member: 0},
		},
	})
	r.bob.Join(r.room, r.a.Name)
	return r
}

func message(text string) map[string]any { return map[string]any{"msgtype": "m.text", "body": text} }

// count returns how many events of the timeline satisfy the condition.
func count(timeline []gjson.Result, condition func(gjson.Result) bool) int {
	n := 0
	for _, event := range timeline {
		if condition(event) {
			n++
		}
	}
	return n
}

func isState(content string) func(gjson.Result) bool {
	return func(event gjson.Result) bool {
		return event.Get("type").String() == member && event.Get("content.status").String() == content
	}
}

func status(text string) map[string]any { return map[string]any{"status": text} }

// TestFiresAcross: futures that fire on A, a message and a state event, reach B once and not early.
func TestFiresAcross(t *testing.T) {
	r := setUp(t)
	start := time.Now()
	const timeout = 2 * time.Second
	r.alice.SendFuture(r.room, "m.room.message", message("later"), rig.Params{Timeout: timeout})
	r.alice.StateFuture(r.room, member, r.alice.ID, status("left"), rig.Params{Timeout: timeout})
	for _, wanted := range []func(gjson.Result) bool{rig.HasBody("later"), isState("left")} {
		event := r.bob.WaitFor(r.room, wanted, patience)
		if ts := event.Get("origin_server_ts").Int(); ts < start.Add(timeout).UnixMilli() {
			t.Errorf("B got the event %d ms early: %s", start.Add(timeout).UnixMilli()-ts, event.Raw)
		}
		if sender := event.Get("sender").String(); sender != r.alice.ID {
			t.Errorf("B got the event from %s", sender)
		}
	}
	r.alice.Send(r.room, "m.room.message", message("last"))
	r.bob.WaitFor(r.room, rig.HasBody("last"), patience)
	timeline := r.bob.Timeline(r.room)
	if n := count(timeline, rig.HasBody("later")); n != 1 {
		t.Errorf("B has the message %d times", n)
	}
	if n := count(timeline, isState("left")); n != 1 {
		t.Errorf("B has the state event %d times", n)
	}
	if got := r.bob.GetState(r.room, member, r.alice.ID).Get("status").String(); got != "left" {
		t.Errorf("on B the state is %q", got)
	}
}

// TestNewerStateFromAfar: bob sets the piece of state on B before the future on A is due. The future ends as soon as A
// has the event.
func TestNewerStateFromAfar(t *testing.T) {
	r := setUp(t)
	const key = "a desk"
	r.alice.SendState(r.room, member, key, status("alice sits here"))
	r.bob.WaitFor(r.room, isState("alice sits here"), patience)
	left := r.alice.StateFuture(r.room, member, key, status("left"), rig.Params{Timeout: time.Minute})
	other := r.alice.StateFuture(r.room, member, "another desk", status("left"), rig.Params{Timeout: time.Minute})

	r.bob.SendState(r.room, member, key, status("bob sits here"))
	r.alice.WaitFor(r.room, isState("bob sits here"), patience)

	r.waitOver(t, left)
	if n := count(r.alice.Timeline(r.room), isState("left")); n != 0 {
		t.Errorf("the future came %d times", n)
	}
	if got := r.a.UseToken(t, other.Refresh).Status; got != http.StatusOK {
		t.Errorf("a future for another state key is gone too: %d", got)
	}
}

// TestRaceConverges: B's state event and A's deadline come together. Either may win, but both servers must agree, and
// the future must have ended.
func TestRaceConverges(t *testing.T) {
	r := setUp(t)
	const key, timeout = "a desk", 600 * time.Millisecond
	for range 5 {
		r.alice.SendState(r.room, member, key, status("taken"))
		r.bob.WaitFor(r.room, isState("taken"), patience)
		start := time.Now()
		left := r.alice.StateFuture(r.room, member, key, status("left"), rig.Params{Timeout: timeout})
		<-time.After(time.Until(start.Add(timeout - 20*time.Millisecond)))
		sent := r.bob.SendState(r.room, member, key, status("taken again"))
		r.alice.WaitFor(r.room, func(e gjson.Result) bool { return e.Get("event_id").String() == sent }, patience)
		r.waitOver(t, left)
	}
	r.alice.Send(r.room, "m.room.message", message("last"))
	r.bob.WaitFor(r.room, rig.HasBody("last"), patience)
	onA, onB := r.alice.GetState(r.room, member, key).Raw, r.bob.GetState(r.room, member, key).Raw
	if onA != onB || onA == "" {
		t.Errorf("the servers differ: %s on A, %s on B", onA, onB)
	}
}

// TestOfflineReceiver: B is down when the future fires, and gets the event when it is back.
func TestOfflineReceiver(t *testing.T) {
	r := setUp(t)
	r.alice.SendFuture(r.room, "m.room.message", message("later"), rig.Params{Timeout: time.Second})
	r.b.Kill()
	r.alice.WaitFor(r.room, rig.HasBody("later"), patience)
	r.b.Start()
	r.alice.Send(r.room, "m.room.message", message("awake?"))
	r.bob.WaitFor(r.room, rig.HasBody("later"), 2*patience)
}

// waitOver polls alice's running futures until this one has ended. Then its tokens must be spent. (A refresh token
// would keep it alive.)
func (r *rooms) waitOver(t *testing.T, f rig.Future) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	running := func() bool {
		list := r.alice.Do(http.MethodGet, rig.Path("futures"), nil, nil).JSON
		return slices.ContainsFunc(list.Array(), func(e gjson.Result) bool {
			return e.Get("response.send_token").String() == f.Send
		})
	}
	for deadline := time.Now().Add(patience); running(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatal("the future lives on")
		}
	}
	for _, token := range []string{f.Refresh, f.Send, f.Cancel} {
		if got := r.a.UseToken(t, token).Status; got != http.StatusGone {
			t.Errorf("a token of a future that is over is answered with %d", got)
		}
	}
}
