// Package internal is the core of the futureserver: one future's life, from the request to its outcome. It
// knows the rooms only through api.Room and the disk only through storage.Database.
//
// Every transition is decided under one lock in memory (table.go and what it is made of, create.go, act.go), made durable
// by one row change in a group commit (commit.go), and never undone. What is due waits in its room's queue
// (run.go) until it is built, claimed, submitted and proved (fire.go). recover.go starts and stops it all.
package internal

import (
	"context"
	"sync"
	"time"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
	"github.com/matrix-org/dendrite/futures/futureserver/internal/wheel"
	"github.com/matrix-org/dendrite/futures/futureserver/storage"
)

// Config is what an operator can set. All fields are required.
type Config struct {
	Futures       Limits
	Delayed       Limits        // of managed futures
	Slack         time.Duration // of the stored deadline; see refresh
	RoomsInFlight int
	Retention     time.Duration // of finished futures
	KeepPerUser   int           // how many finished futures are kept of one user
}

// Hooks are told what happens. They may be nil.
type Hooks struct {
	Step  func(string) // each step of a future's life; tests stop the process there
	Storm func(bool)   // whether rooms wait because as many as may be are in flight; called when that changes, in order
}

// Limits are those of one kind of futures.
type Limits struct {
	MaxTimeout time.Duration // at most 49 days
	MaxPerUser int
}

// Server is the futureserver. It implements api.FutureInternalAPI.
type Server struct {
	cfg     Config
	db      storage.Database
	room    api.Room
	metrics *Metrics
	hooks   Hooks
	clock   clock

	delayIDs *delayIDs // of what has been sent

	naming [64]sync.Mutex // by user: held while a group name is looked up on disk

	mu        sync.Mutex // guards everything below
	table     *table
	wheel     *wheel.Wheel
	wakeAt    int64 // when the run loop will look at the wheel
	wake      chan struct{}
	ready     readyHeap // rooms with something to do
	inFlight  int
	storm     bool // rooms wait because as many as may be are in flight
	longTurns int  // in flight for so long that they do not count
	lastNID   api.NID
	passing   map[api.Secret]passing
	next      *batch // gathers what the next transaction writes
	kick      chan struct{}
	unwritten int      // ends that are decided and not yet on disk
	dirty     []uint32 // slots whose stored deadline is to be raised
	offset    int64    // of the wall clock, when deadlines were last known to be right on disk
	stopping  bool     // nothing new is accepted
	failed    error    // why the server cannot go on

	ctx        context.Context // of everything that is in flight
	cancel     context.CancelFunc
	work       sync.WaitGroup // futures on their way into a room
	loops      sync.WaitGroup // the run loop and the writer
	stopCalled bool
	stopRun    chan struct{}
	stopped    chan struct{} // closed when the writer has written its last batch
}

// clock counts Unix milliseconds by the monotonic clock: a step of the wall clock does not reach it.
type clock struct{ start time.Time }

// now never is ahead of the true time.
func (c clock) now() int64 {
	return c.start.UnixMilli() + time.Since(c.start).Milliseconds()
}

// ceil never is behind the clock's own true time, so that a deadline counted from it is never early.
func (c clock) ceil() int64 {
	return c.start.UnixMilli() + int64((time.Since(c.start)+time.Millisecond-1)/time.Millisecond)
}

// until is how long it is until this clock shows that time, an hour at most. Not a whole number of milliseconds:
// counted from now(), it would end up to one too late.
func (c clock) until(ms int64) time.Duration {
	since := time.Since(c.start)
	left := min(ms-c.start.UnixMilli()-since.Milliseconds(), time.Hour.Milliseconds())
	return time.Duration(left)*time.Millisecond - since%time.Millisecond
}

// wall converts a time of this clock to the wall clock's, as it stands now: that is what goes to disk.
func (c clock) wall(ms int64) int64 {
	now := time.Now() // one reading for both clocks: two would differ by chance
	step := now.Round(0).Sub(c.start.Round(0)) - now.Sub(c.start)
	if c.start.Nanosecond()%int(time.Millisecond) != 0 {
		ms++ // this clock began a part of a millisecond early
	}
	return ms + step.Round(time.Millisecond).Milliseconds()
}

// Done is closed when the server has stopped, by itself or by Stop.
func (s *Server) Done() <-chan struct{} { return s.stopped }

// Err returns why the server could not go on, nil if it was stopped.
func (s *Server) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failed
}

// notify wakes a loop that may be waking already.
func notify(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
