package internal

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
	"github.com/matrix-org/dendrite/futures/futureserver/internal/wheel"
	"github.com/matrix-org/dendrite/futures/futureserver/storage"
)

// New recovers the futures in db and starts. step is told of each step of a future's life, for tests; nil
// otherwise. The server owns db from now on, also if New fails.
func New(ctx context.Context, cfg Config, db storage.Database, rooms api.Room, m *Metrics, step func(string)) (*Server, error) {
	if most := max(cfg.Futures.MaxTimeout, cfg.Delayed.MaxTimeout); most.Milliseconds() > math.MaxUint32 {
		return nil, fmt.Errorf("the maximum timeout is %v; the futureserver counts up to 49 days", most)
	}
	if step == nil {
		step = func(string) {}
	}
	s := &Server{
		cfg: cfg, db: db, room: rooms, metrics: m, step: step,
		clock:    clock{start: time.Now()},
		table:    newTable(),
		delayIDs: newDelayIDs(),
		wake:     make(chan struct{}, 1),
		next:     newBatch(),
		kick:     make(chan struct{}, 1),
		stopRun:  make(chan struct{}),
		stopped:  make(chan struct{}),
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.offset = s.clock.wall(0)
	s.wheel = wheel.New(s.clock.now())
	if err := s.recover(ctx); err != nil {
		s.cancel()
		db.Close()
		return nil, fmt.Errorf("futureserver: reading the futures: %w", err)
	}
	m.observe(s)
	s.loops.Add(2)
	go s.run()
	go s.write()
	s.work.Go(s.reconcile)
	return s, nil
}

// recover rebuilds memory from disk. The true deadlines of a crashed server are lost, but the stored one and
// now + timeout are both upper bounds of it, so their minimum is never early; and since the stored one does
// not grow by restarting, a crash loop cannot keep a future alive.
func (s *Server) recover(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.clock.ceil()
	overdue := 0
	last, err := s.db.Scan(ctx, func(t *storage.Timer) error {
		if t.State == api.Scheduled && t.Timeout != 0 && t.Deadline <= now {
			overdue++
		}
		s.restore(t, now)
		return nil
	})
	if err != nil {
		return err
	}
	if err := s.db.SelectSenders(ctx, s.delayIDs.addSender); err != nil {
		return err
	}
	s.lastNID = last
	s.wakeAt = s.wheel.Next()
	logrus.WithFields(logrus.Fields{
		"scheduled": s.table.scheduled, "sending": s.table.sending, "overdue": overdue,
	}).Info("futureserver: recovered")
	return nil
}

func (s *Server) restore(t *storage.Timer, now int64) {
	r := record{
		nid: t.NID, secret: t.Secret, state: t.State,
		timeout: uint32(t.Timeout.Milliseconds()),
	}
	if t.Policy.Watched() {
		r.key = t.KeyHash
	}
	if t.Policy.Has(api.Managed) {
		r.flags = managed
	}
	if r.timeout != 0 {
		r.deadline = min(t.Deadline, now+int64(r.timeout))
		r.raise(t.Deadline)
	}
	userID, roomID := string(t.UserID), string(t.RoomID)
	slot, rec := s.table.put(r, userID, roomID)
	s.table.count(t.State, 1)
	if t.State == api.Sending {
		if rec.flags&managed != 0 {
			s.delayIDs.addSender(userID)
			s.table.addTokens(slot, rec)
		}
		s.enqueue(s.table.rooms.at(rec.room), job{slot: slot, nid: t.NID, claimed: true})
		return
	}
	if len(t.GroupID) > 0 {
		s.table.openGroup(userID, string(t.GroupID)) // takes in its founder, which is on disk as if it were alone
		s.table.joinGroup(slot, rec, userID, string(t.GroupID))
	}
	s.arm(slot, rec)
}

// reconcile looks once at every room with pending state futures: state may have changed while nobody looked.
func (s *Server) reconcile() {
	s.mu.Lock()
	var rooms []string
	for id, n := range s.table.rooms.numbers {
		if len(s.table.rooms.at(n).watched) > 0 {
			rooms = append(rooms, id)
		}
	}
	s.mu.Unlock()
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
		for ; slot <= s.table.last && len(b.Extends) < maxBatch; slot++ {
			if r := s.table.at(slot); r.state == api.Scheduled && r.spare != 0 && r.flags&creating == 0 {
				b.Extends = append(b.Extends, storage.Extend{NID: r.nid, Deadline: s.clock.wall(r.deadline), Exact: true})
				b.raises = append(b.raises, raise{slot, r.deadline})
			}
		}
		more := slot <= s.table.last
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
	for _, rm := range s.table.rooms.things {
		if rm == nil {
			continue
		}
		for i := range rm.queue {
			rm.queue[i].answer(api.ErrStopping)
		}
		rm.queue = nil
	}
}
