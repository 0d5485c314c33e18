package internal

import (
	"context"
	"math"
	"slices"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
	"github.com/matrix-org/dendrite/futures/futureserver/storage"
)

// What is done to a scheduled future from outside: tokens, newer state, and the end of its account or room.

// PerformTokenAction implements api.FutureInternalAPI.
func (s *Server) PerformTokenAction(ctx context.Context, token api.Token) error {
	s.mu.Lock()
	if s.stopping {
		s.mu.Unlock()
		return api.ErrStopping
	}
	slot, kind, ok := s.table.findToken(token)
	if !ok || kind == api.GroupToken { // a delayed event's ID is no token
		s.mu.Unlock()
		return api.ErrGone
	}
	r := s.table.at(slot)
	switch kind {
	case api.RefreshToken:
		return s.refresh(ctx, slot, r)
	case api.CancelToken:
		return s.cancelOne(ctx, slot, r)
	}
	return s.send(ctx, slot, r)
}

// cancelOne is called with the lock and gives it back.
func (s *Server) cancelOne(ctx context.Context, slot uint32, r *record) error {
	b := s.batch()
	s.end(b, slot, r, api.Cancelled, nil)
	s.mu.Unlock()
	return b.wait(ctx)
}

// send asks for a future to be sent now, and waits; it is called with the lock and gives it back.
func (s *Server) send(ctx context.Context, slot uint32, r *record) error {
	request := &sendRequest{ctx: ctx, done: make(chan error, 1)}
	s.enqueue(s.table.roomOf(r), job{slot: slot, nid: r.nid, at: s.clock.now(), send: request})
	s.dispatch()
	s.mu.Unlock()
	return request.wait(ctx)
}

// refresh restarts a timer; it is called with the lock and gives it back. Each future has its true deadline
// in memory and a stored bound that no acknowledged deadline ever exceeds ("the stored high-water
// deadline" of docs/durability.md). Below the bound a refresh is durable as it stands and costs no I/O; if the
// next one, after as long a pause as this one, would pass it, the next batch raises it and nobody waits; beyond
// it the answer waits for the commit that raises it.
func (s *Server) refresh(ctx context.Context, slot uint32, r *record) error {
	deadline := s.clock.ceil() + int64(r.timeout)
	slack := s.cfg.Slack.Milliseconds()
	if deadline <= r.high() {
		pause := deadline - r.deadline
		r.move(deadline)
		if r.high()-deadline < pause+slack/16 && r.flags&dirty == 0 {
			r.flags |= dirty
			s.dirty = append(s.dirty, slot)
			if len(s.dirty) == 1 {
				s.kickLater()
			}
		}
		s.mu.Unlock()
		s.metrics.refreshed.Inc()
		return nil
	}

	b, nid := s.batch(), r.nid
	s.extend(b, slot, r, deadline+slack)
	s.mu.Unlock()
	if err := b.wait(ctx); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if r = s.table.live(slot, nid); r == nil || r.state() != api.Scheduled {
		return api.ErrGone // it fired while the commit was under way
	}
	r.move(max(r.deadline, deadline))
	s.metrics.refreshed.Inc()
	return nil
}

// end closes a scheduled future, and with it its group if that has no timeout future left; b makes it
// durable. Under the lock.
func (s *Server) end(b *batch, slot uint32, r *record, state api.State, failure *api.Refusal) {
	if r.flags&creating != 0 {
		r.flags |= doomed // its insert is on the way; it is ended when it arrives
		return
	}
	g, rest := s.table.groupOf(slot, r), s.table.siblings(slot, r)
	s.close(b, slot, r, state, failure)
	if len(rest) == 0 || s.hasTimeout(g, false) {
		return
	}
	for _, slot := range rest {
		s.close(b, slot, s.table.at(slot), api.Discarded, nil)
	}
}

// close gives one future its final state. Under the lock.
func (s *Server) close(b *batch, slot uint32, r *record, state api.State, failure *api.Refusal) {
	if r.flags&creating != 0 {
		r.flags |= doomed
		return
	}
	e := storage.End{NID: r.nid, State: state, At: s.clock.wall(s.clock.now()), Failure: failure}
	if r.deadline != 0 {
		e.Deadline = s.clock.wall(r.deadline)
	}
	b.Ends = append(b.Ends, e)
	s.unwritten++
	s.passUntil(b, r)
	s.metrics.ended(state, failure)
	s.leave(slot, r)
}

// leave takes a future out of memory: its tokens stop working, its timer stops. Under the lock.
func (s *Server) leave(slot uint32, r *record) {
	if r.flags&creating == 0 && (r.flags&sending == 0 || r.flags&managed != 0) {
		s.table.removeTokens(slot, r)
		s.wheel.Remove(slot)
	}
	s.table.drop(slot)
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
		// Whoever has the same filter by chance is told apart here, before the room is asked.
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
	return s.endAll(ctx, stale, api.Invalidated, func(nid api.NID) (uint32, *record) { return s.watcher(roomID, nid) })
}

// watchers returns the stored futures that those pieces of state could close, and by chance a few others. One
// whose insert is under way is marked instead: its creator looks again when it is stored.
func (s *Server) watchers(roomID string, changed []api.StateKeyTuple) (nids []api.NID) {
	var keys [math.MaxUint8 + 1]bool
	for _, t := range changed {
		keys[keyFilter(storage.KeyHash(t.Type, t.StateKey))] = true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.table.watchedIn(s.table.hash(roomID)) {
		switch {
		case changed != nil && !keys[r.key], r.flags&sending != 0:
		case r.flags&creating != 0:
			r.flags |= lookAgain
		default:
			nids = append(nids, r.nid)
		}
	}
	return nids
}

func (s *Server) watcher(roomID string, nid api.NID) (uint32, *record) {
	for slot, r := range s.table.watchedIn(s.table.hash(roomID)) {
		if r.nid == nid {
			return slot, r
		}
	}
	return 0, nil
}

// endAll closes the futures that are still scheduled and returns when that is durable.
func (s *Server) endAll(ctx context.Context, nids []api.NID, state api.State, find func(api.NID) (uint32, *record)) error {
	if len(nids) == 0 {
		return nil
	}
	s.mu.Lock()
	if s.stopping {
		s.mu.Unlock()
		return api.ErrStopping
	}
	b := s.batch()
	for _, nid := range nids {
		if slot, r := find(nid); r != nil && r.state() == api.Scheduled {
			s.end(b, slot, r, state, nil)
		}
	}
	s.mu.Unlock()
	return b.wait(ctx)
}

// PerformAdminCancellation implements api.FutureInternalAPI.
func (s *Server) PerformAdminCancellation(ctx context.Context, filter api.Filter) (int, error) {
	if filter.UserID == "" && filter.RoomID == "" && filter.NID == 0 {
		return 0, &api.Refusal{Kind: api.BadEvent, Message: "Name a user, a room or a future to cancel."}
	}
	fs, err := s.QueryFutures(ctx, filter)
	if err != nil {
		return 0, err
	}
	byNID := make(map[api.NID]*api.Future, len(fs))
	var nids []api.NID
	for _, f := range fs {
		if f.State == api.Scheduled {
			byNID[f.NID] = f
			nids = append(nids, f.NID)
		}
	}
	err = s.endAll(ctx, nids, api.Cancelled, func(nid api.NID) (uint32, *record) { return s.lookUp(byNID[nid]) })
	return len(nids), err
}

// PerformRoomPurge implements api.FutureInternalAPI.
func (s *Server) PerformRoomPurge(ctx context.Context, roomID string) error {
	_, err := s.PerformAdminCancellation(ctx, api.Filter{RoomID: roomID})
	return err
}

// PerformUserRemoval implements api.FutureInternalAPI.
func (s *Server) PerformUserRemoval(ctx context.Context, userID string) error {
	s.mu.Lock()
	if s.stopping {
		s.mu.Unlock()
		return api.ErrStopping
	}
	b := s.batch()
	for _, slot := range slices.Clone(s.table.slotsOf(s.table.hash(userID))) {
		// Closing one may close others of its group, and their slots are empty then.
		if r := s.table.at(slot); r.state() == api.Scheduled {
			s.end(b, slot, r, api.Cancelled, nil)
		}
	}
	s.mu.Unlock()
	return b.wait(ctx)
}

func fnv(s string) uint32 { return storage.KeyHash(s, "") }
