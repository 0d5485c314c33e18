package internal

import (
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
	"github.com/matrix-org/dendrite/futures/futureserver/storage"
)

// An event that is not in its room is overdue from its deadline on, wherever it is: being built, waiting for another
// attempt, behind another event of its room, or set aside after many failures.
func TestOverdue(t *testing.T) {
	inBubble(t, func(b *bench) {
		overdue := func(least, most time.Duration) {
			b.Helper()
			if v := b.Vitals(); v.Overdue < least || v.Overdue > most {
				b.Errorf("overdue for %s, want %s to %s", v.Overdue, least, most)
			}
		}
		b.create(message(time.Hour))
		overdue(0, 0)
		b.create(message(time.Second))
		b.create(message(2 * time.Second))
		b.rooms.setMode(down)
		time.Sleep(time.Second)
		for range 120 { // with eight failures and more
			time.Sleep(time.Second)
		}
		overdue(119*time.Second, 121*time.Second)
		b.rooms.setMode(working)
		b.after(time.Minute, 2)
		overdue(0, 0)
	})
}

// After a restart events wait since the start: the downtime does not count.
func TestOverdueAfterDowntime(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.create(message(time.Second))
		if err := b.Stop(b.Context()); err != nil {
			b.Fatal(err)
		}
		time.Sleep(time.Hour)
		b.rooms.setMode(down)
		b.start(testConfig())
		time.Sleep(10 * time.Second)
		if v := b.Vitals(); v.Overdue > 10*time.Second || v.Overdue < 9*time.Second {
			b.Errorf("overdue for %s, 10 s after a start", v.Overdue)
		}
	})
}

func TestStalled(t *testing.T) {
	inBubble(t, func(b *bench) {
		time.Sleep(10 * time.Second)
		if v := b.Vitals(); v.Stalled > sureFor {
			b.Errorf("at rest the database has not answered for %s", v.Stalled)
		}
		var broken atomic.Bool
		b.db = &countingDatabase{Database: b.db, fail: func(*storage.Batch) error {
			if broken.Load() {
				return errors.New("broken")
			}
			return nil
		}}
		f := b.create(message(time.Hour))
		broken.Store(true)
		go b.PerformTokenAction(b.Context(), f.Token(api.CancelToken)) //nolint:errcheck // it waits for the database
		time.Sleep(10 * time.Second)
		if v := b.Vitals(); v.Stalled < 9*time.Second {
			b.Errorf("10 s after the database broke it is said to be away for %s", v.Stalled)
		}
		broken.Store(false)
		time.Sleep(10 * time.Second)
		if v := b.Vitals(); v.Stalled > sureFor {
			b.Errorf("the database is back, but is said to be away for %s", v.Stalled)
		}
	})
}
