package outage_test

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/futures/test/rig"
)

// beat is a client in a call: it refreshes a future ten times a second.
type beat struct {
	client rig.Client
	token  string

	mu               sync.Mutex
	answered, missed int
	last             time.Time     // time of the last answer
	silence          time.Duration // longest time between two answers
}

const beatTime = 2 * time.Second // for an answer

func newBeat(t testing.TB, s *rig.Server, u *rig.User, room string) *beat {
	t.Helper()
	f := u.SendFuture(room, "m.room.message", map[string]any{"body": "the call is over"}, rig.Params{Timeout: time.Hour})
	b := &beat{client: s.Client(), token: f.Refresh, last: time.Now()}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		for ; ctx.Err() == nil; pause(ctx) {
			b.once(ctx)
		}
	})
	t.Cleanup(func() {
		cancel()
		running.Wait()
	})
	return b
}

func (b *beat) once(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, beatTime)
	defer cancel()
	r, err := b.client.Do(ctx, http.MethodPost, rig.Path("futures", b.token), nil, nil)
	b.mu.Lock()
	defer b.mu.Unlock()
	if err != nil || r.Status != http.StatusOK {
		b.missed++
		return
	}
	b.answered++
	b.silence = max(b.silence, time.Since(b.last))
	b.last = time.Now()
}

func (b *beat) count() (answered, missed int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.answered, b.missed
}

func (b *beat) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return fmt.Sprintf("heartbeats: %d answered, %d not, the longest silence %s", b.answered, b.missed, b.silence.Round(time.Millisecond))
}
