package internal

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
)

// Futures of one room that are due at the same time are sent together.

// due creates n futures of one room, each due a millisecond after the one before.
func (b *bench) due(n int) (fs []*api.Future) {
	b.Helper()
	start := time.Now()
	for i := range n {
		fs = append(fs, b.create(state(10*time.Second+time.Duration(i)*time.Millisecond-time.Since(start), fmt.Sprint(i))))
	}
	return fs
}

// inOrder fails unless the rooms have exactly the events of these futures, in this order.
func (b *bench) inOrder(fs []*api.Future) {
	b.Helper()
	events := b.rooms.all()
	for i, f := range fs {
		if i >= len(events) || events[i].nid != f.NID {
			b.Fatalf("%d events, and not that of future %d in place %d", len(events), f.NID, i)
		}
	}
	if len(events) != len(fs) {
		b.Errorf("%d events of %d futures", len(events), len(fs))
	}
}

func TestTogether(t *testing.T) {
	inBubble(t, func(b *bench) {
		fs := b.due(60)
		b.rooms.setMode(slow) // so that the others collect while the first are in flight
		b.after(time.Minute, len(fs))
		b.inOrder(fs)
		// The chains are cut now and then; without chains there would be 60 submissions.
		if b.rooms.submissions > 16 {
			b.Errorf("%d submissions of %d events", b.rooms.submissions, len(fs))
		}
	})
}

// Until the claim a future is alive. If it ends, the events that were built on its event are built again.
func TestOneOfManyGetsAway(t *testing.T) {
	inBubble(t, func(b *bench) {
		fs := b.due(8)
		cancelled := fs[5]
		b.rooms.setMode(slow)
		for b.rooms.timesAsked() < 2 { // the first goes alone; then the others have collected
			time.Sleep(time.Millisecond)
		}
		b.use(cancelled, api.CancelToken, nil)
		b.after(30*time.Second, len(fs)-1)
		for _, e := range b.rooms.all() {
			if e.nid == cancelled.NID {
				b.Error("a cancelled future has fired")
			}
		}
		if n := b.QueryFutureCounts(b.Context()); n != (api.Counts{}) {
			b.Errorf("%+v", n)
		}
	})
}

// After a crash nobody remembers in which order events were built on each other.
func TestManyAreSentAfterACrash(t *testing.T) {
	for _, step := range []string{"built", "claimed", "submitted", "proved"} {
		t.Run(step, func(t *testing.T) {
			inBubble(t, func(b *bench) {
				freezer := newFreezer()
				if err := b.Stop(b.Context()); err != nil {
					b.Fatal(err)
				}
				b.startStepping(testConfig(), freezer.step)
				fs := b.due(30)
				freezer.arm(step)
				<-freezer.frozen
				b.crash(freezer)
				b.start(testConfig())
				b.after(time.Minute, len(fs))
				sent := map[api.NID]bool{}
				for _, e := range b.rooms.all() {
					sent[e.nid] = true
				}
				if len(sent) != len(fs) {
					b.Errorf("%d of %d futures have fired", len(sent), len(fs))
				}
			})
		})
	}
}

// Events that were built on an event that fails again and again wait for it; later ones do not.
func TestManyWaitForAStuckEvent(t *testing.T) {
	inBubble(t, func(b *bench) {
		fs := b.due(3)
		b.rooms.setMode(down)
		b.rooms.setUnclear(fs[0].NID)
		time.Sleep(11 * time.Second)
		b.rooms.setMode(working)
		time.Sleep(5 * time.Minute)
		b.create(message(time.Second))
		b.after(5*time.Minute, 1)
		b.rooms.setUnclear(0)
		b.after(time.Hour, 4)
	})
}

// Several requests may send the same future while its room is busy. It is sent once, and later events do not depend on
// an event that does not exist.
func TestOneFutureTwiceInATurn(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.rooms.setMode(slow)
		busy, wanted, other := b.create(message(time.Hour)), b.create(message(time.Hour)), b.create(message(time.Hour))
		answers := make(chan error, 5)
		for _, f := range []*api.Future{busy, wanted, wanted, wanted, other} {
			go func() { answers <- b.PerformTokenAction(b.Context(), f.Token(api.SendToken)) }()
			synctest.Wait()
		}
		b.after(10*time.Second, 3)
		b.inOrder([]*api.Future{busy, wanted, other})
		gone := 0
		for range 5 {
			if err := <-answers; errors.Is(err, api.ErrGone) {
				gone++
			} else if err != nil {
				b.Error(err)
			}
		}
		if gone != 2 {
			b.Errorf("%d were told that it is gone, want 2", gone)
		}
	})
}
