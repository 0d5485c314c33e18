package main

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/matrix-org/dendrite/setup/config"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/matrix-org/dendrite/futures/futureserver"
	"github.com/matrix-org/dendrite/futures/futureserver/api"
	fconfig "github.com/matrix-org/dendrite/futures/setup/config"
)

// core is the futureserver alone, in this process: the real one with the real database. Only its rooms are fakes that
// answer at once.
type core struct {
	futureserver.Server
	metrics tap
}

// openCore starts it. change, if not nil, alters the configuration.
func openCore(ctx context.Context, source config.DataSource, room api.Room, change func(*fconfig.FutureServer)) (*core, error) {
	var cfg fconfig.FutureServer
	cfg.Defaults()
	cfg.Database.ConnectionString = source
	cfg.MaxFuturesPerUser = 1_000_000
	cfg.RoomsInFlight = 4
	if change != nil {
		change(&cfg)
	}
	c := &core{metrics: tap{}}
	var err error
	c.Server, err = futureserver.NewInternalAPI(ctx, &cfg, room, futureserver.Options{Registerer: c.metrics})
	return c, err
}

// stop leaves the database as a crash would, because nobody needs the deadlines any more.
func (c *core) stop() {
	over, cancel := context.WithCancel(context.Background())
	cancel()
	c.Stop(over) //nolint:errcheck // the error says that it was hurried
}

// warm refreshes the first n futures once, because the first refresh after a start waits for a commit.
func (c *core) warm(ctx context.Context, n int) error {
	return each(ctx, 4096, n, func(ctx context.Context, i int) error {
		return c.PerformTokenAction(ctx, secret(i).Token(api.RefreshToken))
	})
}

// tap is a prometheus.Registerer from which metrics can be read one by one, in nanoseconds.
type tap map[string]prometheus.Metric

var _ prometheus.Registerer = tap{}

// Register implements prometheus.Registerer.
func (t tap) Register(c prometheus.Collector) error {
	if m, ok := c.(prometheus.Metric); ok {
		var name string // Desc{fqName: "name", help: ...
		if _, err := fmt.Sscanf(m.Desc().String(), "Desc{fqName: %q", &name); err != nil {
			return err
		}
		t[name] = m
	}
	return nil
}

// MustRegister implements prometheus.Registerer.
func (t tap) MustRegister(cs ...prometheus.Collector) {
	for _, c := range cs {
		if err := t.Register(c); err != nil {
			panic(err)
		}
	}
}

// Unregister implements prometheus.Registerer.
func (t tap) Unregister(prometheus.Collector) bool { return false }

// metric returns the sum of a histogram, or the value of a counter or a gauge.
func (c *core) metric(name string) (float64, error) {
	m, ok := c.metrics["dendrite_futureserver_"+name]
	if !ok {
		return 0, fmt.Errorf("there is no metric %s", name)
	}
	var value dto.Metric
	err := m.Write(&value)
	return value.GetHistogram().GetSampleSum() + value.GetCounter().GetValue() + value.GetGauge().GetValue(), err
}

// easyRoom accepts everything at once. Its hook sees each event when it is built.
type easyRoom struct {
	build func(*api.Future)
}

var _ api.Room = easyRoom{}

// Admit implements api.Room.
func (easyRoom) Admit(context.Context, *api.Future) (string, error) { return "", nil }

// Current implements api.Room.
func (easyRoom) Current(_ context.Context, _ string, keys []api.StateKeyTuple) ([]api.StateEvent, error) {
	return make([]api.StateEvent, len(keys)), nil
}

// Enter implements api.Room.
func (easyRoom) Enter(context.Context, string) func() { return func() {} }

// Build implements api.Room.
func (r easyRoom) Build(_ context.Context, fs []*api.Future) []api.Built {
	built := make([]api.Built, len(fs))
	for i, f := range fs {
		if r.build != nil {
			r.build(f)
		}
		built[i].Event = &api.Event{ID: fmt.Sprintf("$%d", f.NID), PDU: f.Content}
	}
	return built
}

// Submit implements api.Room.
func (easyRoom) Submit(context.Context, []*api.Future) error { return nil }

// Verdict implements api.Room.
func (easyRoom) Verdict(_ context.Context, fs []*api.Future) ([]api.Verdict, error) {
	verdicts := make([]api.Verdict, len(fs))
	for i := range verdicts {
		verdicts[i] = api.Confirmed
	}
	return verdicts, nil
}

// repeat makes workers call f, with 0, 1, 2, ... in turn, for a time, and returns the number of calls.
func repeat(ctx context.Context, workers int, d time.Duration, f func(i int) error) (times int, took time.Duration, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var next, done atomic.Int64
	var wg sync.WaitGroup
	start := time.Now()
	for range workers {
		wg.Go(func() {
			for time.Since(start) < d && ctx.Err() == nil {
				if err := f(int(next.Add(1) - 1)); err != nil {
					cancel(err)
					return
				}
				done.Add(1)
			}
		})
	}
	wg.Wait()
	return int(done.Load()), time.Since(start), context.Cause(ctx)
}

// perSecond returns how many calls of f a second are possible.
func perSecond(ctx context.Context, workers int, d time.Duration, f func(i int) error) (float64, error) {
	n, took, err := repeat(ctx, workers, d, f)
	return float64(n) / took.Seconds(), err
}

// paced calls f with 0, 1, 2, ... at that rate for a time. If it cannot keep up it falls behind and goes on. It has
// many goroutines, so that calls that wait for a commit do not delay the rest, as in a server, which has one for each
// client.
func paced(ctx context.Context, rate float64, d time.Duration, f func(i int) error) error {
	const clients, atOnce = 2048, 8
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	work := make(chan int)
	var wg sync.WaitGroup
	for range clients {
		wg.Go(func() {
			for first := range work {
				for i := range atOnce {
					if err := f(first + i); err != nil {
						cancel(err)
						return
					}
				}
			}
		})
	}
	start := time.Now()
	for i := 0; time.Since(start) < d && ctx.Err() == nil; time.Sleep(time.Millisecond) {
		for due := time.Since(start).Seconds() * rate; float64(i) < due && time.Since(start) < d && ctx.Err() == nil; i += atOnce {
			select {
			case work <- i:
			case <-ctx.Done():
			}
		}
	}
	close(work)
	wg.Wait()
	return context.Cause(ctx)
}
