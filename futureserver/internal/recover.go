package internal

import (
	"context"
	"fmt"
	"hash/maphash"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
	"github.com/matrix-org/dendrite/futures/futureserver/internal/wheel"
	"github.com/matrix-org/dendrite/futures/futureserver/storage"
)

// New recovers the futures in db and starts. The server owns db from now on, also if New fails.
func New(ctx context.Context, cfg Config, db storage.Database, rooms api.Room, m *Metrics, hooks Hooks) (*Server, error) {
	if most := max(cfg.Futures.MaxTimeout, cfg.Delayed.MaxTimeout); most.Milliseconds() > math.MaxUint32 {
		return nil, fmt.Errorf("the maximum timeout is %v; the futureserver counts up to 49 days", most)
	}
	if hooks.Step == nil {
		hooks.Step = func(string) {}
	}
	if hooks.Storm == nil {
		hooks.Storm = func(bool) {}
	}
	s := &Server{
		cfg: cfg, db: db, room: rooms, metrics: m, hooks: hooks,
		clock:    clock{start: time.Now()},
		table:    newTable(),
		passing:  make(map[api.Secret]passing),
		delayIDs: newDelayIDs(),
		wake:     make(chan struct{}, 1),
		next:     newBatch(),
		kick:     make(chan struct{}, 1),
		stopRun:  make(chan struct{}),
		stopped:  make(chan struct{}),
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.offset = s.clock.wall(0)
	s.wheel = wheel.New(s.clock.now(), s.table.deadlineOf)
	watched, err := s.recover(ctx)
	if err != nil {
		s.cancel()
		db.Close()
		return nil, fmt.Errorf("futureserver: reading the futures: %w", err)
	}
	m.observe(s)
	s.loops.Add(2)
	go s.run()
	go s.write()
	s.work.Go(func() { s.reconcile(watched) })
	return s, nil
}

// found is a live future on its way from the disk into memory.
type found struct {
	record
	room          uint64 // table.hash of the room ID
	userID, group string // only of a future in a group that is not its own
}

const (
	foundAtOnce  = 512 // futures that are handed over together
	foundBatches = 4   // how far reading may be ahead
)

// recover rebuilds memory from disk and returns the rooms with futures that newer state can end. One goroutine
// reads, which takes longest, while this one derives tokens and fills the table.
func (s *Server) recover(ctx context.Context) (watchedRooms []string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	reader := newReader(s)
	go reader.read(ctx)
	overdue, now := 0, reader.now
	for batch := range reader.full {
		for i := range batch {
			if r := &batch[i].record; r.state() == api.Scheduled && r.timeout != 0 && r.deadline <= now {
				overdue++
			}
			s.restore(&batch[i])
		}
		reader.empty <- batch
	}
	s.table.tokens.fit()
	if reader.err != nil {
		return nil, reader.err
	}
	s.lastNID = reader.last
	s.wakeAt = s.wheel.Next()
	logrus.WithFields(logrus.Fields{
		"scheduled": s.table.scheduled, "sending": s.table.sending, "overdue": overdue,
	}).Info("futureserver: recovered")
	return slices.Collect(maps.Keys(reader.watched)), nil
}

// reader reads live futures.
type reader struct {
	s           *Server
	now         int64
	full, empty chan []found
	batch       []found
	watched     map[string]bool // rooms with futures that newer state can end
	last        api.NID
	err         error // when full is closed
}

func newReader(s *Server) *reader {
	r := &reader{
		s: s, now: s.clock.ceil(), watched: make(map[string]bool),
		full: make(chan []found, foundBatches), empty: make(chan []found, foundBatches),
	}
	for range foundBatches {
		r.empty <- make([]found, 0, foundAtOnce)
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
	if r.batch = append(r.batch, r.find(t)); len(r.batch) == cap(r.batch) {
		r.full <- r.batch
		r.batch = (<-r.empty)[:0]
	}
	return nil
}

// find makes out the future of a row. The true deadlines of a crashed server are lost, but the stored one and
// now + timeout are both upper bounds of it, so their minimum is never early; and since the stored one does not
// grow by restarting, a crash loop cannot keep a future alive.
func (r *reader) find(t *storage.Timer) found {
	f := found{
		record: record{
			nid: t.NID, user: maphash.Bytes(r.s.table.seed, t.UserID), secret: t.Secret,
			timeout: uint32(t.Timeout.Milliseconds()),
		},
		room: maphash.Bytes(r.s.table.seed, t.RoomID),
	}
	if t.KeyHash != 0 && t.Policy.Watched() {
		f.flags |= watched
		f.key = keyFilter(t.KeyHash)
		if !r.watched[string(t.RoomID)] {
			r.watched[string(t.RoomID)] = true
		}
	}
	if t.Policy.Has(api.Managed) {
		f.flags |= managed
	}
	if f.timeout != 0 {
		f.deadline = min(t.Deadline, r.now+int64(f.timeout))
		f.raise(t.Deadline)
	}
	if t.State == api.Sending {
		f.flags |= sending
		if f.flags&managed != 0 {
			r.s.delayIDs.addSender(string(t.UserID))
		}
	}
	if len(t.GroupID) > 0 {
		f.userID, f.group = string(t.UserID), string(t.GroupID)
	}
	return f
}

// restore puts a future into memory as it is on disk. Its tokens work when all are there. Under the lock.
func (s *Server) restore(f *found) {
	slot, r := s.table.put(f.record, f.room)
	if f.group != "" {
		s.table.openGroup(f.userID, f.group) // takes in its founder, which is on disk as if it were alone
		s.table.joinGroup(slot, r, f.userID, f.group)
	}
	if r.flags&sending == 0 || r.flags&managed != 0 {
		s.table.addTokens(slot, r, s.table.tokens.gather)
	}
	switch {
	case r.flags&sending != 0:
		s.pass(r)
		s.enqueue(s.table.roomOf(r), job{slot: slot, nid: r.nid, claimed: true})
	case r.timeout != 0:
		s.wheel.Add(slot)
	}
}

// reconcile looks once at every room with pending state futures: state may have changed while nobody looked.
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

func (s *Server) isStopping() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stopping
}

// Stop drains: it accepts nothing more, lets what is in flight finish, writes the true deadlines, and closes
// the database. After ctx it does not wait any longer for the rooms; nothing is lost by that.
func (s *Server) Stop(ctx context.Context) error {
	s.mu.Lock()
	if s.stopCalled {
		s.mu.Unlock()
		<-s.stopped
		return nil
	}
	s.stopCalled, s.stopping = true, true
	s.mu.Unlock()
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
		err = nil // the database is not ours any more
	}
	s.cancel()
	s.work.Wait()
	s.loops.Wait()
	s.dismiss()
	if closeErr := s.db.Close(); err == nil {
		err = closeErr
	}
	return err
}

// storeDeadlines writes the exact deadline of every refreshed future, so that a clean restart is exact.
func (s *Server) storeDeadlines(ctx context.Context) error {
	for slot := uint32(1); ; {
		s.mu.Lock()
		b := s.batch()
		for ; slot <= s.table.records.last && len(b.Extends) < maxBatch; slot++ {
			if r := s.table.at(slot); r.state() == api.Scheduled && r.spare != 0 && r.flags&creating == 0 {
				b.Extends = append(b.Extends, storage.Extend{NID: r.nid, Deadline: s.clock.wall(r.deadline), Exact: true})
				b.raises = append(b.raises, raise{slot, r.deadline})
			}
		}
		more := slot <= s.table.records.last
		s.mu.Unlock()
		if err := b.wait(ctx); err != nil {
			return err
		}
		if !more {
			return nil
		}
	}
}

// dismiss answers everybody who still waits for a send token.
func (s *Server) dismiss() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, rm := range s.table.rooms.working {
		for i := range rm.queue {
			rm.queue[i].answer(api.ErrStopping)
		}
		rm.queue = nil
	}
}
