package internal

import (
	"context"
	"errors"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
	"github.com/matrix-org/dendrite/futures/futureserver/storage"
)

// Group commit: while one transaction is being written, the next one gathers. A decision joins the batch
// under the same lock that made it, so the disk sees decisions in their order; whoever needs durability
// waits for the batch.

const (
	maxBatch   = 10_000                 // inserts and raised deadlines in one transaction
	dirtyDelay = 500 * time.Millisecond // the longest for which raised deadlines gather before they are written
	patience   = 30 * time.Second       // how long a request waits for the database
	writePause = time.Second            // the longest between two tries to write what has been decided
	sweepEvery = time.Minute            // how often finished futures are forgotten
	keepSweeps = 10                     // of so many sweeps one counts the finished futures of each user
)

// batch is one transaction and those who wait for it.
type batch struct {
	storage.Batch
	slots  []uint32     // of Inserts
	again  []bool       // of Inserts: state changed while it was being stored
	failed []error      // of Inserts, nil if all went well
	raises []raise      // of Extends
	passed []api.Secret // no longer in passing when it is on disk
	result storage.Result
	err    error // of everything but the inserts
	done   chan struct{}
}

// raise is what memory learns when Extends[i] is durable.
type raise struct {
	slot uint32
	high int64 // the new stored deadline on this server's clock
}

func newBatch() *batch { return &batch{done: make(chan struct{})} }

// batch returns the batch that is gathering and makes sure that it is written soon. Under the lock.
func (s *Server) batch() *batch {
	notify(s.kick)
	return s.next
}

// wait returns when the batch is durable, or after a while that nobody would want to wait longer. What the
// batch holds has been decided and will be written all the same.
func (b *batch) wait(ctx context.Context) error {
	timeout := time.NewTimer(patience)
	defer timeout.Stop()
	select {
	case <-b.done:
		return b.err
	case <-ctx.Done():
		return ctx.Err()
	case <-timeout.C:
		return api.ErrOverloaded
	}
}

// extend asks for a higher stored deadline. Under the lock.
func (s *Server) extend(b *batch, slot uint32, r *record, high int64) {
	b.Extends = append(b.Extends, storage.Extend{NID: r.nid, Deadline: s.clock.wall(high)})
	b.raises = append(b.raises, raise{slot, high})
}

// kickLater has the writer look at the dirty list soon: well before the next heartbeat, which is likely to be a part of
// the slack.
func (s *Server) kickLater() {
	time.AfterFunc(min(dirtyDelay, s.cfg.Slack/64), func() { notify(s.kick) })
}

// write is the writer: the only goroutine that changes the database.
func (s *Server) write() {
	defer s.loops.Done()
	defer close(s.stopped)
	sweep := time.NewTicker(sweepEvery)
	defer sweep.Stop()
	for sweeps := 0; ; {
		var forget int64
		select {
		case <-s.kick:
		case <-sweep.C:
			sweeps++
			forget = s.clock.wall(s.clock.now()) - s.cfg.Retention.Milliseconds()
			s.noticeClockStep()
		case <-s.ctx.Done():
			s.abort()
			return
		}
		b := s.take(forget)
		if forget != 0 && sweeps%keepSweeps == 0 {
			b.KeepPerUser = s.cfg.KeepPerUser
		}
		if b.Rows() > 0 || b.ForgetBefore != 0 {
			s.commit(b)
		}
		s.settle(b)
		if forget != 0 { // a batch forgets a bounded number; the rest follows soon
			if b.result.Forgotten > 0 {
				sweep.Reset(time.Second)
			} else {
				sweep.Reset(sweepEvery)
			}
		}
	}
}

// take closes the gathering batch and opens the next one.
func (s *Server) take(forget int64) *batch {
	for n := 0; n < maxBatch && s.gather(); n += atOnce {
		yield()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.next
	s.next = newBatch()
	b.ForgetBefore = forget
	if len(s.dirty) > 0 {
		notify(s.kick)
	}
	return b
}

// gather has some raised deadlines join the gathering batch, and reports whether there are more.
func (s *Server) gather() (more bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	slack := s.cfg.Slack.Milliseconds()
	n := min(len(s.dirty), atOnce)
	for _, slot := range s.dirty[:n] {
		if r := s.table.at(slot); r.flags&dirty != 0 && r.state() == api.Scheduled {
			r.flags &^= dirty
			s.extend(s.next, slot, r, r.deadline+slack)
		}
	}
	s.dirty = s.dirty[n:]
	return len(s.dirty) > 0
}

// commit writes the batch, until it is written or the server stops: what has been decided is never undone.
// Only an insert may fail, for nobody has been told of it yet.
func (s *Server) commit(b *batch) {
	s.hooks.Step("commit")
	defer s.hooks.Step("committed")
	if len(b.Ends) > 0 {
		defer s.hooks.Step("finalised")
	}
	err := s.transact(b)
	if err == nil {
		return
	}
	logrus.WithError(err).Error("futureserver: the database refused a transaction; trying again")
	inserts := b.Inserts
	b.Inserts = nil
	for attempt := 0; b.Rows() > 0; attempt++ {
		if err = s.transact(b); err == nil {
			break
		}
		if !s.sleep(min(backoff(attempt), writePause)) {
			b.err = api.ErrStopping
			break
		}
	}
	b.Inserts = inserts
	s.insertSingly(b, err)
}

// fail ends everything: the database is another server's now.
func (s *Server) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failed, s.stopping = err, true
	s.cancel()
}

// insertSingly writes a failed batch's inserts one by one, so that a bad one does not take others with it.
func (s *Server) insertSingly(b *batch, err error) {
	b.failed = make([]error, len(b.Inserts))
	b.result.Duplicate = make([]bool, len(b.Inserts))
	hopeless := 0
	for i, f := range b.Inserts {
		if hopeless < 3 && b.err == nil {
			var result storage.Result
			result, err = s.db.Commit(s.ctx, &storage.Batch{Inserts: []*api.Future{f}})
			if err == nil {
				b.result.Duplicate[i] = result.Duplicate[0]
				hopeless = 0
				continue
			}
			hopeless++
		}
		b.failed[i] = errors.Join(errNotStored, err)
	}
}

var errNotStored = errors.New("the future could not be stored")

func (s *Server) transact(b *batch) error {
	started := time.Now()
	result, err := s.db.Commit(s.ctx, &b.Batch)
	if errors.Is(err, storage.ErrLockLost) {
		s.fail(err)
	}
	if err != nil {
		return err
	}
	b.result = result
	s.metrics.committed(b.Rows(), time.Since(started))
	return nil
}

// settle tells memory and those who wait what the database has said.
func (s *Server) settle(b *batch) {
	if b.err == nil {
		s.settleRaises(b)
	}
	s.mu.Lock()
	for _, secret := range b.passed {
		delete(s.passing, secret)
	}
	b.again = make([]bool, len(b.Inserts))
	for i := range b.Inserts {
		s.settleInsert(b, i)
	}
	s.unwritten -= len(b.Ends)
	s.mu.Unlock()
	close(b.done)
}

// settleRaises tells memory which stored deadlines are higher now.
func (s *Server) settleRaises(b *batch) {
	for first := 0; first < len(b.raises); first += atOnce {
		s.mu.Lock()
		for i := first; i < min(first+atOnce, len(b.raises)); i++ {
			if r := s.table.live(b.raises[i].slot, b.Extends[i].NID); r != nil {
				r.raise(b.raises[i].high)
			}
		}
		s.mu.Unlock()
		yield()
	}
}

// abort tells those who wait, and whoever will, that the server has stopped without writing.
func (s *Server) abort() {
	b := s.take(0)
	s.mu.Lock()
	s.next.err = api.ErrStopping
	close(s.next.done)
	s.mu.Unlock()
	b.err = api.ErrStopping
	b.failed = make([]error, len(b.Inserts))
	b.result.Duplicate = make([]bool, len(b.Inserts))
	b.result.Lost = make([]bool, len(b.Claims))
	for i := range b.failed {
		b.failed[i] = api.ErrStopping
	}
	s.settle(b)
}

// noticeClockStep writes all deadlines anew when the wall clock was set: those on disk were counted by the old
// one, and would be early after a crash if it was set forward.
func (s *Server) noticeClockStep() {
	s.mu.Lock()
	defer s.mu.Unlock()
	offset := s.clock.wall(0)
	step := offset - s.offset
	if max(step, -step) < time.Second.Milliseconds() {
		return
	}
	s.offset = offset
	logrus.Warnf("futureserver: the system clock was set by %d ms; timers are not affected", step)
	for slot := uint32(1); slot <= s.table.records.last; slot++ {
		if r := s.table.at(slot); r.state() == api.Scheduled && r.timeout != 0 && r.flags&(creating|dirty) == 0 {
			r.flags |= dirty
			s.dirty = append(s.dirty, slot)
		}
	}
	notify(s.kick)
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
