package internal

import (
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
	"github.com/matrix-org/dendrite/futures/futureserver/storage"
)

func transaction(key string, f *api.Future) *api.Future {
	f.TxnKey = []byte(key)
	return f
}

// holdCommits blocks the database's commits until release is called.
func (b *bench) holdCommits() (release func()) {
	synctest.Wait() // the writer may be at work, as once a minute
	gate := make(chan struct{})
	whole := b.db
	b.mu.Lock() // the writer takes its batch under the lock
	b.db = &countingDatabase{Database: whole, fail: func(*storage.Batch) error { <-gate; return nil }}
	b.mu.Unlock()
	return func() { close(gate) }
}

// later creates a future in the background; answer waits for the result.
func (b *bench) later(f *api.Future) (answer func() (*api.Future, error)) {
	var made *api.Future
	var err error
	var wg sync.WaitGroup
	wg.Go(func() { made, err = b.PerformFutureCreation(b.Context(), f) })
	synctest.Wait()
	return func() (*api.Future, error) { wg.Wait(); return made, err }
}

// A repeated transaction gets its first answer: at once, later, at the limit, and after the end.
func TestTransactions(t *testing.T) {
	inBubble(t, func(b *bench) {
		request := func() *api.Future { return transaction("transaction", message(time.Minute)) }
		var wg sync.WaitGroup
		answers := make([]*api.Future, 5)
		for i := range answers {
			wg.Go(func() { answers[i] = b.create(request()) })
		}
		wg.Wait()
		for range testConfig().Futures.MaxPerUser - 1 {
			b.create(message(time.Hour))
		}
		answers = append(answers, b.create(request()))
		b.after(time.Minute, 1)
		answers = append(answers, b.create(request()))
		b.die()
		b.start(testConfig())
		answers = append(answers, b.create(request()))
		for i, a := range answers {
			if a.NID != answers[0].NID || a.Secret != answers[0].Secret || a.GroupID != answers[0].GroupID {
				b.Errorf("answer %d is another future", i)
			}
		}
		b.after(2*time.Minute, 1)

		others := transaction("transaction", message(time.Minute))
		others.UserID = "@bob:test"
		if a := b.create(others); a.Secret == answers[0].Secret {
			b.Error("two users share a transaction")
		}
		time.Sleep(testConfig().Retention + 2*sweepEvery)
		if a := b.create(request()); a.NID == answers[0].NID {
			b.Error("the first answer outlives the retention")
		}
	})
}

// The same at every moment of a future's life at which neither its tokens nor the disk know it, in both dialects.
func TestTransactionsAtEachMoment(t *testing.T) {
	for name, policy := range map[string]api.Policy{"futures": 0, "delayed": api.Managed} {
		request := func() *api.Future {
			f := transaction("transaction", message(time.Minute))
			f.Policy |= policy
			return f
		}
		same := func(b *bench, made *api.Future, answer func() (*api.Future, error)) {
			b.Helper()
			if again, err := answer(); err != nil || again.NID != made.NID || again.Secret != made.Secret {
				b.Errorf("the repeat is %+v, %v", again, err)
			}
		}
		t.Run(name+", being stored", func(t *testing.T) {
			inBubble(t, func(b *bench) {
				release := b.holdCommits()
				first := b.later(request())
				second := b.later(request())
				release()
				made, err := first()
				if err != nil {
					b.Fatal(err)
				}
				same(b, made, second)
				b.after(2*time.Minute, 1)
			})
		})
		t.Run(name+", being sent, also after a crash", func(t *testing.T) {
			inBubble(t, func(b *bench) {
				made := b.create(request())
				b.rooms.setMode(deaf)
				time.Sleep(time.Minute + time.Second)
				same(b, made, b.later(request()))
				b.die()
				b.start(testConfig())
				same(b, made, b.later(request()))
				b.rooms.setMode(working)
				b.after(5*time.Minute, 1)
				same(b, made, b.later(request()))
			})
		})
		t.Run(name+", ended in memory only", func(t *testing.T) {
			inBubble(t, func(b *bench) {
				made := b.create(request())
				release := b.holdCommits()
				go b.PerformUserRemoval(b.Context(), made.UserID) //nolint:errcheck // the test looks at what follows
				synctest.Wait()
				again := b.later(request())
				release()
				same(b, made, again)
				synctest.Wait()
				same(b, made, b.later(request()))
				b.after(2*time.Minute, 0)
				if n := b.ledger.Unsettled(); n != 0 {
					b.Errorf("%d secrets are kept for ever", n)
				}
			})
		})
	}
}

// A repeat whose first future could not be stored fails with it. The next repeat creates a new future.
func TestTransactionThatCouldNotBeStored(t *testing.T) {
	inBubble(t, func(b *bench) {
		gate := make(chan struct{})
		var mended atomic.Bool
		b.db = &countingDatabase{Database: b.db, fail: func(*storage.Batch) error {
			<-gate
			if mended.Load() {
				return nil
			}
			return errors.New("broken")
		}}
		first := b.later(transaction("transaction", message(time.Minute)))
		second := b.later(transaction("transaction", message(time.Minute)))
		close(gate)
		for _, answer := range []func() (*api.Future, error){first, second} {
			if f, err := answer(); err == nil {
				b.Errorf("%+v was not stored", f)
			}
		}
		mended.Store(true)
		b.create(transaction("transaction", message(time.Minute)))
		b.after(2*time.Minute, 1)
	})
}

func TestAGroupThatHasFiredStaysClosed(t *testing.T) {
	inBubble(t, func(b *bench) {
		f := b.create(message(time.Second))
		b.create(inGroup(message(time.Second), "named"))
		closed := func(when string) {
			b.Helper()
			for _, g := range []string{f.GroupID, "named"} {
				if _, err := b.later(inGroup(message(time.Second), g))(); !errors.Is(err, api.ErrUnknownGroup) {
					b.Errorf("%s, %s: %v", when, g, err)
				}
			}
		}
		b.rooms.setMode(deaf)
		time.Sleep(2 * time.Second)
		closed("being sent")
		b.die()
		b.start(testConfig())
		closed("being sent, after a crash")
		b.rooms.setMode(working)
		b.after(time.Minute, 2)
		closed("sent")
		b.die()
		b.start(testConfig())
		closed("sent, after a crash")
	})
}

// A group is closed as soon as it has ended in memory, before the commit.
func TestAGroupThatIsJustEndingIsClosed(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.create(inGroup(message(time.Hour), "named"))
		release := b.holdCommits()
		go b.PerformUserRemoval(b.Context(), "@alice:test") //nolint:errcheck // the test looks at what follows
		synctest.Wait()
		answer := b.later(inGroup(message(time.Second), "named"))
		release()
		if _, err := answer(); !errors.Is(err, api.ErrUnknownGroup) {
			b.Error(err)
		}
		b.after(time.Minute, 0)
	})
}
