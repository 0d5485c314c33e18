package roomserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
	rsapi "github.com/matrix-org/dendrite/roomserver/api"
	"github.com/matrix-org/dendrite/setup/jetstream"
	"github.com/matrix-org/dendrite/test"
	"github.com/nats-io/nats.go"
)

const patience = 20 * time.Second // how long to wait for something that must happen, on a slow machine

// futures is a futureserver that records its calls, one line each.
type futures struct {
	api.RoomserverAPI
	calls     chan string
	fail      atomic.Int32 // how many calls will fail
	block     atomic.Bool  // calls wait for their context
	unwatched atomic.Bool  // no room has state futures
	meanwhile func()       // called during each call; may be nil
	rooms     []string     // with state futures
}

func newFutures() *futures { return &futures{calls: make(chan string, 1000)} }

func (f *futures) HasStateFutures(string) bool { return !f.unwatched.Load() }

func (f *futures) told(ctx context.Context, line string) error {
	if f.meanwhile != nil {
		f.meanwhile()
	}
	f.calls <- line
	if f.block.Load() {
		<-ctx.Done()
		return ctx.Err()
	}
	if f.fail.Add(-1) >= 0 {
		return errors.New("the disk is full")
	}
	return nil
}

func (f *futures) PerformStateChange(ctx context.Context, roomID string, changed []api.StateKeyTuple) error {
	if changed == nil {
		return f.told(ctx, roomID+" all")
	}
	return f.told(ctx, fmt.Sprint(roomID, changed))
}

func (f *futures) PerformRoomPurge(ctx context.Context, roomID string) error {
	return f.told(ctx, roomID+" purged")
}

func (f *futures) QueryStateRooms(context.Context) ([]string, error) { return f.rooms, nil }

// want waits for exactly these calls, in this order.
func (f *futures) want(t *testing.T, lines ...string) {
	t.Helper()
	for _, line := range lines {
		select {
		case got := <-f.calls:
			if got != line {
				t.Fatalf("told %q, want %q", got, line)
			}
		case <-time.After(patience):
			t.Fatalf("not told %q", line)
		}
	}
}

// until skips calls until this one.
func (f *futures) until(t *testing.T, line string) {
	t.Helper()
	for deadline := time.After(patience); ; {
		select {
		case got := <-f.calls:
			if got == line {
				return
			}
		case <-deadline:
			t.Fatalf("not told %q", line)
		}
	}
}

func (f *futures) wantNone(t *testing.T) {
	t.Helper()
	if len(f.calls) > 0 {
		t.Errorf("told %q", <-f.calls)
	}
}

// eventually polls until ok.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); {
		if time.Now().After(deadline) {
			t.Fatal("it never came to this: " + what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

func (r *rig) consumer() *Consumer {
	r.Helper()
	c, err := NewConsumer(r.process, r.js, r.room)
	if err != nil {
		r.Fatal(err)
	}
	r.Cleanup(func() { r.stop(c) })
	return c
}

func (r *rig) stop(c *Consumer) {
	r.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := c.Stop(ctx); err != nil {
		r.Errorf("Stop: %v", err)
	}
}

// caughtUp waits until all messages published so far are acknowledged.
func (r *rig) caughtUp(c *Consumer) {
	r.Helper()
	eventually(r.T, "no lag", func() bool {
		lag, err := c.Lag(r.Context())
		return err == nil && lag == 0
	})
}

// publish puts a message of our own into the roomserver's output.
func (r *rig) publish(roomID string, kind rsapi.OutputType, data []byte) {
	r.Helper()
	msg := nats.NewMsg(r.cfg.Global.JetStream.Prefixed(jetstream.OutputRoomEvent))
	msg.Header.Set(jetstream.RoomEventType, string(kind))
	msg.Header.Set(jetstream.RoomID, roomID)
	msg.Data = data
	if _, err := r.js.PublishMsg(msg); err != nil {
		r.Fatal(err)
	}
}

func (r *rig) publishEvent(e *rsapi.OutputNewRoomEvent) {
	r.Helper()
	r.publish(e.Event.RoomID().String(), rsapi.OutputTypeNewRoomEvent, output(r.T, e))
}

func output(t *testing.T, e *rsapi.OutputNewRoomEvent) []byte {
	t.Helper()
	data, err := json.Marshal(rsapi.OutputEvent{Type: rsapi.OutputTypeNewRoomEvent, NewRoomEvent: e})
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestConsumer(t *testing.T) {
	withDatabases(t, func(r *rig) {
		alice := test.NewUser(r.T)
		roomID := r.create("10", alice)
		f := newFutures()
		c := r.consumer()
		// Nothing is missed before Start.
		topic := r.send(state(alice, roomID, "topic", "", `{"n":1}`))
		c.Start(f)
		f.until(r.T, roomID+"[{topic }]")
		// Only changes of current state count, and each is repeated until it is handled.
		hello := r.send(text(alice, roomID))
		f.fail.Store(1)
		r.send(state(alice, roomID, "name", "k", `{"n":1}`))
		f.want(r.T, roomID+"[{name k}]", roomID+"[{name k}]")
		r.caughtUp(c)
		// A message that changes other state events, and one that is delivered twice.
		merge := &rsapi.OutputNewRoomEvent{Event: r.event(roomID, hello), AddsStateEventIDs: []string{topic}}
		r.publishEvent(merge)
		r.publishEvent(merge)
		f.want(r.T, roomID+"[{topic }]", roomID+"[{topic }]")
		// An unreadable message may mean anything.
		r.publish(roomID, rsapi.OutputTypeNewRoomEvent, []byte("{"))
		f.want(r.T, roomID+" all")
		r.publish(roomID, rsapi.OutputTypeOldRoomEvent, []byte("{"))
		// Rooms without futures cost nothing, except for their purge.
		f.unwatched.Store(true)
		r.publish(roomID, rsapi.OutputTypeNewRoomEvent, []byte("{"))
		r.caughtUp(c)
		if err := r.rsAPI.PerformAdminPurgeRoom(r.Context(), roomID); err != nil {
			r.Fatal(err)
		}
		f.want(r.T, roomID+" purged")
		r.caughtUp(c)
		f.wantNone(r.T)
	})
}

func TestConsumerWaitsForTheCommit(t *testing.T) {
	withDatabases(t, func(r *rig) {
		alice := test.NewUser(r.T)
		roomID := r.create("10", alice)
		first := state(alice, roomID, "x", "", `{"n":1}`)
		r.send(first)
		c, f := r.consumer(), newFutures()
		c.Start(f)
		f.until(r.T, roomID+"[{x }]")
		event := &rsapi.OutputNewRoomEvent{Event: r.event(roomID, first.Event.ID)}
		set := func(sent bool) {
			r.exec("UPDATE roomserver_events SET sent_to_output = $1 WHERE event_id = $2", sent, first.Event.ID)
		}
		set(false)
		r.publishEvent(event)
		eventually(r.T, "delivered", func() bool {
			info, err := r.js.ConsumerInfo(c.stream(), c.durable())
			return err == nil && info.NumAckPending == 1
		})
		f.wantNone(r.T)
		ctx, cancel := context.WithTimeout(r.Context(), 10*time.Millisecond)
		defer cancel()
		if err := c.committed(ctx, first.Event.ID); err == nil {
			r.Error("waiting for too long is no error")
		}
		set(true)
		f.want(r.T, roomID+"[{x }]")
		if err := c.committed(r.Context(), "$purged"); err != nil {
			r.Errorf("waiting for an event that is gone: %v", err)
		}

		// After the last attempt the room is compared as it is.
		set(false)
		msg := &nats.Msg{Data: output(r.T, event), Header: nats.Header{}}
		msg.Header.Set(jetstream.RoomID, roomID)
		msg.Header.Set(jetstream.RoomEventType, string(rsapi.OutputTypeNewRoomEvent))
		if err := c.apply(ctx, msg, commitTries-1); err == nil {
			r.Error("the last try but one is no error")
		}
		if err := c.apply(r.Context(), msg, commitTries); err != nil {
			r.Errorf("the last try: %v", err)
		}
		f.want(r.T, roomID+"[{x }]")
		r.caughtUp(c)
		f.wantNone(r.T)
	})
}

// looking is a futureserver that reads the room at each change, as the real one does.
type looking struct {
	api.RoomserverAPI
	room *Room
	seen chan string
}

func (looking) HasStateFutures(string) bool { return true }

func (l looking) PerformStateChange(ctx context.Context, roomID string, changed []api.StateKeyTuple) error {
	now, err := l.room.Current(ctx, roomID, changed)
	if err == nil && changed[0].Type == "x" {
		l.seen <- now[0].ID
	}
	return err
}

func TestTheRoomShowsWhatTheConsumerTells(t *testing.T) {
	withDatabases(t, func(r *rig) {
		alice := test.NewUser(r.T)
		roomID := r.create("10", alice)
		l := looking{room: r.room, seen: make(chan string, 100)}
		r.consumer().Start(l)
		for i := range 20 {
			id := r.send(state(alice, roomID, "x", "", fmt.Sprintf(`{"n":%d}`, i)))
			select {
			case seen := <-l.seen:
				if seen != id {
					r.Fatalf("the room shows %q when told of %q", seen, id)
				}
			case <-time.After(patience):
				r.Fatal("not told")
			}
		}
	})
}

func TestChanges(t *testing.T) {
	r := newRig(t, test.DBTypeSQLite)
	alice := test.NewUser(t)
	roomID := r.create("10", alice)
	hello := r.event(roomID, r.send(text(alice, roomID)))
	old := r.send(state(alice, roomID, "x", "", `{"n":1}`))
	x := r.event(roomID, r.send(state(alice, roomID, "x", "", `{"n":2}`)))
	y := r.send(state(alice, roomID, "y", "k", `{}`))
	many := slices.Repeat([]string{y}, lookupMax+1)
	c := r.consumer()
	for _, o := range []struct {
		what string
		e    rsapi.OutputNewRoomEvent
		want string
	}{
		{"message", rsapi.OutputNewRoomEvent{Event: hello}, "[]"},
		{"state", rsapi.OutputNewRoomEvent{Event: x, AddsStateEventIDs: []string{x.EventID()}, RemovesStateEventIDs: []string{old}}, "[{x }]"},
		{"state that lost", rsapi.OutputNewRoomEvent{Event: x}, "[{x }]"},
		{"state that brought another back", rsapi.OutputNewRoomEvent{Event: x, AddsStateEventIDs: []string{x.EventID(), y}}, "[{x } {y k}]"},
		{"message that resets state", rsapi.OutputNewRoomEvent{Event: hello, RemovesStateEventIDs: []string{y}}, "[{y k}]"},
		{"state that resets other state", rsapi.OutputNewRoomEvent{Event: x, RemovesStateEventIDs: []string{old, y}}, "[{x } {x } {y k}]"},
		{"unknown event", rsapi.OutputNewRoomEvent{Event: hello, AddsStateEventIDs: []string{"$unknown"}}, "all"},
		{"too many", rsapi.OutputNewRoomEvent{Event: hello, AddsStateEventIDs: many}, "all"},
		{"rewrite", rsapi.OutputNewRoomEvent{Event: x, RewritesState: true}, "all"},
	} {
		event, ok := readNewEvent(output(t, &o.e))
		if !ok || event.id != o.e.Event.EventID() {
			t.Errorf("%s: not read, or not as %s: %v", o.what, o.e.Event.EventID(), event)
		}
		changed, err := c.changes(t.Context(), roomID, event)
		slices.SortFunc(changed, func(a, b api.StateKeyTuple) int { return strings.Compare(a.Type, b.Type) })
		got := fmt.Sprint(changed)
		if changed == nil {
			got = "all"
		}
		if err != nil || got != o.want {
			t.Errorf("%s: %s, %v; want %s", o.what, got, err, o.want)
		}
	}
	whole := string(output(t, &rsapi.OutputNewRoomEvent{Event: hello}))
	for _, broken := range []string{"", "{", "{}", whole[:len(whole)-1], whole + "x", `{"new_room_event":{"event":null}}`} {
		if event, ok := readNewEvent([]byte(broken)); ok {
			t.Errorf("%s is read as %v", broken, event)
		}
	}
}

// One at a time would cost JetStream as much as each of Dendrite's own consumers.
func TestConsumerTakesManyAtATime(t *testing.T) {
	r := newRig(t, test.DBTypeSQLite)
	f, c := newFutures(), r.consumer()
	requests, err := r.conn.SubscribeSync("$JS.API.CONSUMER.MSG.NEXT." + c.stream() + "." + c.durable())
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for i := range pullBatch {
		roomID := fmt.Sprintf("!%d:test", i)
		r.publish(roomID, rsapi.OutputTypePurgeRoom, nil)
		want = append(want, roomID+" purged")
	}
	c.Start(f)
	f.want(t, want...)
	r.caughtUp(c)
	if n, _, err := requests.Pending(); err != nil || n > pullBatch/4 { // two on a fast machine
		t.Errorf("JetStream was asked %d times for %d messages, %v", n, len(want), err)
	}
}

func TestConsumerComesBack(t *testing.T) {
	r := newRig(t, test.DBTypeSQLite)
	if err := r.output.Unsubscribe(); err != nil { // a new consumer must not find what others have left
		t.Fatal(err)
	}
	alice := test.NewUser(t)
	roomID := r.create("10", alice)
	f := newFutures()
	f.rooms = []string{roomID}
	c := r.consumer()
	c.Start(f)
	r.send(state(alice, roomID, "x", "", `{"n":1}`))
	f.until(t, roomID+"[{x }]")
	if err := r.js.DeleteConsumer(c.stream(), c.durable()); err != nil {
		t.Fatal(err)
	}
	f.want(t, roomID+" all") // nobody knows what was missed
	r.send(state(alice, roomID, "x", "", `{"n":2}`))
	f.want(t, roomID+"[{x }]")
	r.caughtUp(c)
	f.wantNone(t)
}

// The consumer recovers even if it was not waiting for messages when its durable consumer vanished, so that JetStream
// told it nothing.
func TestConsumerNoticesLate(t *testing.T) {
	r := newRig(t, test.DBTypeSQLite)
	if err := r.output.Unsubscribe(); err != nil {
		t.Fatal(err)
	}
	alice := test.NewUser(t)
	roomID := r.create("10", alice)
	f, c := newFutures(), r.consumer()
	f.rooms = []string{roomID}
	f.meanwhile = sync.OnceFunc(func() {
		if err := r.js.DeleteConsumer(c.stream(), c.durable()); err != nil {
			t.Error(err)
		}
	})
	c.Start(f)
	r.send(state(alice, roomID, "x", "", `{"n":1}`))
	f.until(t, roomID+" all")
}

func TestConsumerStops(t *testing.T) {
	r := newRig(t, test.DBTypeSQLite)
	alice := test.NewUser(t)
	roomID := r.create("10", alice)
	idle := r.consumer()
	r.stop(idle) // without Start
	f, c := newFutures(), r.consumer()
	c.Start(f)
	r.caughtUp(c)
	f.block.Store(true)
	r.send(state(alice, roomID, "x", "", `{"n":1}`))
	f.until(t, roomID+"[{x }]")
	r.stop(c) // during a call
	// An unacknowledged message is redelivered soon.
	f.block.Store(false)
	again := r.consumer()
	again.Start(f)
	f.want(t, roomID+"[{x }]")
	r.caughtUp(again)
}

// TestMayBeMembership: messages after which somebody may have joined or left.
func TestMayBeMembership(t *testing.T) {
	const event = `{"type":"new_room_event","new_room_event":{"event":{"_event_id":"$e",%s},%s}}`
	for _, c := range []struct {
		event, change string
		want          bool
	}{
		{`"type":"m.room.message"`, `"x":1`, false},
		{`"type":"m.room.member"`, `"x":1`, false}, // a message event of that type
		{`"type":"m.room.member","state_key":"@u:h"`, `"x":1`, true},
		{`"type":"m.room.name","state_key":""`, `"adds_state_event_ids":["$e"],"removes_state_event_ids":["$f"]`, false},
		{`"type":"m.room.name","state_key":""`, `"adds_state_event_ids":["$e","$g"]`, true}, // the state was resolved again
		{`"type":"m.room.name","state_key":""`, `"removes_state_event_ids":["$f","$g"]`, true},
		{`"type":"m.room.message"`, `"rewrites_state":true`, true},
	} {
		e, ok := readNewEvent(fmt.Appendf(nil, event, c.event, c.change))
		if !ok {
			t.Fatalf("cannot be read: %+v", c)
		}
		if got := e.mayBeMembership(ok); got != c.want {
			t.Errorf("%+v: %v", c, got)
		}
	}
	if e, ok := readNewEvent([]byte("x")); ok || !e.mayBeMembership(ok) {
		t.Error("what cannot be read may be anything")
	}
}
