package internal

import (
	"context"
	"slices"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
	"github.com/matrix-org/dendrite/futures/futureserver/internal/ledger"
)

// Queries about delayed events, including their outcomes.

// finished returns the error for a managed future that is no longer scheduled.
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

// loadDelayed reads a managed future; nil if it is unknown. A future that has left memory may not be on disk yet, so it
// waits for that.
func (s *Server) loadDelayed(ctx context.Context, id string) (*api.Future, error) {
	if _, ok := api.ParseToken(id); !ok {
		return nil, nil
	}
	if v, ok := s.delayed(id); ok {
		f, err := s.db.Load(ctx, v.NID)
		if err != nil || f != nil && (!f.State.Live() || s.refined(f)) {
			return f, err
		}
	}
	ctx, cancel := patiently(ctx)
	defer cancel()
	if err := s.ended(ctx); err != nil {
		return nil, err
	}
	return s.db.LoadFinished(ctx, id)
}

func (s *Server) delayed(id string) (ledger.View, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ledger.Delayed(id)
}

func (s *Server) refined(f *api.Future) (live bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.refine(f)
}

// QueryDelayedEvents implements api.FutureInternalAPI.
func (s *Server) QueryDelayedEvents(ctx context.Context, filter api.DelayedFilter) ([]*api.Future, error) {
	if len(filter.States) == 0 {
		filter.States = []api.State{api.Scheduled}
	}
	fs, missed, err := s.delayedInMemory(ctx, filter)
	if err != nil {
		return nil, err
	}
	if missed { // the disk will have them
		ctx, cancel := patiently(ctx)
		defer cancel()
		if err := s.ended(ctx); err != nil {
			return nil, err
		}
	}
	if slices.ContainsFunc(filter.States, func(state api.State) bool { return !state.Live() }) {
		over, err := s.db.SelectFinished(ctx, filter)
		if err != nil {
			return nil, err
		}
		fs = append(over, fs...) // memory first, because a future may have ended between the two reads
	}
	slices.SortStableFunc(fs, func(a, b *api.Future) int { return filter.Compare(a.NID, b.NID) })
	fs = slices.CompactFunc(fs, func(a, b *api.Future) bool { return a.NID == b.NID })
	return atMost(filter.Limit, fs), nil
}

// delayedInMemory returns the live futures, and those that have ended but are not yet ended on disk. missed says that some
// have ended meanwhile and are left out.
func (s *Server) delayedInMemory(ctx context.Context, filter api.DelayedFilter) (fs []*api.Future, missed bool, err error) {
	nids, ending := s.delayedOf(filter)
	if fs, err = s.db.LoadAll(ctx, nids); err != nil {
		return nil, false, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	fs = slices.DeleteFunc(fs, func(f *api.Future) bool {
		if e, over := ending[f.NID]; over {
			f.State, f.Finished, f.Failure, f.Deadline = e.State, e.At, e.Failure, e.Deadline
			return filter.RoomID != "" && f.RoomID != filter.RoomID
		}
		if !s.refine(f) {
			missed = true
			return true
		}
		return !slices.Contains(filter.States, f.State)
	})
	return fs, missed, nil
}

// delayedOf returns the numbers of those futures: live ones up to the limit, and all that are ending.
func (s *Server) delayedOf(filter api.DelayedFilter) (nids []api.NID, ending map[api.NID]ledger.Ended) {
	s.mu.Lock()
	defer s.mu.Unlock()
	wanted := func(isManaged bool, nid api.NID, state api.State) bool {
		return isManaged && slices.Contains(filter.States, state) && (filter.After == 0 || filter.Compare(nid, filter.After) > 0)
	}
	for _, v := range s.ledger.OfUser(filter.UserID) {
		if !v.Arriving && wanted(v.Managed, v.NID, v.State) && (filter.RoomID == "" || s.ledger.IsRoom(v, filter.RoomID)) {
			nids = append(nids, v.NID)
		}
	}
	slices.SortFunc(nids, filter.Compare)
	nids = atMost(filter.Limit, nids)
	ending = make(map[api.NID]ledger.Ended)
	for _, e := range s.ledger.Ending(filter.UserID) {
		if wanted(e.Managed, e.NID, e.State) {
			ending[e.NID] = e
			nids = append(nids, e.NID)
		}
	}
	return nids, ending
}
