package internal

import (
	"context"
	"slices"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
)

// Delayed events: futures with one ID for all that can be done to them, and an outcome that can be looked up.

// PerformDelayedEventAction implements api.FutureInternalAPI.
func (s *Server) PerformDelayedEventAction(ctx context.Context, id, owner string, a api.Action) error {
	s.mu.Lock()
	if s.stopping {
		s.mu.Unlock()
		return api.ErrStopping
	}
	slot, r := s.delayed(id)
	if r == nil || r.state() != api.Scheduled || owner != "" && r.user != s.table.hash(owner) {
		s.mu.Unlock()
		return s.finished(ctx, id, owner)
	}
	var err error
	switch a {
	case api.Restart:
		err = s.refresh(ctx, slot, r)
	case api.Cancel:
		err = s.cancelOne(ctx, slot, r)
	default:
		err = s.send(ctx, slot, r)
	}
	if err == api.ErrGone { // it has ended meanwhile
		return s.finished(ctx, id, owner)
	}
	return err
}

// delayed finds a managed future in memory: one that is scheduled or being sent. Under the lock.
func (s *Server) delayed(id string) (uint32, *record) {
	token, ok := api.ParseToken(id)
	if !ok {
		return 0, nil
	}
	slot, kind, ok := s.table.findToken(token)
	if !ok || kind != api.GroupToken {
		return 0, nil
	}
	return slot, s.table.at(slot)
}

// finished says what has become of a managed future that is no longer scheduled.
func (s *Server) finished(ctx context.Context, id, owner string) error {
	f, err := s.QueryDelayedEvent(ctx, id, owner)
	if err != nil {
		return err
	}
	return &api.FinishedError{Future: f}
}

// QueryDelayedEvent implements api.FutureInternalAPI.
func (s *Server) QueryDelayedEvent(ctx context.Context, id, owner string) (*api.Future, error) {
	f, err := s.loadDelayed(ctx, id)
	if err != nil {
		return nil, err
	}
	if f == nil || owner != "" && f.UserID != owner {
		return nil, api.ErrGone
	}
	return f, nil
}

// loadDelayed reads a managed future, nil if nobody knows it.
func (s *Server) loadDelayed(ctx context.Context, id string) (*api.Future, error) {
	if _, ok := api.ParseToken(id); !ok {
		return nil, nil
	}
	s.mu.Lock()
	_, r := s.delayed(id)
	if r == nil {
		return s.loadFinished(ctx, id)
	}
	nid := r.nid
	s.mu.Unlock()
	f, err := s.db.Load(ctx, nid)
	if err == nil && f != nil && f.State.Live() {
		s.mu.Lock()
		live := s.refine(f)
		if !live { // it has ended between the two looks
			return s.loadFinished(ctx, id)
		}
		s.mu.Unlock()
	}
	return f, err
}

// loadFinished reads one that has ended; it is called with the lock and gives it back. What has left memory may
// still be on its way to the disk.
func (s *Server) loadFinished(ctx context.Context, id string) (*api.Future, error) {
	var b *batch
	if s.unwritten > 0 {
		b = s.batch()
	}
	s.mu.Unlock()
	if b != nil {
		if err := b.wait(ctx); err != nil {
			return nil, err
		}
	}
	return s.db.LoadFinished(ctx, id)
}

// QueryDelayedEvents implements api.FutureInternalAPI.
func (s *Server) QueryDelayedEvents(ctx context.Context, filter api.DelayedFilter) ([]*api.Future, error) {
	fs, err := s.db.SelectDelayed(ctx, filter)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.DeleteFunc(fs, func(f *api.Future) bool {
		was := f.State
		return was.Live() && (!s.refine(f) || f.State != was)
	}), nil
}
