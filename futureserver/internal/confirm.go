package internal

import (
	"context"
	"errors"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/matrix-org/dendrite/futures/futureserver/internal/ledger"
	"github.com/matrix-org/dendrite/futures/futureserver/storage"
)

// A server that has lost the lock on its database must not answer heartbeats from memory, because another server may be
// sending the same futures. So it confirms the lock once a second.

const (
	confirmEvery = time.Second
	sureFor      = 2 * time.Second // after that every heartbeat waits for a commit, which checks the lock
)

// isSure reports whether the lock was confirmed a moment ago. The caller must hold s.mu.
func (s *Server) isSure(now ledger.Time) bool {
	return now.Now-s.confirmed <= sureFor.Milliseconds()
}

// watch confirms the lock on the database, and notices when the wall clock is set.
func (s *Server) watch(confirm func(context.Context) error, clock clock) {
	defer s.loops.Done()
	tick := time.NewTicker(confirmEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-s.ctx.Done():
			return
		}
		asked := clock.now()
		ctx, cancel := context.WithTimeout(s.ctx, confirmEvery)
		err := confirm(ctx)
		cancel()
		if errors.Is(err, storage.ErrLockLost) {
			s.fail(err)
			return
		}
		s.confirm(asked, err)
		s.noticeClockStep()
	}
}

// confirm records the result of a check that began at asked.
func (s *Server) confirm(asked int64, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil {
		s.confirmed = asked
		return
	}
	s.look = s.look || errors.Is(err, storage.ErrLockUnsure)
	notify(s.kick)
}

// noticeClockStep has all deadlines written again when the wall clock was set.
func (s *Server) noticeClockStep() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if step := s.ledger.NoticeStep(s.clock.time()); step != 0 {
		logrus.Warnf("futureserver: the system clock was set by %d ms; timers are not affected", step)
		notify(s.kick)
	}
}
