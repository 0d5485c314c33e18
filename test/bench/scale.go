package main

import (
	"context"
	"fmt"
	"os"
	"text/tabwriter"
	"time"

	"github.com/matrix-org/dendrite/setup/config"
)

// growth is the cost of a number of futures.
type growth struct {
	Futures  int
	Heap     float64 // bytes for each
	RSS      float64 // bytes more than without them
	Refresh  float64 // ns of processor time
	Lateness float64 // p99 of a timer in ms, at 10,000 due and 10,000 refreshes a second
	Recovery float64 // seconds
}

// scale measures how costs grow with the number of pending futures, in process and on SQLite.
func scale(ctx context.Context, b *bench, most int, plot string) error {
	var all []growth
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "futures\theap B/future\tRSS MB\trefresh ns CPU\tp99 lateness ms\trecovery s\t")
	for n := 10_000; n <= most; n *= 10 {
		fmt.Fprintf(os.Stderr, "%d futures ...\n", n)
		g, err := grow(b, ctx, n)
		if err != nil {
			return err
		}
		all = append(all, g)
		fmt.Fprintf(w, "%d\t%.1f\t%.1f\t%.0f\t%.2f\t%.3f\t\n", g.Futures, g.Heap, g.RSS/1e6, g.Refresh, g.Lateness, g.Recovery)
	}
	w.Flush()
	if plot == "" {
		return nil
	}
	return draw(plot, all)
}

func grow(b *bench, ctx context.Context, n int) (g growth, err error) {
	crowd := calls(n)
	crowd.perUser, crowd.perRoom = 10, 100
	source, err := b.database(onSQLite)
	if err != nil {
		return g, err
	}
	if err := crowd.seed(ctx, source); err != nil {
		return g, err
	}
	g.Futures = n
	if g.Recovery, err = openAndRefresh(ctx, source); err != nil {
		return g, err
	}
	if g.Refresh, err = refreshNanoseconds(ctx, source, n); err != nil {
		return g, err
	}
	late, _, err := timerLateness(ctx, source, n, 10_000, 10_000, 4*time.Second)
	if err != nil {
		return g, err
	}
	g.Lateness = percentile(late, 0.99)
	weight, err := weigh(b, ctx, source, n)
	g.Heap, g.RSS = weight.Heap/float64(n), weight.RSS
	return g, err
}

// refreshNanoseconds is the processor time of a refresh in the core, with the commits that follow.
func refreshNanoseconds(ctx context.Context, source config.DataSource, futures int) (float64, error) {
	c, err := openCore(ctx, source, easyRoom{}, nil)
	if err != nil {
		return 0, err
	}
	defer c.stop()
	if err := c.warm(ctx, futures); err != nil {
		return 0, err
	}
	refresh := refresher(ctx, c, futures)
	before, err := cpuOf(os.Getpid())
	if err != nil {
		return 0, err
	}
	n, _, err := repeat(ctx, 1, 3*time.Second, refresh)
	if err != nil {
		return 0, err
	}
	after, err := cpuOf(os.Getpid())
	return float64((after - before).Nanoseconds()) / float64(n), err
}
