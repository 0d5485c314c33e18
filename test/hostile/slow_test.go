package hostile_test

import (
	"flag"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"github.com/matrix-org/dendrite/futures/test/rig"
)

var long = flag.Bool("long", false, "also runs what takes minutes")

// promised is how long a room may delay its own users, whatever another server does.
const promised = 5 * time.Second

// A stall is a way to make our server wait: the request that the other server does not answer, and an event that makes
// our server send it.
type stall struct {
	request string
	event   func(c *scene, n int) rig.FakeEvent
}

// message is an event with the given changes.
func (c *scene) message(n int, changes map[string]any) rig.FakeEvent {
	d := c.room.Fork().Draft(c.bob, "m.room.message", rig.Text(fmt.Sprintf("hangs %d", n)))
	for field, value := range changes {
		d = d.With(field, value)
	}
	return c.f.Sign(c.room.Version, d)
}

// unknown is the ID of an event that does not exist.
func unknown(n int) string { return fmt.Sprintf("$%043d", n) }

func afterUnknown(c *scene, n int) rig.FakeEvent {
	return c.message(n, map[string]any{"prev_events": []string{unknown(n)}})
}

// afterGap is an event with one predecessor that the other server has, and another before that which it does not have.
func afterGap(c *scene, n int) rig.FakeEvent {
	hidden := c.message(n, map[string]any{"prev_events": []string{unknown(n)}})
	e := c.message(n, map[string]any{"prev_events": []string{hidden.ID}})
	c.room.Learn(hidden, e)
	return e
}

func stateIDs(n int) map[string]any {
	ids := []string{}
	for i := range n {
		ids = append(ids, unknown(1000+i))
	}
	return map[string]any{"pdu_ids": ids, "auth_chain_ids": []string{}}
}

var stalls = map[string]stall{
	"missing events": {"/get_missing_events/", afterUnknown},
	"state IDs":      {"/state_ids/", afterGap},
	"a whole state": {"/state/", func(c *scene, n int) rig.FakeEvent {
		c.f.AnswerWith("/state_ids/", http.StatusOK, stateIDs(20))
		return afterGap(c, n)
	}},
	"an event": {"/event/", func(c *scene, n int) rig.FakeEvent {
		c.f.AnswerWith("/state_ids/", http.StatusOK, stateIDs(3))
		return afterGap(c, n)
	}},
	"auth events": {"/event_auth/", func(c *scene, n int) rig.FakeEvent {
		e := c.message(n, nil)
		auth := append(c.room.Draft(c.bob, "m.room.message", nil)["auth_events"].([]string), unknown(n))
		return c.message(n, map[string]any{"auth_events": auth, "content": rig.Text(e.ID)})
	}},
}

// TestServerThatDoesNotAnswer: a server sends events whose history is unknown here, and does not answer when asked for
// it. Nobody else has to wait.
func TestServerThatDoesNotAnswer(t *testing.T) {
	for name, stall := range stalls {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newScene(t, "10", nil)
			c.hang(stall.request)
			var pdus []any
			for n := range 50 {
				pdus = append(pdus, stall.event(c, n))
			}
			c.f.MustSend(c.s, pdus...)
			c.f.WaitRequest(stall.request, patience, nil)
			c.roomIsQuick()
			noPanic(t, c.s)
		})
	}
}

// hang makes the other server answer a kind of request only when the test is over.
func (c *scene) hang(request string) {
	over := make(chan struct{})
	c.Cleanup(func() { close(over) })
	c.f.Answer(request, func(rig.FakeRequest) (int, any) {
		<-over
		return http.StatusNotFound, map[string]any{}
	})
}

// roomIsQuick checks that events of local users, and a leave that is due, are in the room in time.
func (c *scene) roomIsQuick() {
	c.Helper()
	start := time.Now()
	c.alice.StateFuture(c.room.ID, "com.example.due", "", rig.Text("due"), rig.Params{Timeout: time.Second})
	c.alice.Send(c.room.ID, "m.room.message", rig.Text("at once"))
	if took := time.Since(start); took > promised {
		c.Errorf("a message was in the room after %s", took)
	}
	c.alice.WaitFor(c.room.ID, func(e gjson.Result) bool { return e.Get("type").Str == "com.example.due" }, time.Minute)
	if took := time.Since(start); took > time.Second+promised {
		c.Errorf("a future that was due after 1s was in the room after %s", took)
	}
}

// TestSlowServer: a server that takes two seconds for each answer is slow, but its events arrive.
func TestSlowServer(t *testing.T) {
	t.Parallel()
	c := newScene(t, "10", nil)
	c.f.Answer("/federation/v1/", func(r rig.FakeRequest) (int, any) {
		if !strings.Contains(r.Path, "/send/") {
			time.Sleep(2 * time.Second)
		}
		return c.f.Standard(r)
	})
	for n := range 5 { // fits into one answer
		c.room.Message(c.bob, fmt.Sprint("not sent ", n))
	}
	small := c.room.Message(c.bob, "after a small gap")
	c.f.MustSend(c.s, small)
	c.roomIsQuick()
	c.sees("an event after a small gap", small)
	for n := range 30 { // does not
		c.room.Message(c.bob, fmt.Sprint("not sent either ", n))
	}
	large, next := c.room.Message(c.bob, "after a large gap"), c.room.Message(c.bob, "next")
	c.f.MustSend(c.s, large, next)
	c.roomIsQuick()
	c.sees("an event after a large gap", large)
	c.sees("the one that follows", next)
}

// TestServerBesideOneThatDoesNotAnswer: the events of one server do not wait for those of another.
func TestServerBesideOneThatDoesNotAnswer(t *testing.T) {
	t.Parallel()
	c := newScene(t, "10", nil)
	other := rig.NewFake(t)
	carol := other.User("carol")
	room := other.Join(c.s, c.room.ID, carol, "10")
	c.hang("/get_missing_events/")
	c.f.MustSend(c.s, afterUnknown(c, 1), afterUnknown(c, 2))
	c.f.WaitRequest("/get_missing_events/", patience, nil)
	room.Message(carol, "not sent")
	e := room.Message(carol, "after a gap")
	other.MustSend(c.s, e)
	c.sees("another server's event", e)
	c.roomIsQuick()
}

// TestStateDuringAGap: local users change state while another server is asked for the predecessors of its event. Both
// their changes and the event's state stay: the two are resolved like other branches of a room.
func TestStateDuringAGap(t *testing.T) {
	t.Parallel()
	c := newScene(t, "10", nil)
	branch := c.room.Fork()
	here, there := c.room.Message(c.bob, "not sent"), branch.Message(c.bob, "not sent, and not told")
	renamed := c.room.Add(c.room.Draft(c.bob, "m.room.member", map[string]any{"membership": "join", "displayname": "Bob"}, c.bob).
		With("prev_events", []string{here.ID, there.ID}))
	asked, answer := make(chan struct{}, 1), make(chan struct{})
	c.f.Answer("/get_missing_events/", func(rig.FakeRequest) (int, any) {
		asked <- struct{}{}
		<-answer
		return http.StatusOK, map[string]any{"events": []any{here}} // so that the state must be fetched
	})
	c.f.MustSend(c.s, renamed)
	<-asked
	c.alice.SendState(c.room.ID, "m.room.topic", "", map[string]any{"topic": "newer"})
	close(answer)
	c.sees("the new name", renamed)
	if len(c.f.Requests("/state_ids/")) == 0 {
		t.Error("the state was not fetched")
	}
	if got := c.alice.GetState(c.room.ID, "m.room.topic", "").Get("topic").Str; got != "newer" {
		t.Errorf("the topic is %q", got)
	}
	if got := c.alice.GetState(c.room.ID, "m.room.member", c.bob).Get("displayname").Str; got != "Bob" {
		t.Errorf("Bob's name is %q", got)
	}
	c.f.AnswerWith("/get_missing_events/", http.StatusNotFound, map[string]any{})
	c.works()
}

// TestServerThatAnswersAgain: a server that did not answer is not asked for a minute, so that its events do not pile up
// here. After that it is asked again.
func TestServerThatAnswersAgain(t *testing.T) {
	if !*long {
		t.Skip("takes two minutes; -long")
	}
	t.Parallel()
	c := newScene(t, "10", nil)
	answer := make(chan struct{})
	c.f.Answer("/get_missing_events/", func(r rig.FakeRequest) (int, any) {
		<-answer
		return c.f.Standard(r)
	})
	var pdus []any
	for n := range 50 {
		pdus = append(pdus, afterUnknown(c, n))
	}
	c.f.MustSend(c.s, pdus...)
	const refusal = "has not said it in time before"
	for end := time.Now().Add(time.Minute); strings.Count(c.s.Log(), refusal) < 49; time.Sleep(100 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d of 49 events were turned away", strings.Count(c.s.Log(), refusal))
		}
	}
	if n := len(c.f.Requests("/get_missing_events/")); n > 2 {
		t.Errorf("the server was asked %d times", n)
	}
	close(answer)
	time.Sleep(time.Minute) // the minute
	c.room.Message(c.bob, "not sent")
	e := c.room.Message(c.bob, "after a gap")
	c.f.MustSend(c.s, e)
	c.sees("an event after the quiet time", e)
}
