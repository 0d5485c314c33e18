package internal

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
	"github.com/matrix-org/dendrite/futures/futureserver/storage"
)

// When futures fire: on time, refreshed, after a crash.

func TestFiresExactlyAtItsDeadline(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.create(message(500 * time.Millisecond))
		b.after(499*time.Millisecond, 0)
		b.after(time.Millisecond, 1)
	})
}

// The server counts whole milliseconds but does not wait for their end: a future is sent at the beginning of its
// millisecond.
func TestFiresAtTheBeginningOfItsMillisecond(t *testing.T) {
	inBubble(t, func(b *bench) {
		time.Sleep(400 * time.Microsecond)
		b.create(message(500 * time.Millisecond)) // the next whole millisecond
		b.after(500*time.Millisecond, 0)
		b.after(600*time.Microsecond, 1)
	})
}

func TestRefreshPushesTheDeadlineBack(t *testing.T) {
	inBubble(t, func(b *bench) {
		f := b.create(message(10 * time.Second))
		for range 20 {
			b.after(6*time.Second, 0)
			b.use(f, api.RefreshToken, nil)
		}
		b.after(9999*time.Millisecond, 0)
		b.after(time.Millisecond, 1)
		b.use(f, api.RefreshToken, api.ErrGone)
	})
}

// Invariant 4, and the arithmetic of the stored deadline (docs/durability.md).
func TestDeadlinesAfterACrash(t *testing.T) {
	for name, c := range map[string]struct {
		timeout, refreshAt, crashAt, downtime time.Duration
		earliest, latest                      time.Duration // since the creation
	}{
		"never refreshed: exact":               {10 * time.Second, 0, 4 * time.Second, 3 * time.Second, 10 * time.Second, 10 * time.Second},
		"never refreshed, overdue: at once":    {10 * time.Second, 0, 4 * time.Second, time.Minute, 64 * time.Second, 64 * time.Second},
		"refreshed: late by at most T + down":  {8 * time.Second, 5 * time.Second, 6 * time.Second, time.Second, 13 * time.Second, 15 * time.Second},
		"refreshed a moment before":            {8 * time.Second, 5 * time.Second, 5 * time.Second, 4 * time.Second, 13 * time.Second, 17 * time.Second},
		"refreshed: late by at most the slack": {time.Hour, time.Minute, 2 * time.Minute, time.Minute, 61 * time.Minute, 61*time.Minute + slack},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(b *bench) {
				start := time.Now()
				f := b.create(message(c.timeout))
				if c.refreshAt > 0 {
					time.Sleep(c.refreshAt)
					b.use(f, api.RefreshToken, nil)
				}
				time.Sleep(c.crashAt - time.Since(start))
				b.die()
				time.Sleep(c.downtime)
				b.start(testConfig())
				time.Sleep(c.latest - time.Since(start))
				synctest.Wait()
				events := b.rooms.all()
				if len(events) != 1 {
					b.Fatalf("%d events", len(events))
				}
				if at := events[0].at.Sub(start); at < c.earliest || at > c.latest {
					b.Errorf("fired at %v, want %v to %v", at, c.earliest, c.latest)
				}
			})
		})
	}
}

// A crash loop cannot keep a future alive.
func TestCrashLoop(t *testing.T) {
	inBubble(t, func(b *bench) {
		f := b.create(message(8 * time.Second))
		time.Sleep(4 * time.Second)
		b.use(f, api.RefreshToken, nil)
		for range 30 {
			time.Sleep(3 * time.Second)
			b.die()
			b.start(testConfig())
		}
		b.after(0, 1)
	})
}

func TestCleanRestartIsExact(t *testing.T) {
	inBubble(t, func(b *bench) {
		f := b.create(message(time.Minute))
		time.Sleep(30 * time.Second)
		b.use(f, api.RefreshToken, nil)
		if err := b.Stop(b.Context()); err != nil {
			b.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		b.start(testConfig())
		b.after(49_999*time.Millisecond, 0)
		b.after(time.Millisecond, 1)
	})
}

// The cost of a heartbeat: one row for several refreshes.
func TestHeartbeatsAreRarelyWritten(t *testing.T) {
	inBubble(t, func(b *bench) {
		counted := &countingDatabase{Database: b.db}
		b.db = counted
		f := b.create(message(8 * time.Second))
		const beats = 200
		for range beats {
			time.Sleep(5 * time.Second)
			b.use(f, api.RefreshToken, nil)
		}
		if n := counted.extends.Load(); n > beats/5+1 {
			b.Errorf("%d rows written for %d refreshes", n, beats)
		}
		b.after(8*time.Second, 1)
	})
}

// However short the slack, a steady heartbeat does not wait for the disk.
func TestHeartbeatsDoNotWait(t *testing.T) {
	for _, slack := range []time.Duration{time.Second, 1500 * time.Millisecond, slack, 10 * time.Minute} {
		inBubble(t, func(b *bench) {
			if err := b.Stop(b.Context()); err != nil {
				b.Fatal(err)
			}
			cfg := testConfig()
			cfg.Slack = slack
			b.start(cfg)
			var refreshing atomic.Bool
			var waited atomic.Int64
			counted := &countingDatabase{Database: b.db, fail: func(batch *storage.Batch) error {
				if refreshing.Load() && len(batch.Extends) > 0 {
					waited.Add(1)
				}
				return nil
			}}
			b.db = counted
			f := b.create(message(slack))
			b.use(f, api.RefreshToken, nil) // the first waits
			for range 100 {
				time.Sleep(slack / 6)
				refreshing.Store(true)
				b.use(f, api.RefreshToken, nil)
				refreshing.Store(false)
			}
			if waited.Load() > 0 || counted.extends.Load() < 10 {
				b.Errorf("with %v of slack %d of 100 refreshes waited, and %d rows were written", slack, waited.Load(), counted.extends.Load())
			}
		})
	}
}

// No heartbeat waits until a whole batch has been collected: the lock is released again and again.
func TestBatchesGatherBitByBit(t *testing.T) {
	inBubble(t, func(b *bench) {
		if err := b.Stop(b.Context()); err != nil {
			b.Fatal(err)
		}
		const n = 2*atOnce + 1
		cfg := testConfig()
		cfg.Futures.MaxPerUser = n
		b.start(cfg)
		counted := &countingDatabase{Database: b.db}
		b.db = counted
		for range n {
			b.create(message(time.Hour))
		}
		b.mu.Lock()
		b.ledger.Rewrite()
		b.mu.Unlock()
		if more := b.gather(); !more || len(b.next.Extends) != atOnce {
			b.Errorf("%d of %d gathered at once, more: %v", len(b.next.Extends), n, more)
		}
		notify(b.kick)
		synctest.Wait()
		if rows := counted.extends.Load(); rows != n {
			b.Errorf("%d of %d deadlines written", rows, n)
		}
	})
}

type countingDatabase struct {
	storage.Database
	extends atomic.Int64 // rows
	commits atomic.Int64
	fail    func(*storage.Batch) error
}

func (d *countingDatabase) Commit(ctx context.Context, b *storage.Batch) (storage.Result, error) {
	if d.fail != nil {
		if err := d.fail(b); err != nil {
			return storage.Result{}, err
		}
	}
	d.extends.Add(int64(len(b.Extends)))
	d.commits.Add(1)
	return d.Database.Commit(ctx, b)
}

// When the wall clock is set, stored deadlines are written again and no timer moves.
func TestWallClockIsSet(t *testing.T) {
	inBubble(t, func(b *bench) {
		if err := b.Stop(b.Context()); err != nil {
			b.Fatal(err)
		}
		var skew atomic.Int64
		b.startSkewed(testConfig(), &skew)
		counted := &countingDatabase{Database: b.db}
		b.db = counted
		b.create(message(time.Hour))
		b.create(message(time.Hour))
		b.after(2*sweepEvery, 0)
		if n := counted.extends.Load(); n != 0 {
			b.Fatalf("%d deadlines were written, and nothing had happened", n)
		}
		skew.Store(int64(time.Hour))
		b.after(2*sweepEvery, 0)
		if n := counted.extends.Load(); n != 2 {
			b.Errorf("%d deadlines were written, want 2", n)
		}
		b.after(time.Hour, 2)
	})
}
