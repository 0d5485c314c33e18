package main

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/matrix-org/dendrite/futures/test/rig"
)

// storm makes thousands of futures due at one moment, and measures how long that lasts and what others notice of it.
func storm(b *bench, ctx context.Context) (results []Result, err error) {
	for _, k := range kinds() {
		list, err := stormOn(b, ctx, k)
		results = append(results, list...)
		if err != nil || b.quick {
			return results, err
		}
	}
	return results, nil
}

func stormOn(b *bench, ctx context.Context, k kind) ([]Result, error) {
	s, m, err := b.startWithRooms(ctx, plan{}, k, size(b, 50, 20))
	if err != nil {
		return nil, err
	}
	defer s.kill()
	results, err := stormInMany(b, ctx, s, m, k, size(b, 5_000, 1_000))
	if err != nil || b.quick {
		return results, err
	}
	one := &members{user: m.user, rooms: m.rooms[:1]}
	one.txns.Store(m.txns.Load())
	const n = 1_000
	ours, err := one.fire(ctx, s, n, nil)
	if err != nil {
		return results, err
	}
	against, err := one.sendAll(ctx, s, n)
	return append(results, drained(k, n, 1, ours, against)), err
}

func drained(k kind, n, rooms int, ours, against toll) Result {
	how := fmt.Sprintf("over HTTP, %s, %d events in %d rooms", k, n, rooms) + cpuNote(ours.each(n), against.each(n)) +
		restNote(ours.rest.Seconds(), against.rest.Seconds())
	return ratio("storm: time to drain : Dendrite sending the same", how, ours.took.Seconds(), against.took.Seconds(), "s", atMost(1.2, 1.0))
}

func stormInMany(b *bench, ctx context.Context, s *server, m *members, k kind, n int) ([]Result, error) {
	w, err := newWitness(ctx, s, m)
	if err != nil {
		return nil, err
	}
	defer w.close()
	rest := func() error { return pause(ctx, size(b, 10*time.Second, 3*time.Second)) }
	calm, err := w.during(ctx, rest)
	if err != nil {
		return nil, err
	}
	var ours, against toll
	stormy, err := w.during(ctx, func() (err error) {
		ours, err = m.fire(ctx, s, n, w.forget) // the time before the deadline is not part of the storm
		return err
	})
	if err != nil {
		return nil, err
	}
	rival, err := w.during(ctx, func() (err error) {
		against, err = m.sendAll(ctx, s, n)
		return err
	})
	if err != nil {
		return nil, err
	}
	after, err := w.during(ctx, rest)
	if err != nil {
		return nil, err
	}
	calm = calm.and(after) // before and after, so that both are measured in the same conditions
	how := func(other []float64) string {
		return fmt.Sprintf("over HTTP, %s, while the above was sent by futures; by clients: %.3g ms", k, p99(other))
	}
	// A server that does nothing cannot always answer within five times the calm either while both processors are busy.
	// More than half as long again as that server takes is our fault.
	bound := atMost(max(5, 1.5*p99(stormy.bares)/p99(calm.refreshes)), 2)
	if b.quick {
		bound = Bound{} // the p99 of 300 is the third slowest, which says little
	}
	machine := fmt.Sprintf("; a bare net/http in a process of its own: %.3g : %.3g ms", p99(stormy.bares), p99(calm.bares))
	return []Result{
		drained(k, n, len(m.rooms), ours, against),
		ratio("p99 of a refresh in the storm : calm", how(rival.refreshes)+machine, p99(stormy.refreshes), p99(calm.refreshes), "ms", bound),
		ratio("p99 of another user's /sync in the storm : calm", how(rival.syncs), p99(stormy.syncs), p99(calm.syncs), "ms", Bound{}),
	}, nil
}

func p99(took []float64) float64 { return percentile(slices.Sorted(slices.Values(took)), 0.99) }

// witness has no part in a storm, and measures its own requests.
type witness struct {
	*user
	tokens []string
	since  string

	own, other line   // to the server, and to a bare one, which shows the effect of the machine alone
	bare       *child // the bare server

	mu sync.Mutex
	seen
}

// seen has the time of each request, in ms.
type seen struct{ refreshes, bares, syncs []float64 }

func (s seen) and(more seen) seen {
	return seen{append(s.refreshes, more.refreshes...), append(s.bares, more.bares...), append(s.syncs, more.syncs...)}
}

// newWitness registers a user with a room and some futures in it.
func newWitness(ctx context.Context, s *server, m *members) (*witness, error) {
	own, err := s.join(ctx, "bob", 1)
	if err != nil {
		return nil, err
	}
	bare, address, err := startBare(false)
	if err != nil {
		return nil, err
	}
	w := &witness{user: own.user, bare: bare}
	if err := w.prepare(ctx, own, address); err != nil {
		w.close()
		return nil, err
	}
	return w, nil
}

// prepare connects to both servers, schedules its futures, and syncs for the first time.
func (w *witness) prepare(ctx context.Context, own *members, bareAddress string) (err error) {
	if w.other, err = dial(bareAddress); err != nil {
		return err
	}
	if w.own, err = dial(strings.TrimPrefix(w.URL, "http://")); err != nil {
		return err
	}
	for range 200 {
		token, err := own.future(ctx, own.rooms[0], time.Hour)
		if err != nil {
			return err
		}
		w.tokens = append(w.tokens, token)
		if err := w.refresh(ctx, len(w.tokens)-1); err != nil { // the first waits for a commit, and does not belong to the storm
			return err
		}
	}
	return w.look(ctx)
}

func (w *witness) close() {
	w.own.close()
	w.other.close()
	w.bare.kill()
}

func (w *witness) refresh(_ context.Context, i int) error {
	if err := w.own.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		return err
	}
	return w.own.ask(appendRefresh(nil, w.tokens[i%len(w.tokens)]))
}

func (w *witness) askBare(context.Context, int) error { return w.other.ask(appendRefresh(nil, "")) }

func (w *witness) look(ctx context.Context) error {
	query := url.Values{"timeout": {"0"}}
	if w.since != "" {
		query.Set("since", w.since)
	}
	r, err := w.do(ctx, http.MethodGet, rig.Path("sync"), query, nil)
	w.since = r.JSON.Get("next_batch").String()
	return err
}

// forget discards the measurements so far.
func (w *witness) forget() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.seen = seen{}
}

// during refreshes a hundred times and syncs ten times a second while f runs.
func (w *witness) during(ctx context.Context, f func() error) (seen, error) {
	w.forget()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	var failed error
	probe := func(every time.Duration, list *[]float64, ask func(context.Context, int) error) {
		for i := 0; ctx.Err() == nil; i++ {
			start := time.Now()
			err := ask(ctx, i)
			took := time.Since(start)
			w.mu.Lock()
			if err == nil {
				*list = append(*list, took.Seconds()*1000)
			} else if ctx.Err() == nil {
				failed = err
			}
			w.mu.Unlock()
			pause(ctx, every-took) //nolint:errcheck // the loop looks itself
		}
	}
	wg.Go(func() { probe(10*time.Millisecond, &w.refreshes, w.refresh) })
	wg.Go(func() {
		if pause(ctx, 5*time.Millisecond) == nil { // between two refreshes
			probe(10*time.Millisecond, &w.bares, w.askBare)
		}
	})
	wg.Go(func() {
		probe(100*time.Millisecond, &w.syncs, func(ctx context.Context, _ int) error { return w.look(ctx) })
	})
	err := f()
	cancel()
	wg.Wait()
	if err == nil {
		err = failed
	}
	return w.seen, err
}
