// Package internal is the core of the futureserver: what happens when. It knows the rooms only through api.Room and the
// disk only through storage.Database.
//
// What is true of the futures stands in the ledger, a pure value. Server guards it with one lock: each request is decided
// in one step under the lock, and waits, outside, until the batch that holds the decision is on disk (writer.go). What is
// due waits in its room's queue (turn.go) until it is built, claimed, submitted and proved (fire.go). recover.go starts and
// stops it all. No function is called with the lock and gives it back.
package internal

import (
	"context"
	"sync"
	"time"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
	"github.com/matrix-org/dendrite/futures/futureserver/internal/ledger"
	"github.com/matrix-org/dendrite/futures/futureserver/storage"
)

// Config is what an operator can set. All fields are required, but for RestartGrace.
type Config struct {
	Futures       Limits
	Delayed       Limits        // of managed futures
	Slack         time.Duration // of the stored deadline; see ledger.Refresh
	RestartGrace  time.Duration // in which a heartbeat saves a future that became due while the server was down; 0: none
	RoomsInFlight int
	Retention     time.Duration // of finished futures
	KeepPerUser   int           // how many finished managed futures are kept of one user
}

// Limits are those of one kind of futures.
type Limits = ledger.Limits

// Hooks are told what happens. They may be nil.
type Hooks struct {
	Step  func(string)    // each step of a future's life; tests stop the process there
	Ready <-chan struct{} // nothing is sent before it is closed; nil if all is ready
	Storm func(bool)      // whether rooms wait because as many as may be are in flight; called when that changes, in order

	Ended func(*api.Future) // each future that has ended, but for those that failed; called by one goroutine, some time later

	Skew func() time.Duration // by how much the wall clock was set since the start; tests set it
}

// Server is the futureserver. It implements api.FutureInternalAPI.
type Server struct {
	cfg      Config
	db       storage.Database
	room     api.Room
	metrics  *Metrics
	hooks    Hooks
	outcomes *outcomes // nil if nobody wants to know
	clock    clock

	delayIDs *delayIDs // of what has been sent

	mu     sync.Mutex // guards everything below
	ledger *ledger.Ledger

	delegations delegations

	next      *batch // gathers what the next transaction writes
	writing   *batch // is being written; nil if none is
	writingAt int64  // since when
	kick      chan struct{}
	look      bool  // the writer is to find out whether the lock is still ours
	confirmed int64 // when that was last known, in the clock's time

	working   map[uint64]*room // rooms where something is to be done, by what the ledger calls them
	ready     readyHeap        // those that wait for their turn
	wakeAt    int64            // when the run loop will look at the wheel
	wake      chan struct{}
	inFlight  int
	longTurns int  // in flight for so long that they do not count
	storm     bool // rooms wait because as many as may be are in flight
	stormed   chan struct{}

	begun    bool  // rooms may have their turns
	stopping bool  // nothing new is accepted
	over     bool  // and nothing is begun any more
	failed   error // why the server cannot go on

	ctx        context.Context // of everything that is in flight
	cancel     context.CancelFunc
	work       sync.WaitGroup // futures on their way into a room
	loops      sync.WaitGroup
	stopCalled bool
	stopRun    chan struct{}
	stopped    chan struct{} // closed when the writer has written its last batch
	closed     chan struct{} // closed when the first Stop returns
}

const patience = 30 * time.Second // how long a request waits, all in all

// patiently bounds a request. Its cause tells the client's hanging up from our giving up.
func patiently(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, patience, api.ErrOverloaded)
}

// decide has f decide something, in one step under the lock, and returns the batch that makes it durable.
func (s *Server) decide(f func(now ledger.Time, c *ledger.Changes)) (*batch, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopping {
		return nil, api.ErrStopping
	}
	f(s.clock.time(), &s.next.Changes)
	return s.batch(), nil
}

// decideAndWait returns when the decision is durable.
func (s *Server) decideAndWait(ctx context.Context, f func(now ledger.Time, c *ledger.Changes)) error {
	ctx, cancel := patiently(ctx)
	defer cancel()
	b, err := s.decide(f)
	if err != nil {
		return err
	}
	return b.wait(ctx)
}

// clock counts Unix milliseconds by the monotonic clock: a step of the wall clock does not reach it.
type clock struct {
	start time.Time
	age   int64 // of the database, when the clock was started
	skew  func() time.Duration
}

// nanos is the time in Unix nanoseconds.
func (c clock) nanos(now time.Time) int64 { return c.start.UnixNano() + int64(now.Sub(c.start)) }

// now rounds down.
func (c clock) now() int64 { return c.nanos(time.Now()) / int64(time.Millisecond) }

// time reads all clocks at once: two readings would differ by chance.
func (c clock) time() ledger.Time {
	now := time.Now()
	since := now.Sub(c.start) // by the monotonic clock
	nanos := c.start.UnixNano() + int64(since)
	step := time.Duration(now.UnixNano() - nanos)
	if c.skew != nil {
		step += c.skew()
	}
	return ledger.Time{
		Now:    nanos / int64(time.Millisecond),
		Ceil:   (nanos + int64(time.Millisecond) - 1) / int64(time.Millisecond),
		Offset: step.Round(time.Millisecond).Milliseconds(),
		Age:    max(1, c.age+since.Milliseconds()),
	}
}

// until is how long it is until this clock shows that time, an hour at most.
func (c clock) until(ms int64) time.Duration {
	nanos := c.nanos(time.Now())
	left := min(ms-nanos/int64(time.Millisecond), time.Hour.Milliseconds())
	return time.Duration(left)*time.Millisecond - time.Duration(nanos%int64(time.Millisecond))
}

// Done is closed when the server has stopped, by itself or by Stop.
func (s *Server) Done() <-chan struct{} { return s.stopped }

// Err returns why the server could not go on, nil if it was stopped.
func (s *Server) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failed
}

func (s *Server) isStopping() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stopping
}

// notify wakes a loop that may be waking already.
func notify(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// sleep waits, and reports false if the server stops first.
func (s *Server) sleep(d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-s.ctx.Done():
		return false
	}
}

// backoff is how long to wait after the n-th failure in a row (counted from 0): 100 ms, doubling to 30 s.
func backoff(n int) time.Duration {
	return min(100*time.Millisecond<<min(n, 10), 30*time.Second)
}
