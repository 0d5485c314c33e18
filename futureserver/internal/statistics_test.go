package internal

import (
	"slices"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
)

func TestStatistics(t *testing.T) {
	inBubble(t, func(b *bench) {
		kept := b.create(message(10 * time.Second))
		b.use(kept, api.RefreshToken, nil)
		b.use(b.create(message(time.Hour)), api.CancelToken, nil)
		b.create(message(5 * time.Second))
		time.Sleep(6 * time.Second)
		b.use(kept, api.RefreshToken, nil)
		got := b.QueryStatistics(b.Context())
		if got.Scheduled != 3 || got.Refreshed != 2 || got.Ended[api.Sent] != 1 || got.Ended[api.Cancelled] != 1 || got.Ended[api.Failed] != 0 {
			t.Errorf("got %+v", got)
		}
		if len(got.Failed) != 5 {
			t.Errorf("there are %d reasons, want 5", len(got.Failed))
		}
		h := got.Lateness
		if len(h.Counts) != len(h.Bounds)+1 || h.Bounds[0] != time.Millisecond || !slices.IsSorted(h.Bounds) || h.Counts[0] != 1 || total(h) != 1 {
			t.Errorf("of the event that was sent in time, got %+v", h)
		}
		if total(got.Delivery) != 1 {
			t.Errorf("its delivery: %+v", got.Delivery)
		}
	})
}

func total(h api.Histogram) (n uint64) {
	for _, c := range h.Counts {
		n += c
	}
	return n
}
