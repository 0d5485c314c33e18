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
	if err := s.ended(ctx); err != nil {
		return nil, err
	}
	return s.db.LoadFinished(ctx, id)
}

// QueryDelayedEvents implements api.FutureInternalAPI.
func (s *Server) QueryDelayedEvents(ctx context.Context, filter api.DelayedFilter) ([]*api.Future, error) {
	if len(filter.States) == 0 {
		filter.States = []api.State{api.Scheduled}
	}
	fs, err := s.liveDelayed(ctx, filter)
	if err != nil {
		return nil, err
	}
	if slices.ContainsFunc(filter.States, func(state api.State) bool { return !state.Live() }) {
		over, err := s.db.SelectFinished(ctx, filter)
		if err != nil {
			return nil, err
		}
		fs = append(over, fs...) // in this order, for one may have ended between the two looks
	}
	slices.SortStableFunc(fs, func(a, b *api.Future) int { return filter.Compare(a.NID, b.NID) })
	fs = slices.CompactFunc(fs, func(a, b *api.Future) bool { return a.NID == b.NID })
	return atMost(filter.Limit, fs), nil
}

// liveDelayed returns the live ones: memory says which they are.
func (s *Server) liveDelayed(ctx context.Context, filter api.DelayedFilter) ([]*api.Future, error) {
	room := s.table.hash(filter.RoomID)
	nids := s.nidsOf(filter.UserID, func(r *record) bool {
		return r.flags&managed != 0 && r.flags&creating == 0 && slices.Contains(filter.States, r.state()) &&
			(filter.RoomID == "" || s.table.rooms.places.at(r.room).hash == room) &&
			(filter.After == 0 || filter.Compare(r.nid, filter.After) > 0)
	})
	slices.SortFunc(nids, filter.Compare)
	fs, err := s.db.LoadAll(ctx, atMost(filter.Limit, nids))
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.DeleteFunc(fs, func(f *api.Future) bool {
		return !s.refine(f) || !slices.Contains(filter.States, f.State)
	}), nil
}
