package internal

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
)

// Delayed events.

func delayed(timeout time.Duration) *api.Future {
	f := message(timeout)
	f.Policy = api.Managed
	return f
}

// refusesStrangers: the ID of a delayed event is neither a token nor a group, and unknown to other users.
func (b *bench) refusesStrangers(f *api.Future) {
	b.Helper()
	for _, err := range []error{
		b.PerformDelayedEventAction(b.Context(), f.GroupID, "@eve:test", api.Cancel),
		b.PerformDelayedEventAction(b.Context(), "unknown", "", api.Cancel),
		b.PerformTokenAction(b.Context(), f.Token(api.GroupToken)),
	} {
		if !errors.Is(err, api.ErrGone) {
			b.Error(err)
		}
	}
	if _, err := b.PerformFutureCreation(b.Context(), inGroup(message(0), f.GroupID)); !errors.Is(err, api.ErrUnknownGroup) {
		b.Errorf("a delayed event was taken for a group: %v", err)
	}
}

// Generation 2, 5.2: the result of each action at each point of a delayed event's life.
func TestDelayedEvents(t *testing.T) {
	inBubble(t, func(b *bench) {
		act := func(f *api.Future, a api.Action) api.State {
			b.Helper()
			err := b.PerformDelayedEventAction(b.Context(), f.GroupID, f.UserID, a)
			if over, ok := errors.AsType[*api.FinishedError](err); ok {
				return over.State
			}
			if err != nil {
				b.Fatal(err)
			}
			return 0
		}
		sent, cancelled, failed := b.create(delayed(time.Second)), b.create(delayed(time.Minute)), b.create(delayed(2*time.Minute))
		restarted := b.create(delayed(10 * time.Minute))
		if act(cancelled, api.Cancel) != 0 {
			b.Error("cancelling failed")
		}
		if act(restarted, api.Restart) != 0 {
			b.Error("restarting failed")
		}
		b.after(time.Second, 1)
		b.rooms.setMode(refusing)
		b.after(3*time.Minute, 1)
		b.rooms.setMode(working)
		check := func() {
			b.Helper()
			for _, a := range []api.Action{api.Send, api.Cancel, api.Restart} {
				for f, want := range map[*api.Future]api.State{sent: api.Sent, cancelled: api.Cancelled, failed: api.Failed} {
					if got := act(f, a); got != want {
						b.Errorf("action %d on a %v one: %v", a, want, got)
					}
				}
			}
		}
		check()
		b.refusesStrangers(restarted)
		found, err := b.QueryDelayedEvent(b.Context(), failed.GroupID, failed.UserID)
		if err != nil || found.Failure == nil || found.Failure.Kind != api.Forbidden || found.Deadline != failed.Deadline {
			b.Errorf("%+v, %v", found, err)
		}
		list, err := b.QueryDelayedEvents(b.Context(), api.DelayedFilter{UserID: "@alice:test"})
		if err != nil || len(list) != 1 || list[0].NID != restarted.NID {
			b.Errorf("%v, %v", list, err)
		}
		if gen0, err := b.QueryFuturesByUser(b.Context(), "@alice:test"); err != nil || len(gen0) != 0 {
			b.Errorf("the other dialect lists it: %v, %v", gen0, err)
		}
		list, err = b.QueryDelayedEvents(b.Context(), api.DelayedFilter{
			UserID: "@alice:test", States: []api.State{api.Sent, api.Cancelled, api.Failed}, Backwards: true, Limit: 2,
		})
		if err != nil || len(list) != 2 || list[0].NID != failed.NID || list[1].NID != cancelled.NID {
			b.Errorf("%v, %v", list, err)
		}
		b.die()
		b.start(testConfig())
		check()
		if act(restarted, api.Send) != 0 || act(restarted, api.Send) != api.Sent {
			b.Error("sending failed")
		}
		b.after(time.Hour, 2)
	})
}

// The error for too many delayed events names delayed events.
func TestTooManyDelayedEvents(t *testing.T) {
	inBubble(t, func(b *bench) {
		for range testConfig().Delayed.MaxPerUser {
			b.create(delayed(time.Hour))
		}
		_, err := b.PerformFutureCreation(b.Context(), delayed(time.Hour))
		if _, ok := errors.AsType[*api.LimitError](err); !ok || !strings.Contains(err.Error(), "delayed events") {
			t.Errorf("one too many: %v", err)
		}
	})
}

// A client sees the same deadline before and after a clean stop, with any fraction of a millisecond.
func TestAStopMovesNoDeadline(t *testing.T) {
	for _, fraction := range []time.Duration{0, 1, 300 * time.Microsecond, 999 * time.Microsecond} {
		inBubble(t, func(b *bench) {
			time.Sleep(fraction)
			b.create(delayed(time.Hour))
			refreshed := b.create(delayed(time.Hour))
			if err := b.PerformDelayedEventAction(b.Context(), refreshed.GroupID, refreshed.UserID, api.Restart); err != nil {
				b.Fatal(err)
			}
			deadlines := func() (ds []int64) {
				fs, err := b.QueryFutures(b.Context(), api.Filter{UserID: refreshed.UserID})
				if err != nil || len(fs) != 2 {
					b.Fatalf("%d futures, %v", len(fs), err)
				}
				for _, f := range fs {
					ds = append(ds, f.Deadline)
				}
				return ds
			}
			before := deadlines()
			if err := b.Stop(b.Context()); err != nil {
				b.Fatal(err)
			}
			b.start(testConfig())
			if after := deadlines(); !slices.Equal(before, after) {
				b.Errorf("%s into a millisecond: the deadlines were %d and are %d", fraction, before, after)
			}
		})
	}
}
