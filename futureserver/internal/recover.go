package internal

import (
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
	"github.com/matrix-org/dendrite/futures/futureserver/internal/ledger"
	"github.com/matrix-org/dendrite/futures/futureserver/storage"
)

// New recovers the futures in db and starts the server. The server owns db from now on, even if New fails.
func New(ctx context.Context, cfg Config, db storage.Database, rooms api.Room, m *Metrics, hooks Hooks) (*Server, error) {
	if most := max(cfg.Futures.MaxTimeout, cfg.Delayed.MaxTimeout); most.Milliseconds() > math.MaxUint32 {
		return nil, fmt.Errorf("the maximum timeout is %v; the futureserver counts up to 49 days", most)
	}
	if hooks.Step == nil {
		hooks.Step = func(string) {}
	}
	if hooks.Ready == nil {
		ready := make(chan struct{})
		close(ready)
		hooks.Ready = ready
	}
	if hooks.Storm == nil {
		hooks.Storm = func(bool) {}
	}
	s := &Server{
		cfg: cfg, db: db, room: rooms, metrics: m, hooks: hooks,
		clock:    clock{start: time.Now(), age: db.Age(), skew: hooks.Skew},
		working:  make(map[uint64]*room),
		delayIDs: newDelayIDs(), delegations: newDelegations(),
		wake:    make(chan struct{}, 1),
		stormed: make(chan struct{}, 1),
		next:    newBatch(1),
		kick:    make(chan struct{}, 1),
		stopRun: make(chan struct{}),
		stopped: make(chan struct{}),
		closed:  make(chan struct{}),
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	now := s.clock.time()
	s.ledger = ledger.New(ledger.Config{
		Futures: cfg.Futures, Delayed: cfg.Delayed, Slack: cfg.Slack, Grace: cfg.RestartGrace, MaxBytes: maxBytes,
	}, now)
	s.confirmed = now.Now
	watched, err := s.recover(ctx)
	if err != nil {
		s.cancel()
		db.Close()
		return nil, fmt.Errorf("futureserver: reading the futures: %w", err)
	}
	hooks.Step("recovered")
	m.observe(s)
	if hooks.Ended != nil {
		s.outcomes = newOutcomes()
		go s.tellOutcomes(hooks.Ended)
	}
	s.loops.Add(4)
	go s.run()
	go s.write()
	go s.watch(db.Confirm, s.clock)
	go s.tellStorms()
	s.work.Go(func() { s.reconcile(watched) })
	return s, nil
}

const (
	foundAtOnce  = 512 // futures that are passed on together
	foundBatches = 4   // how many batches the reader may be ahead
)

// recover rebuilds memory from disk and returns the rooms with futures that newer state can end. One goroutine reads,
// which takes longest; meanwhile this one derives tokens and fills the ledger.
func (s *Server) recover(ctx context.Context) (watchedRooms []string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	reader := newReader(s)
	go reader.read(ctx)
	overdue := 0
	for batch := range reader.full {
		for i := range batch {
			if batch[i].Overdue(reader.now) {
				overdue++
			}
			if ref, room, claimed := s.ledger.Restore(&batch[i]); claimed {
				s.enqueue(room, job{Ref: ref, claimed: true})
			}
		}
		reader.empty <- batch
	}
	if reader.err != nil {
		return nil, reader.err
	}
	s.ledger.Restored(reader.last, s.clock.time(), &s.batch().Changes)
	if err := s.recoverDelegations(ctx); err != nil {
		return nil, err
	}
	s.wakeAt = s.ledger.Next()
	counts := s.ledger.Counts()
	logrus.WithFields(logrus.Fields{
		"scheduled": counts.Scheduled, "sending": counts.Sending, "overdue": overdue,
	}).Info("futureserver: recovered")
	return slices.Collect(maps.Keys(reader.watched)), nil
}

// reader reads live futures.
type reader struct {
	s           *Server
	now         ledger.Time
	full, empty chan []ledger.Found
	batch       []ledger.Found
	watched     map[string]bool // rooms with futures that newer state can end
	last        api.NID
	err         error // valid once full is closed
}

func newReader(s *Server) *reader {
	r := &reader{
		s: s, now: s.clock.time(), watched: make(map[string]bool),
		full: make(chan []ledger.Found, foundBatches), empty: make(chan []ledger.Found, foundBatches),
	}
	for range foundBatches {
		r.empty <- make([]ledger.Found, 0, foundAtOnce)
	}
	return r
}

func (r *reader) read(ctx context.Context) {
	defer close(r.full)
	r.batch = (<-r.empty)[:0]
	if r.last, r.err = r.s.db.Scan(ctx, r.each); r.err == nil {
		r.err = r.s.db.SelectSenders(ctx, r.s.delayIDs.addSender)
	}
	r.full <- r.batch
}

func (r *reader) each(t *storage.Timer) error {
	if t.KeyHash != 0 && t.Policy.Watched() && !r.watched[string(t.RoomID)] {
		r.watched[string(t.RoomID)] = true
	}
	if t.State == api.Sending && t.Policy.Has(api.Managed) {
		r.s.delayIDs.addSender(string(t.UserID))
	}
	if r.batch = append(r.batch, r.s.ledger.Find(t, r.now)); len(r.batch) == cap(r.batch) {
		r.full <- r.batch
		r.batch = (<-r.empty)[:0]
	}
	return nil
}

// reconcile compares every room that has pending state futures once: its state may have changed while no server ran.
func (s *Server) reconcile(rooms []string) {
	for _, id := range rooms {
		for attempt := 0; !s.isStopping(); attempt++ {
			err := s.PerformStateChange(s.ctx, id, nil)
			if err == nil {
				break
			}
			if attempt == 3 {
				logrus.WithError(err).WithField("room_id", id).Warn("futureserver: could not compare futures with the room")
			}
			if !s.sleep(backoff(attempt)) {
				return
			}
		}
	}
}

// Stop accepts nothing more, lets what is in flight finish, writes the exact deadlines, and closes the database. Once
// ctx is done it no longer waits for the rooms; nothing is lost by that.
func (s *Server) Stop(ctx context.Context) error {
	if !s.beginStop() {
		<-s.closed
		return nil
	}
	defer close(s.closed)
	close(s.stopRun)

	drained := make(chan struct{})
	go func() {
		s.work.Wait()
		close(drained)
	}()
	select {
	case <-drained:
	case <-ctx.Done():
	}
	err := s.storeDeadlines(ctx)
	if s.Err() != nil {
		err = nil // the database belongs to another server now
	}
	s.cancel()
	s.work.Wait()
	s.loops.Wait()
	s.dismiss()
	s.outcomes.close()
	if closeErr := s.db.Close(); err == nil {
		err = closeErr
	}
	return err
}

// beginStop reports whether this is the first Stop.
func (s *Server) beginStop() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopCalled {
		return false
	}
	s.stopCalled, s.stopping = true, true
	return true
}

// storeDeadlines writes the exact deadline of every refreshed future, so that a clean restart is exact.
func (s *Server) storeDeadlines(ctx context.Context) error {
	ctx, cancel := patiently(ctx)
	defer cancel()
	for slot := uint32(1); slot != 0; {
		var b *batch
		b, slot = s.storeSome(slot)
		if err := b.wait(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (s *Server) storeSome(from uint32) (b *batch, next uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b = s.batch()
	now := s.clock.time()
	b.Age = now.Age
	return b, s.ledger.StoreExact(from, maxBatch, now, &b.Changes)
}
