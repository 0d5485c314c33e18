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

// Group commit: while one transaction is being written, the next one gathers. A decision's changes join the batch under
// the same lock that made it, so the disk sees decisions in their order; whoever needs durability waits for the batch.

const (
	maxBatch   = 10_000                 // inserts and raised deadlines in one transaction
	maxBytes   = 32 << 20               // of futures in one transaction
	dirtyDelay = 500 * time.Millisecond // the longest for which raised deadlines gather before they are written
	writePause = time.Second            // the longest between two tries to write what has been decided
	sweepEvery = time.Minute            // how often finished futures are forgotten
	trimAtOnce = 100                    // users whose finished futures are counted in one sweep
)

// batch is one transaction and those who wait for it.
type batch struct {
	ledger.Changes
	failed []error // of Inserts; nil if all went well
	result storage.Result
	err    error         // of everything but the inserts
	over   []*delegation // that it ends
	done   chan struct{}
}

func newBatch(number uint64) *batch {
	return &batch{Changes: ledger.Changes{Number: number}, done: make(chan struct{})}
}

// batch returns the batch that is gathering and makes sure that it is written soon. Under the lock.
func (s *Server) batch() *batch {
	notify(s.kick)
	return s.next
}

// wait returns when the batch is durable, or when ctx is done, with its cause. What the batch holds has been decided and
// will be written all the same.
func (b *batch) wait(ctx context.Context) error {
	select {
	case <-b.done:
		return b.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// kickLater has the writer look at the dirty deadlines soon: well before the next heartbeat, which is likely to be a part
// of the slack.
func (s *Server) kickLater() {
	time.AfterFunc(min(dirtyDelay, s.cfg.Slack/64), func() { notify(s.kick) })
}

// write is the writer: the only goroutine that changes the database.
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
		b, look := s.take()
		if sweeping {
			s.forget(b)
		}
		if b.Rows() > 0 || b.Age != 0 || look {
			s.commit(b)
		}
		s.settle(b)
		if sweeping { // a batch forgets a bounded number; the rest follows soon
			if b.result.Forgotten > 0 {
				sweep.Reset(time.Second)
			} else {
				sweep.Reset(sweepEvery)
			}
		}
	}
}

// forget has the batch delete what has been finished for long, by how long servers have run: no step of the wall clock
// makes anything older.
func (s *Server) forget(b *batch) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b.Age = s.clock.time().Age
	b.ForgetBefore = max(0, b.Age-s.cfg.Retention.Milliseconds())
	if b.KeepPerUser = s.cfg.KeepPerUser; b.KeepPerUser != 0 {
		b.Trims = s.ledger.Trims(b.KeepPerUser, trimAtOnce)
	}
}

// take closes the gathering batch and opens the next one. look: it is to be written even if it is empty.
func (s *Server) take() (b *batch, look bool) {
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

// gather has some raised deadlines join the gathering batch, and reports whether there are more.
func (s *Server) gather() (more bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ledger.Gather(&s.next.Changes, atOnce, s.clock.time())
}

// commit writes the batch, until it is written or the server stops: what has been decided is never undone.
// Only an insert may fail, for nobody has been told of it yet.
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

// fail ends everything: the database is another server's now.
func (s *Server) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failed, s.stopping = err, true
	s.cancel()
}

// insertSingly writes a failed batch's inserts one by one, so that a bad one does not take others with it. Who was turned
// away meanwhile is not written any more: what takes the row back is on disk already, or comes with the next batch.
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

// written tells which steps the batch was.
func (s *Server) written(b *batch) {
	if len(b.Ends) > 0 {
		s.hooks.Step("finalised")
	}
	if len(b.Undos) > 0 {
		s.hooks.Step("withdrawn")
	}
	if n := len(b.Extends); n > 0 { // a batch rarely has several kinds
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

// settle tells memory and those who wait what the database has said.
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
	for _, d := range b.over {
		close(d.done)
	}
	close(b.done)
}

// confirmRaises tells memory which stored deadlines are higher now.
func (s *Server) confirmRaises(b *batch) {
	for first := 0; first < len(b.Extends); first += atOnce {
		s.mu.Lock()
		s.ledger.Confirm(&b.Changes, first, first+atOnce)
		s.mu.Unlock()
		yield()
	}
}

// abort tells those who wait, and whoever will, that the server has stopped without writing.
func (s *Server) abort() {
	b, _ := s.take()
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

// ended waits until whatever has left memory is on disk.
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
