package internal

import (
	"context"
	"errors"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/matrix-org/dendrite/futures/futureserver/internal/ledger"
	"github.com/matrix-org/dendrite/futures/futureserver/storage"
)

// Is the database still ours? A server that has lost its lock must not answer heartbeats from memory: another one may be
// sending their futures. So once a second it makes sure.

const (
	confirmEvery = time.Second
	sureFor      = 2 * time.Second // after that every heartbeat waits for a commit, which finds out
)

// isSure reports whether the lock was seen a moment ago. Under the lock.
func (s *Server) isSure(now ledger.Time) bool {
	return now.Now-s.confirmed <= sureFor.Milliseconds()
}

// watch confirms the lock, and notices when the wall clock is set.
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

// confirm notes the answer to a question that was asked at that time.
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

// noticeClockStep has all deadlines written anew when the wall clock was set.
func (s *Server) noticeClockStep() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if step := s.ledger.NoticeStep(s.clock.time()); step != 0 {
		logrus.Warnf("futureserver: the system clock was set by %d ms; timers are not affected", step)
		notify(s.kick)
	}
}
