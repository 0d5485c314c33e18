package internal

import (
	"context"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
	"github.com/matrix-org/dendrite/futures/futureserver/storage"
)

// lateDatabase runs a function after it has read futures and before the caller gets them.
type lateDatabase struct {
	storage.Database
	meanwhile func()
}

func (d *lateDatabase) Select(ctx context.Context, f api.Filter) ([]*api.Future, error) {
	rows, err := d.Database.Select(ctx, f)
	d.meanwhile()
	return rows, err
}

// An administrator who lists a future while it ends sees its final state.
func TestListedWhileItEnds(t *testing.T) {
	inBubble(t, func(b *bench) {
		f := b.create(message(time.Hour))
		b.db = &lateDatabase{b.db, func() { b.use(f, api.CancelToken, nil) }}
		fs, err := b.QueryFutures(b.Context(), api.Filter{NID: f.NID, States: api.Live | api.Finished})
		if err != nil || len(fs) != 1 || fs[0].State != api.Cancelled {
			t.Errorf("found %v, %v", fs, err)
		}
	})
}

// The pages of a list have each future once, in both directions.
func TestPages(t *testing.T) {
	inBubble(t, func(b *bench) {
		for i := range 9 {
			f := b.create(message(time.Hour))
			if i%2 == 0 {
				b.use(f, api.CancelToken, nil)
			}
		}
		for _, c := range []struct {
			states    api.States
			backwards bool
			want      int
		}{{api.Live, false, 4}, {api.Finished, true, 5}, {api.Live | api.Finished, false, 9}, {api.Live | api.Finished, true, 9}} {
			filter := api.Filter{States: c.states, Backwards: c.backwards, Limit: 2}
			seen := make(map[api.NID]bool)
			for {
				fs, err := b.QueryFutures(b.Context(), filter)
				if err != nil {
					t.Fatal(err)
				}
				for _, f := range fs {
					if seen[f.NID] || !c.states.Has(f.State) {
						t.Errorf("%+v: %d is there twice, or is %s", c, f.NID, f.State)
					}
					seen[f.NID] = true
				}
				if len(fs) < filter.Limit {
					break
				}
				filter.After = fs[len(fs)-1].NID
			}
			if len(seen) != c.want {
				t.Errorf("%+v: %d futures", c, len(seen))
			}
		}
	})
}

// A future that ends while somebody looks is live or finished in the answer, and never missing.
func TestQueryMissesNothing(t *testing.T) {
	inBubble(t, func(b *bench) {
		for range 200 {
			f := b.create(message(time.Millisecond))
			for state := api.Scheduled; state != api.Sent; time.Sleep(100 * time.Microsecond) {
				found, err := b.QueryFutures(b.Context(), api.Filter{NID: f.NID, States: api.Live | api.Finished})
				if err != nil || len(found) != 1 {
					t.Fatalf("future %d: %v, %v", f.NID, found, err)
				}
				state = found[0].State
			}
			late := b.create(delayed(time.Millisecond))
			filter := api.DelayedFilter{
				UserID: late.UserID, States: []api.State{api.Scheduled, api.Sending, api.Sent}, Backwards: true, Limit: 1,
			}
			for state := api.Scheduled; state != api.Sent; time.Sleep(100 * time.Microsecond) {
				found, err := b.QueryDelayedEvents(b.Context(), filter)
				if err != nil || len(found) != 1 || found[0].NID != late.NID {
					t.Fatalf("delayed event %d: %v, %v", late.NID, found, err)
				}
				state = found[0].State
			}
		}
	})
}
