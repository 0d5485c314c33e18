package internal

import (
	"cmp"
	"container/heap"
	"context"
	"math"
	"runtime"
	"time"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
	"github.com/matrix-org/dendrite/futures/futureserver/internal/ledger"
)

// From the wheel to the rooms. What is due waits in its room's queue, ordered by deadline; rooms with work
// wait in the ready heap, ordered by their first job. A room has one turn at a time, because more would
// fork its history and make Dendrite slower, and at most Config.RoomsInFlight rooms have one. A turn takes
// several jobs of the room together. What waits costs a few bytes and no goroutine.

// room is a room where something is to be done.
type room struct {
	hash  uint64 // what the ledger calls it
	queue jobHeap
	busy  bool // it has its turn, or is backing off after a failure
	aside int  // jobs that have failed for long and wait for another try
	place int  // in the ready heap, from 1; 0 if it is not there
}

// job is a future on its way into the room.
type job struct {
	ledger.Ref
	at      int64         // what it is ordered by: the deadline, or the time a send token came; 0 if claimed already
	send    *sendRequest  // nil if its timer ran out
	claimed bool          // its claim is durable
	leave   func()        // the room's gate, which this job keeps until its next attempt; nil if it does not
	future  *api.Future   // whole; nil if it waits for its turn, or was claimed before a restart
	attempt int           // failures in a row
	since   int64         // when the first attempt began
	pause   time.Duration // before it goes on
}

// sendRequest is somebody waiting for a send token to do its work.
type sendRequest struct {
	ctx  context.Context
	done chan error // buffered: the answer never waits for the asker
}

// wait returns when the work is done, or when ctx is done, with its cause. A future that has been claimed by then is
// sent all the same.
func (r *sendRequest) wait(ctx context.Context) error {
	select {
	case err := <-r.done:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// answer tells the asker, if there is one.
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

// run turns the wheel: the only goroutine that does.
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

// begin lets the rooms have their turns.
func (s *Server) begin() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.begun = true
}

// dispatchDue starts what is due, when all of it is in its queue: it goes out in order. It returns when to look again.
func (s *Server) dispatchDue() (pause time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dispatch()
	return s.clock.until(s.wakeAt)
}

// rewind has the run loop look earlier if something is due before it would. Under the lock.
func (s *Server) rewind() {
	if next := s.ledger.Next(); next < s.wakeAt && !s.stopping {
		s.wakeAt = next
		notify(s.wake)
	}
}

// atOnce is how many entries of the wheel, or futures of a batch, are looked at while the lock is held: each heartbeat
// needs it.
const atOnce = 128

// yield lets those who wait for the lock have it. Otherwise whoever releases it and goes on takes it again before they
// are awake, which sync.Mutex allows for a millisecond.
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

// enqueue gives a room one more job; dispatch starts it. Under the lock.
func (s *Server) enqueue(hash uint64, j job) {
	if s.over {
		j.answer(api.ErrStopping)
		return
	}
	rm := s.working[hash]
	if rm == nil {
		rm = &room{hash: hash}
		s.working[hash] = rm
	}
	heap.Push(&rm.queue, j)
	s.offer(rm)
}

// offer puts a room where dispatch finds it, if it has work and is free. Under the lock.
func (s *Server) offer(rm *room) {
	switch {
	case rm.busy || len(rm.queue) == 0:
	case rm.place != 0:
		heap.Fix(&s.ready, rm.place-1)
	default:
		heap.Push(&s.ready, rm)
	}
}

// dispatch starts as many rooms as may be in flight. Under the lock.
func (s *Server) dispatch() {
	for s.begun && s.inFlight < s.cfg.RoomsInFlight && len(s.ready) > 0 && !s.stopping {
		rm := heap.Pop(&s.ready).(*room)
		rm.busy = true
		jobs := rm.take(s.ready)
		landed := s.takeOff()
		s.work.Go(func() { s.advance(rm, jobs, landed) })
	}
	s.metrics.waiting(len(s.ready))
	if storm := s.begun && len(s.ready) > 0 && !s.stopping; storm != s.storm {
		s.storm = storm
		notify(s.stormed)
	}
}

// tellStorms calls the hook, outside the lock, for it may take its time.
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
	// longTurn is after how long a room no longer holds up others: another one takes its place in flight.
	longTurn = 2 * time.Second
	// mostLongTurns is how many rooms may be in flight besides because of that.
	mostLongTurns = 16
)

// takeOff counts a turn as in flight until landed is called, or it has lasted long. Both under the lock.
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
	// together is how many events go into a room at once, at the most. More is not cheaper, and would keep
	// other events of the room waiting.
	together = 16
	// ahead is by how many ms of their deadlines they may overtake those of other rooms.
	ahead = 1000
)

// take returns the jobs that are next, while those rooms wait. What was claimed before goes first, and by itself.
func (rm *room) take(waiting readyHeap) (jobs []job) {
	until := int64(math.MaxInt64)
	if len(waiting) > 0 {
		until = waiting[0].queue[0].at + ahead
	}
	for len(rm.queue) > 0 && len(jobs) < together {
		if next := &rm.queue[0]; len(jobs) > 0 && (next.claimed != jobs[0].claimed || next.at > until) {
			break
		}
		jobs = append(jobs, heap.Pop(&rm.queue).(job))
	}
	return jobs
}

// patient is after how many failures in a row a job no longer holds up the others of its room.
const patient = 8

// advance takes some jobs as far as they go now. Those that have to wait stay first in their room, and the room
// waits with them, but nobody else does. One that has failed for long waits alone.
func (s *Server) advance(rm *room, jobs []job, landed func()) {
	later := s.fire(jobs)
	s.mu.Lock()
	defer s.mu.Unlock()
	landed()
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
		rm.aside++
		time.AfterFunc(j.pause, s.locked(func() {
			rm.aside--
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

// locked returns f with the lock around it.
func (s *Server) locked(f func()) func() {
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		f()
	}
}

// release makes a room free for its next job. Under the lock.
func (s *Server) release(rm *room) {
	rm.busy = false
	if s.over {
		return
	}
	s.offer(rm)
	if len(rm.queue) == 0 && rm.aside == 0 {
		delete(s.working, rm.hash)
	}
	s.dispatch()
}

// dismiss answers everybody who still waits for a send token; nothing is begun any more.
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
