package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/matrix-org/dendrite/setup/config"

	fconfig "github.com/matrix-org/dendrite/futures/setup/config"
)

// durableRefreshes compares refreshes, each durable when it returns, with one committed UPDATE for each in the same
// database.
func durableRefreshes(b *bench, ctx context.Context) (results []Result, err error) {
	for _, k := range kinds() {
		r, err := durableOn(b, ctx, k)
		if err != nil {
			return results, err
		}
		results = append(results, r)
	}
	return results, nil
}

// durableOn raises the load step by step, with more futures and the same heartbeat, until the futureserver falls
// behind. All times are a twentieth of the usual ones.
func durableOn(b *bench, ctx context.Context, k kind) (Result, error) {
	const beat, slack = heartbeat / 20, slackOfDefaults / 20
	source, n, err := b.pending(ctx, k)
	if err != nil {
		return Result{}, err
	}
	c, err := openCore(ctx, source, easyRoom{}, func(cfg *fconfig.FutureServer) { cfg.HighWaterSlack = slack })
	if err != nil {
		return Result{}, err
	}
	defer c.stop()
	update, done, err := singleUpdates(ctx, source, n)
	if err != nil {
		return Result{}, err
	}
	defer done()
	single := map[kind]int{onSQLite: 1, onPostgres: 16}[k] // connections
	ours, against, rows := 0.0, 0.0, 0.0
	for hot := size(b, n/64, n/4); ; hot = min(n, size(b, hot*3/2, hot*2)) {
		rate, perRefresh, err := c.sustain(ctx, hot, beat, size(b, 3*slack, 2*slack))
		if err != nil {
			return Result{}, err
		}
		if rate > ours {
			ours, rows = rate, perRefresh
		}
		alone, err := perSecond(ctx, single, time.Second, update)
		if err != nil {
			return Result{}, err
		}
		against = max(against, alone)
		if hot == n || behind(rate, hot, beat) {
			break
		}
	}
	how := fmt.Sprintf("in process, %s, each future every %s with %s of slack, %.2g rows a refresh", k, beat, slack, rows)
	return ratio("durable refreshes/s : one committed UPDATE each", how, ours, against, "/s", atLeast(10, 50)), nil
}

// sustain calls beat, and takes the better of two attempts if the first falls behind, because a checkpoint of the
// database is no limit.
func (c *core) sustain(ctx context.Context, hot int, beat, d time.Duration) (rate, rows float64, err error) {
	if rate, rows, err = c.beat(ctx, hot, beat, d); err != nil || !behind(rate, hot, beat) {
		return rate, rows, err
	}
	again, rowsAgain, err := c.beat(ctx, hot, beat, d)
	if again > rate {
		rate, rows = again, rowsAgain
	}
	return rate, rows, err
}

// behind reports whether that many futures were refreshed less often than they should.
func behind(rate float64, hot int, beat time.Duration) bool {
	return rate < 0.95*float64(hot)/beat.Seconds()
}

// beat refreshes the first hot futures with that heartbeat for a time. It returns the refreshes a second, which are
// fewer if it does not keep up, and the rows written for each.
func (c *core) beat(ctx context.Context, hot int, beat, d time.Duration) (rate, rows float64, err error) {
	if err := c.warm(ctx, hot); err != nil {
		return 0, 0, err
	}
	refresh := refresher(ctx, c, hot)
	before, err := c.written()
	if err != nil {
		return 0, 0, err
	}
	start := time.Now()
	err = paced(ctx, float64(hot)/beat.Seconds(), d, refresh)
	took := time.Since(start)
	if err != nil {
		return 0, 0, err
	}
	after, err := c.written()
	refreshes := after.refreshes - before.refreshes
	return refreshes / took.Seconds(), (after.rows - before.rows) / refreshes, err
}

// written counts what the core has written since its start.
type written struct{ rows, refreshes float64 }

func (c *core) written() (w written, err error) {
	if w.rows, err = c.metric("commit_rows"); err != nil {
		return w, err
	}
	w.refreshes, err = c.metric("refreshed_total")
	return w, err
}

// refresher refreshes the first n futures in turn.
func refresher(ctx context.Context, c *core, n int) func(int) error {
	tokens := refreshTokens(n)
	rand.Shuffle(n, func(i, j int) { tokens[i], tokens[j] = tokens[j], tokens[i] })
	return func(i int) error { return c.PerformTokenAction(ctx, tokens[i%n]) }
}

// singleUpdates returns a function that raises one deadline in a transaction of its own.
func singleUpdates(ctx context.Context, source config.DataSource, n int) (update func(int) error, done func(), err error) {
	db, err := openSQL(source)
	if err != nil {
		return nil, nil, err
	}
	db.SetMaxIdleConns(64)
	stmt, err := db.PrepareContext(ctx, "UPDATE futureserver_timers SET deadline_ts = deadline_ts + 1 WHERE nid = $1")
	if err != nil {
		return nil, nil, err
	}
	return func(i int) error {
		result, err := stmt.ExecContext(ctx, 1+i*7919%n)
		if err != nil {
			return err
		}
		if rows, err := result.RowsAffected(); err != nil || rows != 1 {
			return fmt.Errorf("%d rows updated, %w", rows, err)
		}
		return nil
	}, func() { closing(db) }, nil
}

// rowsPerRefresh counts the rows written for a refresh if each future is refreshed every five seconds; in a quick run,
// with a fifth of the slack, every second.
func rowsPerRefresh(b *bench, ctx context.Context) ([]Result, error) {
	n, scale := size(b, 50_000, 5_000), size[time.Duration](b, 1, 5)
	source, err := b.database(onSQLite)
	if err != nil {
		return nil, err
	}
	// A client's timer restarts when the answer arrives, so its heartbeat is slower by a round trip.
	beat, slack := (heartbeat+50*time.Millisecond)/scale, slackOfDefaults/scale
	crowd := calls(n)
	crowd.timeout, crowd.slack = time.Minute, slack // longer than the heartbeat's, in case the machine stalls
	if err := crowd.seed(ctx, source); err != nil {
		return nil, err
	}
	c, err := openCore(ctx, source, easyRoom{}, func(cfg *fconfig.FutureServer) { cfg.HighWaterSlack = slack })
	if err != nil {
		return nil, err
	}
	defer c.stop()
	refresh := refresher(ctx, c, n)
	rate := float64(n) / beat.Seconds()
	if err := paced(ctx, rate, 4*beat, refresh); err != nil {
		return nil, err
	}
	before, err := c.written()
	if err != nil {
		return nil, err
	}
	if err := paced(ctx, rate, size[time.Duration](b, 12, 8)*beat, refresh); err != nil {
		return nil, err
	}
	after, err := c.written()
	per := (after.rows - before.rows) / (after.refreshes - before.refreshes)
	how := fmt.Sprintf("in process, SQLite, %d futures, each refreshed every %s", n, beat)
	return []Result{plain("rows written for a refresh", how, per, "rows", atMost(1.0/2, 1.0/4))}, err
}
