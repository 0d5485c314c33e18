// Package internal is the core of the futureserver: what happens when. It knows the rooms only through api.Room and the
// disk only through storage.Database.
//
// The ledger, a pure value, holds the state of all live futures. Server guards it with one lock. Each request is
// decided in one step under the lock. Then, without the lock, it waits until the batch with the decision is on disk
// (writer.go). Due futures wait in their room's queue (turn.go) until they are built, claimed, submitted and confirmed
// (fire.go). recover.go starts and stops everything. No function is called with the lock and returns without it.
package internal

import (
	"context"
	"sync"
	"time"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
	"github.com/matrix-org/dendrite/futures/futureserver/internal/ledger"
	"github.com/matrix-org/dendrite/futures/futureserver/storage"
)

// Config has the settings of the operator. All fields are required except RestartGrace.
type Config struct {
	Futures       Limits
	Delayed       Limits        // for managed futures
	Slack         time.Duration // of the stored deadline; see ledger.Refresh
	RestartGrace  time.Duration // how long a future that became due while the server was down waits for a heartbeat; 0: not at all
	RoomsInFlight int
	Retention     time.Duration // of finished futures
	KeepPerUser   int           // how many finished managed futures of one user are kept
}

// Limits are the limits for one kind of futures.
type Limits = ledger.Limits

// Hooks are called when something happens. They may be nil.
type Hooks struct {
	Step  func(string)    // each step of a future's life; tests stop the process there
	Ready <-chan struct{} // nothing is sent before it is closed; nil means ready
	Storm func(bool)      // whether rooms wait because the maximum number is in flight; called at each change, in order

	Ended func(*api.Future) // each ended future except the failed ones; called by one goroutine, some time later

	Skew func() time.Duration // by how much the wall clock was set since the start; tests set it
}

// Server is the futureserver. It implements api.FutureInternalAPI.
type Server struct {
	cfg      Config
	db       storage.Database
	room     api.Room
	metrics  *Metrics
	hooks    Hooks
	outcomes *outcomes // nil if nobody wants them
	clock    clock

	delayIDs *delayIDs // of sent events

	mu     sync.Mutex // guards everything below
	ledger *ledger.Ledger

	delegations delegations

	next      *batch // collects what the next transaction writes
	writing   *batch // the batch that is being written; nil if there is none
	writingAt int64  // when that began
	kick      chan struct{}
	look      bool  // the writer must check whether it still holds the lock on the database
	confirmed int64 // when the lock was last known to be held, in the clock's time

	working   map[uint64]*room // rooms with work, by the ledger's hash of the room
	ready     readyHeap        // rooms that wait for their turn
	wakeAt    int64            // when the run loop will look at the wheel
	wake      chan struct{}
	inFlight  int
	longTurns int  // turns that have lasted so long that they no longer count as in flight
	storm     bool // rooms wait because the maximum number is in flight
	stormed   chan struct{}

	begun    bool  // rooms may have their turns
	stopping bool  // nothing new is accepted
	over     bool  // and nothing new is begun
	failed   error // why the server cannot go on

	ctx        context.Context // of everything that is in flight
	cancel     context.CancelFunc
	work       sync.WaitGroup // futures that are being sent
	loops      sync.WaitGroup
	stopCalled bool
	stopRun    chan struct{}
	stopped    chan struct{} // closed when the writer has written its last batch
	closed     chan struct{} // closed when the first Stop returns
}

const patience = 30 * time.Second // how long a request waits in all

// patiently limits the time of a request. The context's cause tells a client that hung up from our own timeout.
func patiently(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, patience, api.ErrOverloaded)
}

// decide runs f in one step under the lock, and returns the batch that makes its decision durable.
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

// clock counts Unix milliseconds by the monotonic clock. Steps of the wall clock do not affect it.
type clock struct {
	start time.Time
	age   int64 // age of the database when the clock was started
	skew  func() time.Duration
}

// nanos returns the time in Unix nanoseconds.
func (c clock) nanos(now time.Time) int64 { return c.start.UnixNano() + int64(now.Sub(c.start)) }

// now rounds down.
func (c clock) now() int64 { return c.nanos(time.Now()) / int64(time.Millisecond) }

// time reads all clocks from one reading, so that they agree.
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

// until returns how long it takes until this clock shows ms, at most an hour.
func (c clock) until(ms int64) time.Duration {
	nanos := c.nanos(time.Now())
	left := min(ms-nanos/int64(time.Millisecond), time.Hour.Milliseconds())
	return time.Duration(left)*time.Millisecond - time.Duration(nanos%int64(time.Millisecond))
}

// Done is closed when the server has stopped, by itself or by Stop.
func (s *Server) Done() <-chan struct{} { return s.stopped }

// Err returns why the server could not go on; nil if it was stopped.
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

// notify wakes a loop. It does not block if the loop is already notified.
func notify(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// sleep waits. It returns false if the server stops first.
func (s *Server) sleep(d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-s.ctx.Done():
		return false
	}
}

// backoff returns the pause after the n-th failure in a row, counted from 0: 100 ms, doubling up to 30 s.
func backoff(n int) time.Duration {
	return min(100*time.Millisecond<<min(n, 10), 30*time.Second)
}
