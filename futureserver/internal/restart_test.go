package internal

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
	"github.com/matrix-org/dendrite/futures/futureserver/storage"
)

// A restart that takes longer than a heartbeat is forgiven once: a future with heartbeats that became due meanwhile
// waits for one more heartbeat. Messages that were only scheduled are sent at once.
func TestRestartGrace(t *testing.T) {
	for name, saved := range map[string]bool{"a heartbeat comes": true, "none comes": false} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(b *bench) {
				call := b.create(state(8*time.Second, "call"))
				b.create(message(8 * time.Second))
				time.Sleep(time.Second)
				b.use(call, api.RefreshToken, nil)
				if err := b.Stop(b.Context()); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Minute)
				cfg := testConfig()
				cfg.RestartGrace = 10 * time.Second
				b.start(cfg)
				b.after(9*time.Second, 1) // the message
				if saved {
					b.use(call, api.RefreshToken, nil)
					b.after(7*time.Second, 1)
				}
				b.after(2*time.Second, 2)
			})
		})
	}
}

// Neither a crash loop nor clean restarts extend the grace: the row records that it was given.
func TestRestartGraceIsGivenOnce(t *testing.T) {
	for name, end := range map[string]func(b *bench){
		"crash": func(b *bench) { b.die() },
		"stop":  func(b *bench) { _ = b.Stop(b.Context()) },
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(b *bench) {
				cfg := testConfig()
				cfg.RestartGrace = 10 * time.Second
				call := b.create(state(8*time.Second, "call"))
				time.Sleep(time.Second)
				b.use(call, api.RefreshToken, nil)
				end(b)
				time.Sleep(2 * time.Minute)
				started := time.Now()
				for range 5 { // each run is shorter than the grace, each downtime longer
					b.start(cfg)
					time.Sleep(4 * time.Second)
					synctest.Wait()
					end(b)
					time.Sleep(20 * time.Second)
				}
				b.start(cfg)
				b.after(time.Second, 1)
				if at := b.rooms.all()[0].at.Sub(started); at < 9*time.Second || at > 25*time.Second {
					t.Errorf("it was sent %v after the first start", at)
				}
			})
		})
	}
}

// startSkewed starts a server whose wall clock can be set.
func (b *bench) startSkewed(cfg Config, skew *atomic.Int64) {
	b.Helper()
	b.startWith(cfg, Hooks{Skew: func() time.Duration { return time.Duration(skew.Load()) }})
}

// Nothing is sent to rooms before they are ready: neither overdue futures, nor claimed ones, nor requests with a send
// token. Then all of them are sent.
func TestNothingIsSentBeforeReady(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.create(message(time.Second))
		asked := b.create(message(time.Hour))
		freezer := newFreezer()
		if err := b.Stop(b.Context()); err != nil {
			t.Fatal(err)
		}
		b.startStepping(testConfig(), freezer.step)
		claimed := b.create(inGroup(message(time.Hour), "claimed"))
		freezer.arm("claimed")
		go b.PerformTokenAction(b.Context(), claimed.Token(api.SendToken)) //nolint:errcheck // it ends with the crash
		synctest.Wait()
		b.crash(freezer)

		ready := make(chan struct{})
		b.startWith(testConfig(), Hooks{Ready: ready})
		go b.PerformTokenAction(b.Context(), asked.Token(api.SendToken)) //nolint:errcheck // seen by its event
		b.after(10*time.Second, 0)
		close(ready)
		b.after(time.Second, 3)
	})
}

// A server that was never ready stops like any other.
func TestStopBeforeReady(t *testing.T) {
	inBubble(t, func(b *bench) {
		if err := b.Stop(b.Context()); err != nil {
			t.Fatal(err)
		}
		b.startWith(testConfig(), Hooks{Ready: make(chan struct{})})
		if err := b.Stop(b.Context()); err != nil {
			t.Fatal(err)
		}
	})
}

// A clock that is fast for a minute ages nothing: ended futures are still remembered.
func TestAFastClockErasesNothing(t *testing.T) {
	inBubble(t, func(b *bench) {
		if err := b.Stop(b.Context()); err != nil {
			t.Fatal(err)
		}
		var skew atomic.Int64
		b.startSkewed(testConfig(), &skew)
		first := b.create(transaction("t", inGroup(message(time.Second), "named")))
		b.after(2*time.Second, 1)
		skew.Store(int64(10 * 24 * time.Hour))
		time.Sleep(3 * sweepEvery)
		skew.Store(0)
		time.Sleep(sweepEvery)
		if again := b.create(transaction("t", inGroup(message(time.Second), "named"))); again.NID != first.NID {
			t.Error("the transaction was forgotten")
		}
		if _, err := b.PerformFutureCreation(b.Context(), inGroup(message(time.Second), "named")); !errors.Is(err, api.ErrUnknownGroup) {
			t.Errorf("the group that has fired is open again: %v", err)
		}
		b.after(time.Minute, 1)
	})
}

// After a step of the wall clock in either direction the stored bounds are right within a minute. A future that was
// never refreshed is exact, even after a crash.
func TestDeadlinesAfterAStepOfTheClock(t *testing.T) {
	for _, step := range []time.Duration{time.Hour, -time.Hour} {
		t.Run(fmt.Sprint(step), func(t *testing.T) {
			inBubble(t, func(b *bench) {
				if err := b.Stop(b.Context()); err != nil {
					t.Fatal(err)
				}
				var skew atomic.Int64
				b.startSkewed(testConfig(), &skew)
				created := time.Now()
				b.create(message(3 * time.Hour))
				refreshed := b.create(state(3*time.Hour, "call"))
				b.use(refreshed, api.RefreshToken, nil)
				skew.Store(int64(step))
				time.Sleep(time.Minute)
				synctest.Wait()
				b.die()
				// The next server takes the wall clock of the bubble for the right one.
				if err := moveDeadlines(b.path, -step); err != nil {
					t.Fatal(err)
				}
				b.start(testConfig())
				b.after(3*time.Hour, 2)
				for _, e := range b.rooms.all() {
					if late := e.at.Sub(created) - 3*time.Hour; late < 0 || late > slack || e.nid != refreshed.NID && late != 0 {
						t.Errorf("future %d is late by %v", e.nid, late)
					}
				}
			})
		})
	}
}

// unsureDatabase returns the error that the test sets from Confirm.
type unsureDatabase struct {
	storage.Database
	err     atomic.Pointer[error]
	commits atomic.Int64
}

func (d *unsureDatabase) Confirm(context.Context) error { return *d.err.Load() }

func (d *unsureDatabase) Commit(ctx context.Context, b *storage.Batch) (storage.Result, error) {
	d.commits.Add(1)
	return d.Database.Commit(ctx, b)
}

// A server that cannot confirm its lock answers no heartbeat from memory: after two seconds each waits for a commit. If
// another server has the lock, it stops.
func TestHeartbeatsWithoutTheLock(t *testing.T) {
	path := t.TempDir() + "/futures.db"
	synctest.Test(t, func(t *testing.T) {
		whole, err := openTestDatabase(path)
		if err != nil {
			t.Fatal(err)
		}
		db := &unsureDatabase{Database: whole}
		say := func(err error) { db.err.Store(&err) }
		say(nil)
		s, err := New(t.Context(), testConfig(), db, newFakeRooms(), NewMetrics(nil), Hooks{})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Stop(context.Background()) //nolint:errcheck // it has ended
		f, err := s.PerformFutureCreation(t.Context(), message(time.Minute))
		if err != nil {
			t.Fatal(err)
		}
		beat := func() (commits int64) {
			t.Helper()
			before := db.commits.Load()
			if err := s.PerformTokenAction(t.Context(), f.Token(api.RefreshToken)); err != nil {
				t.Fatal(err)
			}
			return db.commits.Load() - before
		}
		beat()
		time.Sleep(time.Second)
		if n := beat(); n != 0 {
			t.Errorf("%d commits for a heartbeat below its bound", n)
		}
		say(context.DeadlineExceeded)
		time.Sleep(3100 * time.Millisecond)
		if n := beat(); n == 0 {
			t.Error("a heartbeat was answered from memory, and nobody knows whose the database is")
		}
		say(storage.ErrLockUnsure)
		before := db.commits.Load()
		time.Sleep(2 * time.Second)
		if db.commits.Load() == before {
			t.Error("nobody has found out whether the lock is lost")
		}
		say(nil)
		time.Sleep(2 * time.Second)
		if n := beat(); n != 0 {
			t.Errorf("%d commits for a heartbeat, and all is well again", n)
		}
		say(storage.ErrLockLost)
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if err := s.Err(); !errors.Is(err, storage.ErrLockLost) {
			t.Errorf("it goes on: %v", err)
		}
	})
}

// A request has one time limit for everything: 30 s, whatever is slow.
func TestOnePatience(t *testing.T) {
	inBubble(t, func(b *bench) {
		release := b.holdCommits()
		b.setRooms(&slowRooms{b.rooms})
		began := time.Now()
		_, err := b.PerformFutureCreation(b.Context(), transaction("t", inGroup(message(time.Hour), "g")))
		if took := time.Since(began); !errors.Is(err, api.ErrOverloaded) || took > patience {
			t.Errorf("%v after %v", err, took)
		}
		release()
	})
}

type slowRooms struct{ *fakeRooms }

func (r *slowRooms) Admit(ctx context.Context, f *api.Future) (string, error) {
	time.Sleep(20 * time.Second)
	return r.fakeRooms.Admit(ctx, f)
}

// The size of a batch in bytes is bounded.
func TestABatchIsBoundedInBytes(t *testing.T) {
	inBubble(t, func(b *bench) {
		var most atomic.Int64
		b.mu.Lock()
		b.cfg.Futures.MaxPerUser = 1 << 20
		whole := b.db
		gate := make(chan struct{})
		b.db = &countingDatabase{Database: whole, fail: func(batch *storage.Batch) error {
			n := 0
			for _, f := range batch.Inserts {
				n += len(f.Content)
			}
			most.Store(max(most.Load(), int64(n)))
			<-gate
			return nil
		}}
		b.mu.Unlock()
		content := []byte(`{"body":"` + strings.Repeat("x", 60_000) + `"}`)
		var refused atomic.Int64
		for i := range 600 {
			f := message(time.Hour)
			f.UserID, f.Content = fmt.Sprintf("@user%d:test", i), content
			go func() {
				if _, err := b.PerformFutureCreation(b.Context(), f); errors.Is(err, api.ErrOverloaded) {
					refused.Add(1)
				}
			}()
			synctest.Wait()
		}
		close(gate)
		synctest.Wait()
		if refused.Load() == 0 || most.Load() > maxBytes {
			t.Errorf("%d requests were turned away, and a batch had %d bytes", refused.Load(), most.Load())
		}
	})
}
