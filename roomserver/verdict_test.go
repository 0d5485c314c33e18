package roomserver

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
	rsapi "github.com/matrix-org/dendrite/roomserver/api"
	"github.com/matrix-org/dendrite/setup/jetstream"
	"github.com/matrix-org/dendrite/test"
)

func TestSoftFailure(t *testing.T) {
	withDatabases(t, func(r *rig) {
		alice, bob := test.NewUser(r.T), test.NewUser(r.T)
		roomID := r.create("10", alice, bob)
		f := r.build(text(bob, roomID))
		r.levels(alice, roomID, "50")
		r.verdict(f, api.Unknown) // never submitted
		r.submit(f)               // Dendrite answers nil
		if out := r.published(f.Event.ID); len(out) != 0 {
			r.Fatal("the event has not failed")
		}
		r.verdict(f, api.Refused)

		// After a restart the row alone does not suffice; one more submission does.
		r.forget()
		r.verdict(f, api.Unknown)
		r.submit(f)

		// The answer to a submission does not count while the room would accept the event, because Dendrite also
		// soft-fails events for faults of its own. The next submission is accepted.
		r.levels(alice, roomID, "0")
		r.verdict(f, api.Unknown)
		r.submit(f)
		r.verdict(f, api.Confirmed)
		if out := r.published(f.Event.ID); len(out) != 1 {
			r.Errorf("the event was published %d times", len(out))
		}
	})
}

func TestRejection(t *testing.T) {
	withDatabases(t, func(r *rig) {
		alice, bob := test.NewUser(r.T), test.NewUser(r.T)
		roomID := r.create("10", alice, bob)
		r.levels(alice, roomID, "50")
		f := text(bob, roomID)
		d, err := r.room.draft(f)
		if err != nil {
			r.Fatal(err)
		}
		room, err := r.room.snapshot(r.Context(), roomID, d.tuples())
		if err != nil {
			r.Fatal(err)
		}
		event, err := r.room.build(r.Context(), d, room) // signed without the auth check
		if err != nil {
			r.Fatal(err)
		}
		pdu, err := event.ToHeaderedJSON()
		if err != nil {
			r.Fatal(err)
		}
		f.Event = &api.Event{ID: event.EventID(), PDU: pdu}
		if err := r.room.Submit(r.Context(), []*api.Future{f}); err == nil {
			r.Fatal("the event was not rejected")
		}
		r.verdict(f, api.Refused)
		r.forget()
		r.verdict(f, api.Refused)
		r.levels(alice, roomID, "0")
		r.verdict(f, api.Unknown) // the rejection may have had a temporary cause
	})
}

func TestHalfProcessed(t *testing.T) {
	withDatabases(t, func(r *rig) {
		alice, bob := test.NewUser(r.T), test.NewUser(r.T)
		roomID := r.create("10", alice, bob)
		f := text(bob, roomID)
		r.send(f)
		r.published(f.Event.ID)
		// The state after a crash between storing and publishing.
		r.exec("UPDATE roomserver_events SET sent_to_output = $1 WHERE event_id = $2", false, f.Event.ID)
		r.forget()
		r.verdict(f, api.Unknown)
		r.levels(alice, roomID, "50")
		r.verdict(f, api.Unknown)
		r.levels(alice, roomID, "0")
		r.submit(f)
		r.verdict(f, api.Confirmed)
		if out := r.published(f.Event.ID); len(out) != 1 {
			r.Errorf("the event was published %d times", len(out))
		}
	})
}

// TestUnpublished makes JetStream refuse the output of an event that the roomserver has stored. Until consumers can
// learn of it, it is not in the room, whatever the database says. The same event can still be submitted again, even one
// that could not follow itself.
func TestUnpublished(t *testing.T) {
	withDatabases(t, func(r *rig) {
		alice, bob := test.NewUser(r.T), test.NewUser(r.T)
		roomID := r.create("10", alice, bob)
		for _, f := range []*api.Future{
			text(bob, roomID),
			state(alice, roomID, "com.example.seat", "", `{"taken":true}`),
			state(bob, roomID, "m.room.member", bob.ID, `{"membership":"leave"}`),
		} {
			r.build(f)
			r.refuseOutput(true)
			if err := r.room.Submit(r.Context(), []*api.Future{f}); err == nil {
				r.Fatalf("%s: the event was published", f.Type)
			}
			r.verdict(f, api.Unknown)
			r.refuseOutput(false)
			r.submit(f)
			r.verdict(f, api.Confirmed)
			if out := r.published(f.Event.ID); len(out) != 1 {
				r.Errorf("%s: the event was published %d times", f.Type, len(out))
			}
		}
	})
}

// refuseOutput makes JetStream refuse or accept what the roomserver publishes.
func (r *rig) refuseOutput(refuse bool) {
	r.Helper()
	info, err := r.js.StreamInfo(r.cfg.Global.JetStream.Prefixed(jetstream.OutputRoomEvent))
	if err != nil {
		r.Fatal(err)
	}
	info.Config.MaxMsgSize = -1
	if refuse {
		info.Config.MaxMsgSize = 1
	}
	if _, err := r.js.UpdateStream(&info.Config); err != nil {
		r.Fatal(err)
	}
}

func TestPurgedRoom(t *testing.T) {
	withDatabases(t, func(r *rig) {
		alice := test.NewUser(r.T)
		roomID := r.create("10", alice)
		f := r.build(text(alice, roomID))
		sent := text(alice, roomID)
		r.send(sent)
		if err := r.rsAPI.PerformAdminPurgeRoom(r.Context(), roomID); err != nil {
			r.Fatal(err)
		}
		if err := r.room.Submit(r.Context(), []*api.Future{f}); err == nil {
			r.Error("a room that is gone took an event")
		}
		r.verdict(f, api.Refused)
		r.verdict(sent, api.Refused)
		_, err := buildOne(r.Context(), r.room, text(alice, roomID))
		wantRefusal(r.T, "Build", err, api.RoomNotFound)
		_, err = r.room.Admit(r.Context(), text(alice, roomID))
		wantRefusal(r.T, "Admit", err, api.RoomNotFound)
	})
}

// deaf is a roomserver that never answers.
type deaf struct{ rsapi.RoomserverInternalAPI }

func (deaf) InputRoomEvents(ctx context.Context, _ *rsapi.InputRoomEventsRequest, res *rsapi.InputRoomEventsResponse) {
	<-ctx.Done()
	res.ErrMsg = ctx.Err().Error()
}

func TestSubmitIsBounded(t *testing.T) {
	r := newRig(t, test.DBTypeSQLite)
	alice := test.NewUser(t)
	f := r.build(text(alice, r.create("10", alice)))
	synctest.Test(t, func(t *testing.T) {
		room, start := &Room{cfg: r.cfg, rsAPI: deaf{r.rsAPI}, db: r.db, gates: new(Gates)}, time.Now()
		if err := room.Submit(context.Background(), []*api.Future{f}); err == nil {
			t.Error("no error")
		}
		if waited := time.Since(start); waited != submitLimit {
			t.Errorf("waited %v", waited)
		}
		if room.answered.has(f.Event.ID) {
			t.Error("a time-out counts as an answer")
		}
	})
	f.UserID = "@alice:elsewhere"
	wantRefusal(t, "another server's user", r.room.Submit(t.Context(), []*api.Future{f}), api.Forbidden)
}

func TestAnsweredIsBounded(t *testing.T) {
	var a answered
	for i := range maxAnswered + 10 {
		a.add(fmt.Sprint(i))
		if !a.has(fmt.Sprint(i)) {
			t.Fatalf("%d is not remembered", i)
		}
	}
	if len(a.ids) != maxAnswered {
		t.Errorf("%d IDs are remembered", len(a.ids))
	}
	last := fmt.Sprint(maxAnswered + 9)
	if a.drop(last); a.has(last) {
		t.Error("not dropped")
	}
}
