package roomserver

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
	rsapi "github.com/matrix-org/dendrite/roomserver/api"
	"github.com/matrix-org/dendrite/test"
	"github.com/matrix-org/gomatrixserverlib"
)

// Several events of one room at once: built on one look at it, each on the one before it, and confirmed one by one.

// chain builds as many of the futures as possible at once, and stores the events in them. The others have no event.
func (r *rig) chain(fs ...*api.Future) []error {
	r.Helper()
	errs := make([]error, len(fs))
	for i, built := range r.room.Build(r.Context(), fs) {
		fs[i].Event, errs[i] = built.Event, built.Err
	}
	return errs
}

func built(fs []*api.Future) (events []*api.Future) {
	for _, f := range fs {
		if f.Event != nil {
			events = append(events, f)
		}
	}
	return events
}

// latest returns the room's forward extremities.
func (r *rig) latest(roomID string) []string {
	r.Helper()
	room, err := r.room.look(r.Context(), roomID, []gomatrixserverlib.StateKeyTuple{{EventType: "m.room.create"}})
	if err != nil {
		r.Fatal(err)
	}
	return room.LatestEvents
}

func leave(user *test.User, roomID, device string) *api.Future {
	return state(user, roomID, "org.matrix.msc3401.call.member", "_"+user.ID+"_"+device, `{}`)
}

func TestChain(t *testing.T) {
	withDatabases(t, func(r *rig) {
		alice, bob := test.NewUser(r.T), test.NewUser(r.T)
		roomID := r.create("10", alice, bob)
		r.levels(alice, roomID, "0")
		var fs []*api.Future
		for i := range 8 {
			user := []*test.User{alice, bob}[i%2]
			f := leave(user, roomID, fmt.Sprint(i))
			if i%3 == 0 {
				f = text(user, roomID)
			}
			f.TxnID, f.SessionID = fmt.Sprint(i), int64(i)
			fs = append(fs, f)
		}
		if err := errors.Join(r.chain(fs...)...); err != nil || len(built(fs)) != len(fs) {
			r.Fatalf("%d of %d events were built: %v", len(built(fs)), len(fs), err)
		}
		backwards := slices.Clone(fs) // nobody knows the order after a restart
		slices.Reverse(backwards)
		r.submit(backwards...)
		for i, f := range fs {
			r.verdict(f, api.Confirmed)
			e := r.event(roomID, f.Event.ID)
			if i > 0 && (e.PrevEventIDs()[0] != fs[i-1].Event.ID || len(e.PrevEventIDs()) != 1) {
				r.Errorf("event %d was built on %q, not on the one before it", i, e.PrevEventIDs())
			}
			if i > 0 && e.Depth() != r.event(roomID, fs[i-1].Event.ID).Depth()+1 {
				r.Errorf("event %d has the depth %d", i, e.Depth())
			}
		}
		if got := r.latest(roomID); !slices.Equal(got, []string{fs[7].Event.ID}) {
			r.Errorf("the room's latest events are %q", got)
		}
		r.submit(fs...) // submitting twice does no harm
		var order []string
		for _, out := range r.outputs() {
			order = append(order, out.Event.EventID())
		}
		if got := order[len(order)-len(fs):]; !slices.EqualFunc(got, fs, func(id string, f *api.Future) bool { return id == f.Event.ID }) {
			r.Errorf("the room has published %q last", got)
		}
	})
}

// The refusal of one event does not affect the others.
func TestChainPassesOverTheRefused(t *testing.T) {
	withDatabases(t, func(r *rig) {
		alice, bob, eve := test.NewUser(r.T), test.NewUser(r.T), test.NewUser(r.T)
		roomID := r.create("10", alice, bob)
		r.levels(alice, roomID, "0")
		stale := leave(bob, roomID, "phone")
		stale.Policy, stale.Base = api.CancelOnNewerState, "$older"
		fs := []*api.Future{
			text(alice, roomID), text(eve, roomID), message(bob, roomID, "x", `[]`), stale,
			state(bob, roomID, "x", alice.ID, `{}`), text(bob, roomID),
		}
		errs := r.chain(fs...)
		wantRefusal(r.T, "not in the room", errs[1], api.Forbidden)
		wantRefusal(r.T, "no object", errs[2], api.BadEvent)
		wantRefusal(r.T, "another user's state key", errs[4], api.Forbidden)
		if errs[0] != nil || !errors.Is(errs[3], api.ErrNewerState) || errs[5] != nil {
			r.Errorf("%v", errs)
		}
		r.submit(built(fs)...)
		r.verdict(fs[0], api.Confirmed)
		r.verdict(fs[5], api.Confirmed)
		if got := r.latest(roomID); !slices.Equal(got, []string{fs[5].Event.ID}) {
			r.Errorf("the room's latest events are %q", got)
		}
	})
}

// An event that depends on one that is not in the room yet must wait.
func TestChainEnds(t *testing.T) {
	withDatabases(t, func(r *rig) {
		alice, bob := test.NewUser(r.T), test.NewUser(r.T)
		roomID := r.create("10", alice, bob)
		r.levels(alice, roomID, "0")
		kick := state(alice, roomID, "m.room.member", bob.ID, `{"membership":"leave"}`)
		levels := state(alice, roomID, "m.room.power_levels", "", `{"users":{"`+alice.ID+`":100}}`)
		for what, c := range map[string]struct {
			fs   []*api.Future
			want int
		}{
			"before the same state again": {[]*api.Future{leave(alice, roomID, "a"), text(bob, roomID), leave(alice, roomID, "a"), text(bob, roomID)}, 2},
			"before a membership":         {[]*api.Future{text(bob, roomID), kick, text(bob, roomID)}, 1},
			"after a membership":          {[]*api.Future{kick, text(bob, roomID)}, 1},
			"before power levels":         {[]*api.Future{text(bob, roomID), levels, text(bob, roomID)}, 1},
			"after power levels":          {[]*api.Future{levels, text(bob, roomID)}, 1},
		} {
			if err := errors.Join(r.chain(c.fs...)...); err != nil || len(built(c.fs)) != c.want {
				r.Errorf("%s: %d events were built, want %d; %v", what, len(built(c.fs)), c.want, err)
			}
		}
	})
}

// A soft-failed event does not affect the events that were built on it. If it is a state event, they may carry it into
// the room's state; then it is confirmed.
func TestChainOverASoftFailure(t *testing.T) {
	withDatabases(t, func(r *rig) {
		alice, bob := test.NewUser(r.T), test.NewUser(r.T)
		roomID := r.create("10", alice, bob)
		r.levels(alice, roomID, "0")
		fs := []*api.Future{text(alice, roomID), leave(bob, roomID, "phone"), text(bob, roomID), text(alice, roomID)}
		r.chain(fs...)
		kick := r.send(state(alice, roomID, "m.room.member", bob.ID, `{"membership":"leave"}`))
		r.submit(fs...)
		r.verdict(fs[0], api.Confirmed)
		r.verdict(fs[2], api.Refused)
		r.verdict(fs[3], api.Confirmed)
		current, err := r.room.Current(r.Context(), roomID, []api.StateKeyTuple{
			{Type: fs[1].Type, StateKey: *fs[1].StateKey}, {Type: "m.room.member", StateKey: bob.ID},
		})
		if err != nil || current[1].ID != kick {
			r.Errorf("the state is %+v, %v", current, err)
		}
		if current[0].ID == fs[1].Event.ID {
			r.verdict(fs[1], api.Confirmed)
		} else {
			r.verdict(fs[1], api.Refused)
		}
		r.send(text(alice, roomID))
		if got := r.latest(roomID); len(got) != 1 {
			r.Errorf("the room's latest events are %q", got)
		}
	})
}

// An event whose predecessor is not there yet is neither confirmed nor refused, and enters the room after it.
func TestChainWithAGap(t *testing.T) {
	withDatabases(t, func(r *rig) {
		alice := test.NewUser(r.T)
		roomID := r.create("10", alice)
		fs := []*api.Future{text(alice, roomID), text(alice, roomID)}
		r.chain(fs...)
		if err := r.room.Submit(r.Context(), fs[1:]); err == nil {
			r.Error("an event was taken in before the one it was built on")
		}
		r.verdict(fs[1], api.Unknown)
		r.submit(fs...)
		r.verdict(fs[0], api.Confirmed)
		r.verdict(fs[1], api.Confirmed)
		if out := r.published(fs[1].Event.ID); len(out) != 1 {
			r.Errorf("the event was published %d times", len(out))
		}
	})
}

// outputs returns all new events that have been published so far.
func (r *rig) outputs() []*rsapi.OutputNewRoomEvent {
	return r.publishedIf(func(string) bool { return true })
}
