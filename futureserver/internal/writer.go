package internal

import (
	"context"
	"errors"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
	"github.com/matrix-org/dendrite/futures/futureserver/internal/ledger"
	"github.com/matrix-org/dendrite/futures/futureserver/storage"
)

// Group commit: while one transaction is being written, the next one is collected. The changes of a decision join the
// batch under the same lock that made the decision, so the disk sees all decisions in order. Callers that need
// durability wait for the batch.

const (
	maxBatch   = 10_000                 // inserts and raised deadlines in one transaction
	maxBytes   = 32 << 20               // of futures in one transaction
	dirtyDelay = 500 * time.Millisecond // how long raised deadlines are collected at most before they are written
	writePause = time.Second            // longest pause between two attempts to write a batch
	sweepEvery = time.Minute            // how often finished futures are forgotten
	trimAtOnce = 100                    // users whose finished futures are counted in one sweep
)

// batch is one transaction and its waiters.
type batch struct {
	ledger.Changes
	failed []error // of the inserts; nil if all succeeded
	result storage.Result
	err    error // of everything but the inserts
	stored []*delegation
	over   []*delegation // that it ends
	done   chan struct{}
}

func newBatch(number uint64) *batch {
	return &batch{Changes: ledger.Changes{Number: number}, done: make(chan struct{})}
}

// batch returns the batch that is being collected, and makes sure that it is written soon. The caller must hold the
// lock.
func (s *Server) batch() *batch {
	notify(s.kick)
	return s.next
}

// wait returns when the batch is durable, or when ctx is done, with its cause. What the batch holds is decided and will
// be written in any case.
func (b *batch) wait(ctx context.Context) error {
	select {
	case <-b.done:
		return b.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// kickLater makes the writer look at the dirty deadlines soon: well before the next heartbeat, whose interval is
// probably a fraction of the slack.
func (s *Server) kickLater() {
	time.AfterFunc(min(dirtyDelay, s.cfg.Slack/64), func() { notify(s.kick) })
}

// write is the writer, the only goroutine that changes the database.
func (s *Server) write() {
	defer s.loops.Done()
	defer close(s.stopped)
	sweep := time.NewTicker(sweepEvery)
	defer sweep.Stop()
	for {
		sweeping := false
		select {
		case <-s.kick:
		case <-sweep.C:
			sweeping = true
		case <-s.ctx.Done():
			s.abort()
			return
		}
		b, look := s.closeBatch()
		if sweeping {
			s.forget(b)
		}
		if b.Rows() > 0 || b.Age != 0 || look {
			s.commit(b)
		}
		s.settle(b)
		if sweeping { // a batch forgets a limited number; the rest follows soon
			if b.result.Forgotten > 0 {
				sweep.Reset(time.Second)
			} else {
				sweep.Reset(sweepEvery)
			}
		}
	}
}

// forget makes the batch delete futures that finished long ago. The age counts the time for which servers have run, so
// that steps of the wall clock do not matter.
func (s *Server) forget(b *batch) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b.Age = s.clock.time().Age
	b.ForgetBefore = max(0, b.Age-s.cfg.Retention.Milliseconds())
	if b.KeepPerUser = s.cfg.KeepPerUser; b.KeepPerUser != 0 {
		b.Trims = s.ledger.Trims(b.KeepPerUser, trimAtOnce)
	}
}

// closeBatch closes the collected batch and opens the next one. look means that it must be written even if it is empty.
func (s *Server) closeBatch() (b *batch, look bool) {
	for n := 0; n < maxBatch && s.gather(); n += atOnce {
		yield()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	b = s.next
	s.next, s.writing, s.writingAt = newBatch(b.Number+1), b, s.clock.now()
	look, s.look = s.look, false
	s.endDelegations(b)
	if s.ledger.Ungathered() {
		notify(s.kick)
	}
	return b, look
}

// gather adds raised deadlines to the batch, up to its limit, and reports whether there are more.
func (s *Server) gather() (more bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ledger.Gather(&s.next.Changes, atOnce, s.clock.time())
}

// commit writes the batch. It retries until the batch is written or the server stops, because decisions are never
// undone. Only an insert may fail, because nobody has been told of it yet.
func (s *Server) commit(b *batch) {
	s.hooks.Step("commit")
	defer s.written(b)
	err := s.transact(b, &b.Batch)
	if err == nil {
		return
	}
	logrus.WithError(err).Error("futureserver: the database refused a transaction; trying again")
	rest := b.Batch
	rest.Inserts = nil
	for attempt := 0; rest.Rows() > 0; attempt++ {
		if err = s.transact(b, &rest); err == nil {
			break
		}
		if !s.sleep(min(backoff(attempt), writePause)) {
			b.err = api.ErrStopping
			break
		}
	}
	s.insertSingly(b, err)
}

// fail stops the server, because the database belongs to another server now.
func (s *Server) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failed, s.stopping = err, true
	s.cancel()
}

// insertSingly writes the inserts of a failed batch one by one, so that a bad insert does not affect the others. A
// future that was turned away meanwhile is not written: the change that deletes its row is on disk already, or is in
// the next batch.
func (s *Server) insertSingly(b *batch, err error) {
	b.failed = make([]error, len(b.Inserts))
	b.result.Duplicate = make([]bool, len(b.Inserts))
	hopeless := 0
	for i, f := range b.Inserts {
		if why := s.turnedAway(b.Arriving()[i]); why != nil {
			b.failed[i] = why
			continue
		}
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

// written reports the batch's steps to the hook.
func (s *Server) written(b *batch) {
	if len(b.Ends) > 0 {
		s.hooks.Step("finalised")
	}
	if len(b.Undos) > 0 {
		s.hooks.Step("withdrawn")
	}
	if n := len(b.Extends); n > 0 { // a batch seldom has several kinds
		switch last := b.Extends[n-1]; {
		case last.Grace:
			s.hooks.Step("graced")
		case last.Exact:
			s.hooks.Step("exact")
		default:
			s.hooks.Step("raised")
		}
	}
	s.hooks.Step("committed")
}

func (s *Server) turnedAway(a *ledger.Arrival) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return a.Err
}

var errNotStored = errors.New("the future could not be stored")

func (s *Server) transact(b *batch, changes *storage.Batch) error {
	started := time.Now()
	result, err := s.db.Commit(s.ctx, changes)
	if errors.Is(err, storage.ErrLockLost) {
		s.fail(err)
	}
	if err != nil {
		return err
	}
	b.result = result
	s.metrics.committed(changes.Rows(), time.Since(started))
	return nil
}

// settle applies the result of the transaction to memory and wakes the waiters.
func (s *Server) settle(b *batch) {
	if b.err == nil {
		s.confirmRaises(b)
		s.outcomes.note(b.Ends)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writing = nil
	s.ledger.Written(&b.Changes, b.result, b.failed, s.clock.time(), &s.next.Changes)
	if s.next.Rows() > 0 {
		notify(s.kick)
	}
	s.rewind()
	for i := range b.Ends {
		s.metrics.ended(b.Ends[i].State, b.Ends[i].Failure)
	}
	for _, d := range b.stored {
		if d.written == b {
			d.written = nil
		}
	}
	for _, d := range b.over {
		close(d.done)
	}
	close(b.done)
}

// confirmRaises tells the ledger which stored deadlines have been raised.
func (s *Server) confirmRaises(b *batch) {
	for first := 0; first < len(b.Extends); first += atOnce {
		s.mu.Lock()
		s.ledger.Confirm(&b.Changes, first, first+atOnce)
		s.mu.Unlock()
		yield()
	}
}

// abort tells present and future waiters that the server has stopped without writing the batch.
func (s *Server) abort() {
	b, _ := s.closeBatch()
	b.err = api.ErrStopping
	b.failed = make([]error, len(b.Inserts))
	b.result.Lost = make([]bool, len(b.Claims))
	for i := range b.failed {
		b.failed[i] = api.ErrStopping
	}
	s.settle(b)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.next.err = api.ErrStopping
	close(s.next.done)
}

// ended waits until everything that has left memory is on disk.
func (s *Server) ended(ctx context.Context) error {
	if b := s.unwritten(); b != nil {
		return b.wait(ctx)
	}
	return nil
}

func (s *Server) unwritten() *batch {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ledger.Unwritten() == 0 {
		return nil
	}
	return s.batch()
}
