package internal

import (
	"time"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
)

// Vitals implements futureserver.Server.
func (s *Server) Vitals() api.Vitals { return api.Vitals{Overdue: s.overdue(), Stalled: s.stalled()} }

// stalled returns for how long the database has not answered.
func (s *Server) stalled() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.clock.now()
	since := s.confirmed
	if s.writing != nil {
		since = min(since, s.writingAt)
	}
	return time.Duration(now-since) * time.Millisecond
}

// overdue returns how long the oldest event has been due. There may be many rooms, so it releases the lock now and
// then. Rooms that come or go meanwhile may or may not be seen.
func (s *Server) overdue() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.clock.now()
	first, n := now, 0
	for _, rm := range s.working {
		if since := rm.since(); since != 0 {
			first = min(first, since)
		}
		if n++; n%atOnce == 0 {
			s.mu.Unlock()
			yield()
			s.mu.Lock()
		}
	}
	return time.Duration(now-first) * time.Millisecond
}

// since returns since when the room's oldest job waits, Unix ms; 0 if there is none. The caller must hold the lock.
func (rm *room) since() (since int64) {
	earlier := func(at int64) {
		if at != 0 && (since == 0 || at < since) {
			since = at
		}
	}
	if len(rm.queue) > 0 {
		earlier(rm.queue[0].due)
	}
	earlier(rm.turning)
	for _, at := range rm.aside {
		earlier(at)
	}
	return since
}

// oldest returns when the first of some jobs was due, or 0.
func oldest(jobs []job) (due int64) {
	for i := range jobs {
		if due == 0 || jobs[i].due < due {
			due = jobs[i].due
		}
	}
	return due
}
