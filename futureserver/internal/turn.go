package internal

import (
	"cmp"
	"container/heap"
	"context"
	"math"
	"runtime"
	"slices"
	"time"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
	"github.com/matrix-org/dendrite/futures/futureserver/internal/ledger"
)

// How due futures reach their rooms. Due futures wait in their room's queue, ordered by deadline. Rooms with work wait
// in the ready heap, ordered by their first job. A room has one turn at a time, because more would fork its history and
// slow Dendrite down. At most Config.RoomsInFlight rooms have a turn. A turn takes several jobs of its room together. A
// waiting job costs a few bytes and no goroutine.

// room is a room with work.
type room struct {
	hash  uint64 // the ledger's hash of the room
	queue jobHeap
	busy  bool // it has its turn, or waits after a failure
	place int  // index in the ready heap plus 1; 0 if it is not there

	// Waiting times of jobs that are not in the queue:
	turning int64   // of the oldest job that has its turn; 0 if there is none
	aside   []int64 // of jobs that have failed for long and wait for another attempt
}

// job is a future that is to be sent.
type job struct {
	ledger.Ref
	due     int64         // since when it waits, Unix ms; the time before the server's start does not count
	at      int64         // its place in the order: the deadline, or the time at which a send token was used; 0 if it is claimed already
	send    *sendRequest  // nil if its timer ran out
	claimed bool          // its claim is durable
	leave   func()        // leaves the room's gate, which the job holds until its next attempt; nil if it does not
	future  *api.Future   // complete; nil if the job waits for its turn or was claimed before a restart
	attempt int           // failures in a row
	since   int64         // start of the first attempt
	pause   time.Duration // before the next attempt
}

// sendRequest is a request that waits until its send token has done its work.
type sendRequest struct {
	ctx  context.Context
	done chan error // buffered, so that the answer never blocks
}

// wait returns when the work is done, or when ctx is done, with its cause. A future that is already claimed is sent in
// any case.
func (r *sendRequest) wait(ctx context.Context) error {
	select {
	case err := <-r.done:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// answer passes the result to the request, if there is one.
func (j *job) answer(err error) {
	if j.send != nil {
		j.send.done <- err
	}
}

type jobHeap []job

func (h jobHeap) Len() int { return len(h) }
func (h jobHeap) Less(i, k int) bool {
	return cmp.Or(cmp.Compare(h[i].at, h[k].at), cmp.Compare(h[i].NID, h[k].NID)) < 0
}
func (h jobHeap) Swap(i, k int) { h[i], h[k] = h[k], h[i] }
func (h *jobHeap) Push(x any)   { *h = append(*h, x.(job)) }
func (h *jobHeap) Pop() any {
	last := len(*h) - 1
	j := (*h)[last]
	(*h)[last] = job{}
	*h = (*h)[:last]
	return j
}

type readyHeap []*room

func (h readyHeap) Len() int           { return len(h) }
func (h readyHeap) Less(i, k int) bool { return h[i].queue[0].at < h[k].queue[0].at }
func (h readyHeap) Swap(i, k int) {
	h[i], h[k] = h[k], h[i]
	h[i].place, h[k].place = i+1, k+1
}
func (h *readyHeap) Push(x any) {
	rm := x.(*room)
	*h = append(*h, rm)
	rm.place = len(*h)
}
func (h *readyHeap) Pop() any {
	last := len(*h) - 1
	rm := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	rm.place = 0
	return rm
}

// run turns the wheel. No other goroutine does.
func (s *Server) run() {
	defer s.loops.Done()
	select {
	case <-s.hooks.Ready:
	case <-s.stopRun:
		return
	}
	s.begin()
	timer := time.NewTimer(0)
	defer timer.Stop()
	alarm := newAlarm()
	defer alarm.close()
	for {
		select {
		case <-timer.C:
		case <-s.wake:
		case <-s.stopRun:
			return
		}
		for !s.turn() {
			yield()
		}
		pause := s.dispatchDue()
		timer.Reset(max(0, pause))
		alarm.set(pause)
	}
}

// begin allows the rooms to have their turns.
func (s *Server) begin() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.begun = true
}

// dispatchDue queues everything that is due and then starts the rooms, so that events are sent in order. It returns
// when to look again.
func (s *Server) dispatchDue() (pause time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dispatch()
	return s.clock.until(s.wakeAt)
}

// rewind makes the run loop look earlier if something is due before its next look. The caller must hold the lock.
func (s *Server) rewind() {
	if next := s.ledger.Next(); next < s.wakeAt && !s.stopping {
		s.wakeAt = next
		notify(s.wake)
	}
}

// atOnce is how many entries of the wheel, or futures of a batch, are handled while the lock is held. Each heartbeat
// needs the lock.
const atOnce = 128

// yield lets waiters in: an immediate re-lock would barge past them for up to 1 ms.
func yield() { runtime.Gosched() }

// turn advances the wheel a little and reports whether it is up to date.
func (s *Server) turn() (done bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopping {
		s.wakeAt = math.MaxInt64
		return true
	}
	done = s.ledger.Due(s.clock.time(), atOnce, func(ref ledger.Ref, deadline int64, room uint64) {
		s.enqueue(room, job{Ref: ref, at: deadline})
	})
	s.wakeAt = s.ledger.Next()
	return done
}

// enqueue adds a job to a room; dispatch starts it. The caller must hold the lock.
func (s *Server) enqueue(hash uint64, j job) {
	if s.over {
		j.answer(api.ErrStopping)
		return
	}
	if j.due == 0 {
		j.due = max(j.at, s.clock.start.UnixMilli())
	}
	rm := s.working[hash]
	if rm == nil {
		rm = &room{hash: hash}
		s.working[hash] = rm
	}
	heap.Push(&rm.queue, j)
	s.offer(rm)
}

// offer puts a room into the ready heap if it has work and is free. The caller must hold the lock.
func (s *Server) offer(rm *room) {
	switch {
	case rm.busy || len(rm.queue) == 0:
	case rm.place != 0:
		heap.Fix(&s.ready, rm.place-1)
	default:
		heap.Push(&s.ready, rm)
	}
}

// dispatch starts rooms up to the maximum in flight. The caller must hold the lock.
func (s *Server) dispatch() {
	for s.begun && s.inFlight < s.cfg.RoomsInFlight && len(s.ready) > 0 && !s.stopping {
		rm := heap.Pop(&s.ready).(*room)
		rm.busy = true
		jobs := rm.nextJobs(s.ready)
		rm.turning = oldest(jobs)
		landed := s.takeOff()
		s.work.Go(func() { s.advance(rm, jobs, landed) })
	}
	s.metrics.waiting(len(s.ready))
	if storm := s.begun && len(s.ready) > 0 && !s.stopping; storm != s.storm {
		s.storm = storm
		notify(s.stormed)
	}
}

// tellStorms calls the hook without the lock, because the hook may take long.
func (s *Server) tellStorms() {
	defer s.loops.Done()
	told := false
	tell := func(storm bool) {
		if storm != told {
			told = storm
			s.hooks.Storm(storm)
		}
	}
	for {
		select {
		case <-s.stormed:
			tell(s.isStorm())
		case <-s.ctx.Done():
			tell(false)
			return
		}
	}
}

func (s *Server) isStorm() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.storm
}

const (
	// longTurn is the time after which a turn no longer counts as in flight, so that another room can start.
	longTurn = 2 * time.Second
	// mostLongTurns is how many such turns there may be.
	mostLongTurns = 16
)

// takeOff counts a turn as in flight until landed is called or the turn has lasted long. The caller of either must hold
// the lock.
func (s *Server) takeOff() (landed func()) {
	s.inFlight++
	long, over := false, false
	timer := time.AfterFunc(longTurn, s.locked(func() {
		if !over && s.longTurns < mostLongTurns {
			long = true
			s.longTurns++
			s.inFlight--
			s.dispatch()
		}
	}))
	return func() {
		timer.Stop()
		over = true
		if long {
			s.longTurns--
		} else {
			s.inFlight--
		}
	}
}

const (
	// maxPerTurn is how many events are sent to a room together. More is no cheaper, and would delay other events of
	// the room.
	maxPerTurn = 16
	// ahead is by how many milliseconds of their deadlines they may overtake events of other rooms.
	ahead = 1000
)

// nextJobs returns the next jobs; waiting are the rooms that wait. A job that was claimed earlier goes first, alone.
func (rm *room) nextJobs(waiting readyHeap) (jobs []job) {
	until := int64(math.MaxInt64)
	if len(waiting) > 0 {
		until = waiting[0].queue[0].at + ahead
	}
	for len(rm.queue) > 0 && len(jobs) < maxPerTurn {
		if next := &rm.queue[0]; len(jobs) > 0 && (next.claimed != jobs[0].claimed || next.at > until) {
			break
		}
		jobs = append(jobs, heap.Pop(&rm.queue).(job))
	}
	return jobs
}

// patient is the number of failures in a row after which a job no longer delays the others of its room.
const patient = 8

// advance takes some jobs as far as possible. Jobs that must be retried stay first in their room, and the room waits
// with them; other rooms go on. A job that has failed for long waits alone.
func (s *Server) advance(rm *room, jobs []job, landed func()) {
	later := s.fire(jobs)
	s.mu.Lock()
	defer s.mu.Unlock()
	landed()
	rm.turning = 0
	if s.over {
		return
	}
	var pause time.Duration
	for _, j := range later {
		if !j.claimed {
			j.future = nil
		}
		if j.attempt < patient {
			pause = max(pause, j.pause)
			heap.Push(&rm.queue, j)
			continue
		}
		rm.aside = append(rm.aside, j.due)
		time.AfterFunc(j.pause, s.locked(func() {
			at := slices.Index(rm.aside, j.due)
			rm.aside = slices.Delete(rm.aside, at, at+1)
			s.enqueue(rm.hash, j)
			s.dispatch()
		}))
	}
	if pause > 0 {
		time.AfterFunc(pause, s.locked(func() { s.release(rm) }))
	} else {
		s.release(rm)
	}
	s.dispatch()
}

// locked returns f wrapped in the lock.
func (s *Server) locked(f func()) func() {
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		f()
	}
}

// release frees a room for its next job. The caller must hold the lock.
func (s *Server) release(rm *room) {
	rm.busy = false
	if s.over {
		return
	}
	s.offer(rm)
	if len(rm.queue) == 0 && len(rm.aside) == 0 {
		delete(s.working, rm.hash)
	}
	s.dispatch()
}

// dismiss answers all requests that still wait for a send token. Nothing new is begun.
func (s *Server) dismiss() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.over = true
	for _, rm := range s.working {
		for i := range rm.queue {
			rm.queue[i].answer(api.ErrStopping)
		}
	}
	clear(s.working)
	s.ready = nil
}
