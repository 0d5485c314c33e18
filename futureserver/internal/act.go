package internal

import (
	"context"
	"slices"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
	"github.com/matrix-org/dendrite/futures/futureserver/internal/ledger"
	"github.com/matrix-org/dendrite/futures/futureserver/storage"
)

// Actions on a scheduled future from outside: tokens, actions on delayed events, newer state, and the end of its
// account or room.

// pending is what an answer must wait for. The zero value stands for nothing.
type pending struct {
	batch *batch
	send  *sendRequest
}

func (p pending) wait(ctx context.Context) error {
	if p.batch == nil && p.send == nil {
		return nil
	}
	ctx, cancel := patiently(ctx)
	defer cancel()
	if p.send != nil {
		return p.send.wait(ctx)
	}
	return p.batch.wait(ctx)
}

// PerformTokenAction implements api.FutureInternalAPI.
func (s *Server) PerformTokenAction(ctx context.Context, token api.Token) error {
	p, err := s.useToken(ctx, token)
	if err != nil {
		return err
	}
	return p.wait(ctx)
}

func (s *Server) useToken(ctx context.Context, token api.Token) (pending, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopping {
		return pending{}, api.ErrStopping
	}
	ref, kind, ok := s.ledger.ByToken(token)
	if !ok {
		return pending{}, api.ErrGone
	}
	switch kind {
	case api.RefreshToken:
		return s.act(ctx, ref, api.Restart), nil
	case api.CancelToken:
		return s.act(ctx, ref, api.Cancel), nil
	case api.SendToken:
		return s.act(ctx, ref, api.Send), nil
	}
	return pending{}, api.ErrGone // the ID of a delayed event is no token
}

// PerformDelayedEventAction implements api.FutureInternalAPI.
func (s *Server) PerformDelayedEventAction(ctx context.Context, id, owner string, a api.Action) error {
	p, err := s.useID(ctx, id, owner, a)
	if err == nil {
		err = p.wait(ctx)
	}
	if err == api.ErrGone { // the future has ended
		return s.finished(ctx, id, owner)
	}
	return err
}

func (s *Server) useID(ctx context.Context, id, owner string, a api.Action) (pending, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopping {
		return pending{}, api.ErrStopping
	}
	v, ok := s.ledger.Delayed(id)
	if !ok || v.State != api.Scheduled || owner != "" && !s.ledger.IsUser(v, owner) {
		return pending{}, api.ErrGone
	}
	return s.act(ctx, v.Ref, a), nil
}

// act performs an action on a scheduled future. The caller must hold the lock.
func (s *Server) act(ctx context.Context, ref ledger.Ref, a api.Action) pending {
	switch a {
	case api.Restart:
		return s.refresh(ref)
	case api.Cancel:
		s.ledger.End(ref, api.Cancelled, s.clock.time(), &s.next.Changes)
		return pending{batch: s.batch()}
	}
	request := &sendRequest{ctx: ctx, done: make(chan error, 1)}
	s.enqueue(s.ledger.RoomOf(ref), job{Ref: ref, at: s.clock.now(), send: request})
	s.dispatch()
	return pending{send: request}
}

// refresh restarts a timer. The caller must hold the lock.
func (s *Server) refresh(ref ledger.Ref) pending {
	now := s.clock.time()
	s.metrics.refreshed.Inc()
	switch s.ledger.Refresh(ref, s.isSure(now), now, &s.next.Changes) {
	case ledger.Waits:
		return pending{batch: s.batch()}
	case ledger.Dirty:
		s.kickLater()
	}
	return pending{}
}

// PerformStateChange implements api.FutureInternalAPI.
func (s *Server) PerformStateChange(ctx context.Context, roomID string, changed []api.StateKeyTuple) error {
	candidates := s.watchers(roomID, changed)
	if len(candidates) == 0 {
		return nil
	}
	var nids []api.NID
	var keys []api.StateKeyTuple
	var bases []storage.Base
	for _, nid := range candidates {
		base, ok, err := s.db.LoadBase(ctx, nid)
		if err != nil {
			return err
		}
		// Futures whose 8-bit filter collides are dropped here, before the room is asked.
		if ok && (changed == nil || slices.Contains(changed, base.StateKeyTuple)) {
			nids, keys, bases = append(nids, nid), append(keys, base.StateKeyTuple), append(bases, base)
		}
	}
	current, err := s.room.Current(ctx, roomID, keys)
	if err != nil {
		return err
	}
	var stale []api.NID
	for i, nid := range nids {
		if bases[i].Policy.Outdated(bases[i].EventID, bases[i].UserID, current[i]) {
			stale = append(stale, nid)
		}
	}
	if len(stale) == 0 {
		return nil
	}
	return s.decideAndWait(ctx, func(now ledger.Time, c *ledger.Changes) {
		for _, nid := range stale {
			if ref, ok := s.ledger.Watcher(roomID, nid); ok {
				s.ledger.End(ref, api.Invalidated, now, c)
			}
		}
	})
}

func (s *Server) watchers(roomID string, changed []api.StateKeyTuple) []api.NID {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ledger.Watchers(roomID, changed)
}

// PerformAdminCancellation implements api.FutureInternalAPI.
func (s *Server) PerformAdminCancellation(ctx context.Context, filter api.Filter) (cancelled int, err error) {
	if filter.UserID == "" && filter.RoomID == "" && filter.NID == 0 {
		return 0, &api.Refusal{Kind: api.BadEvent, Message: "Name a user, a room or a future to cancel."}
	}
	filter.States, filter.Limit = 1<<api.Scheduled, pageSize
	for {
		fs, err := s.QueryFutures(ctx, filter)
		if err != nil {
			return cancelled, err
		}
		if len(fs) > 0 {
			filter.After = fs[len(fs)-1].NID
			err = s.decideAndWait(ctx, func(now ledger.Time, c *ledger.Changes) {
				for _, f := range fs {
					if v, ok := s.ledger.Lookup(f.UserID, f.NID); ok && v.State == api.Scheduled {
						s.ledger.End(v.Ref, api.Cancelled, now, c)
						cancelled++
					}
				}
			})
		}
		if err != nil || len(fs) < pageSize {
			return cancelled, err
		}
	}
}

// PerformUserRemoval implements api.FutureInternalAPI.
func (s *Server) PerformUserRemoval(ctx context.Context, userID string) error {
	return s.decideAndWait(ctx, func(now ledger.Time, c *ledger.Changes) { s.ledger.RemoveUser(userID, now, c) })
}

// slotsAtOnce is how many slots are searched while the lock is held.
const slotsAtOnce = 1 << 14

// PerformRoomPurge implements api.FutureInternalAPI.
func (s *Server) PerformRoomPurge(ctx context.Context, roomID string) error {
	ctx, cancel := patiently(ctx)
	defer cancel()
	for slot := uint32(1); ; {
		b, err := s.decide(func(now ledger.Time, c *ledger.Changes) {
			slot = s.ledger.PurgeRoom(roomID, slot, slotsAtOnce, now, c)
		})
		if err != nil {
			return err
		}
		if slot == 0 { // batches are written in order, so the last one covers all
			return b.wait(ctx)
		}
		yield()
	}
}

func fnv(s string) uint32 { return storage.KeyHash(s, "") }
