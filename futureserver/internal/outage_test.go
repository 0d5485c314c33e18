package internal

import (
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
	"github.com/matrix-org/dendrite/futures/futureserver/storage"
)

// After an outage of any length everything goes on soon.
func TestSoonAfterAnOutage(t *testing.T) {
	for _, outage := range []time.Duration{time.Second, 10 * time.Second, time.Minute} {
		soon := 3*time.Second + outage/5
		t.Run(outage.String()+" of the rooms", func(t *testing.T) {
			inBubble(t, func(b *bench) {
				b.create(message(time.Second))
				b.rooms.setMode(down)
				b.after(time.Second+outage, 0)
				b.rooms.setMode(working)
				b.after(soon, 1)
			})
		})
		t.Run(outage.String()+" of the database", func(t *testing.T) {
			inBubble(t, func(b *bench) {
				var broken atomic.Bool
				b.db = &countingDatabase{Database: b.db, fail: func(*storage.Batch) error {
					if broken.Load() {
						return errors.New("broken")
					}
					return nil
				}}
				b.create(message(time.Second))
				broken.Store(true)
				b.after(time.Second+outage, 0)
				broken.Store(false)
				b.after(2*time.Second, 1)
			})
		})
	}
}

// A request with a send token is answered even if the room does not answer.
func TestSendTokenIsAnsweredDuringAnOutage(t *testing.T) {
	inBubble(t, func(b *bench) {
		f := b.create(message(time.Hour))
		b.rooms.setUnclear(f.NID)
		start := time.Now()
		b.use(f, api.SendToken, api.ErrOverloaded)
		if waited := time.Since(start); waited > patience {
			b.Errorf("answered after %s", waited)
		}
		b.rooms.setUnclear(0)
		b.after(time.Minute, 1)
	})
}
