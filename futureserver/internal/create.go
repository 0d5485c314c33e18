package internal

import (
	"context"
	"slices"
	"time"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
	"github.com/matrix-org/dendrite/futures/futureserver/storage"
)

// How a future comes to be: a slot is reserved for it within the limits, the room is asked, its row is written with
// the next transaction (commit.go), and when that is on disk its tokens work and its timer runs.

// PerformFutureCreation implements api.FutureInternalAPI.
func (s *Server) PerformFutureCreation(ctx context.Context, f *api.Future) (*api.Future, error) {
	if f.TxnKey == nil {
		f.Secret = api.NewSecret()
		return s.create(ctx, f)
	}
	f.Secret = api.TransactionSecret(s.db.Key(), f.UserID, f.TxnKey)
	made, err := s.create(ctx, f)
	if err == nil || err == api.ErrStopping {
		return made, err
	}
	// A repeat gets its first answer even if it could not be accepted anew.
	if first, lookErr := s.first(ctx, f.Secret); lookErr == nil && first != nil {
		return first, nil
	}
	return nil, err
}

func (s *Server) create(ctx context.Context, f *api.Future) (*api.Future, error) {
	if most := s.limits(f.Policy.Has(api.Managed)).MaxTimeout; f.Timeout > most {
		return nil, &api.TimeoutError{Max: most}
	}
	slot, err := s.reserve(ctx, f)
	if err != nil {
		return nil, err
	}
	// Only now, with the slot registered, is the room asked: a change of state after the answer finds the
	// future and marks it, one before is in the answer.
	if f.Base, err = s.room.Admit(ctx, f); err != nil {
		s.abandon(slot)
		return nil, err
	}
	b, i, err := s.insert(slot, f)
	if err != nil {
		return nil, err
	}
	s.hooks.Step("accepted")
	if err := b.wait(ctx); err == api.ErrOverloaded {
		s.withdraw(slot, f.NID)
		return nil, err
	} else if err != nil && ctx.Err() != nil {
		return nil, err // as if the answer had been lost: the future may be stored
	}
	if err := b.insertErr(i); err != nil {
		return nil, err
	}
	if b.result.Duplicate[i] {
		return nil, errRepeated
	}
	s.metrics.scheduled.Inc()
	if b.again[i] {
		tuple, _ := f.Tuple()
		err = s.PerformStateChange(ctx, f.RoomID, []api.StateKeyTuple{tuple})
	}
	return f, err
}

// reserve checks the limits and the group, and takes a slot for the future.
func (s *Server) reserve(ctx context.Context, f *api.Future) (uint32, error) {
	f.State = api.Scheduled
	named := f.GroupID != ""
	if !named && f.Timeout == 0 {
		return 0, api.ErrUnknownGroup
	}
	used := false
	if named {
		lock := &s.naming[fnv(f.UserID)%uint32(len(s.naming))]
		lock.Lock()
		defer lock.Unlock()
		var err error
		if used, err = s.groupUsed(ctx, f.UserID, f.GroupID); err != nil {
			return 0, err
		}
	} else {
		f.GroupID = f.Token(api.GroupToken).String()
	}

	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopping {
		return 0, api.ErrStopping
	}
	if err := s.checkLimit(f.UserID, f.Policy.Has(api.Managed)); err != nil {
		return 0, err
	}
	if named {
		if err := s.checkGroup(f, used); err != nil {
			return 0, err
		}
	}
	s.lastNID++
	f.NID = s.lastNID
	r := record{nid: f.NID, user: s.table.hash(f.UserID), secret: f.Secret, timeout: uint32(f.Timeout.Milliseconds()), flags: creating}
	if t, ok := f.Tuple(); ok && f.Policy.Watched() {
		r.flags |= watched
		r.key = keyFilter(storage.KeyHash(t.Type, t.StateKey))
	}
	if f.Policy.Has(api.Managed) {
		r.flags |= managed
	}
	slot, rec := s.table.put(r, s.table.hash(f.RoomID))
	if named {
		s.table.joinGroup(slot, rec, f.UserID, f.GroupID)
	}
	return slot, nil
}

// groupUsed reports whether a user's group is over.
func (s *Server) groupUsed(ctx context.Context, userID, groupID string) (bool, error) {
	s.mu.Lock()
	if s.table.openGroup(userID, groupID) != nil {
		s.mu.Unlock()
		return false, nil
	}
	if err := s.ended(ctx); err != nil {
		return false, err
	}
	return s.db.GroupUsed(ctx, userID, groupID)
}

// checkLimit counts the user's futures of one kind. A limit may have been lowered since they were made: then
// it takes the end of several to get below it.
func (s *Server) checkLimit(userID string, isManaged bool) error {
	most := s.limits(isManaged).MaxPerUser
	slots := s.table.slotsOf(s.table.hash(userID))
	if len(slots) < most {
		return nil
	}
	n := 0
	var deadlines []int64
	for _, slot := range slots {
		if r := s.table.at(slot); (r.flags&managed != 0) == isManaged {
			n++
			if r.deadline != 0 {
				deadlines = append(deadlines, r.deadline)
			}
		}
	}
	if n < most {
		return nil
	}
	slices.Sort(deadlines)
	e := &api.LimitError{Max: most}
	if tooMany := n - most; tooMany < len(deadlines) {
		e.RetryAfter = max(0, time.Duration(deadlines[tooMany]-s.clock.now())*time.Millisecond)
	}
	return e
}

// checkGroup: a group takes members while it has a timeout future that can fire, and an action future needs
// one that is running. A group that is over stays closed for ever, or two events of one name could reach the
// room.
func (s *Server) checkGroup(f *api.Future, used bool) error {
	g := s.table.openGroup(f.UserID, f.GroupID)
	action := f.Timeout == 0
	if g == nil && (used || action) || g != nil && !s.hasTimeout(g, action) {
		return api.ErrUnknownGroup
	}
	return nil
}

// hasTimeout reports whether a group has a timeout future that can still fire; committedOnly leaves out those
// whose insert is under way.
func (s *Server) hasTimeout(g *group, committedOnly bool) bool {
	not := doomed
	if committedOnly {
		not |= creating
	}
	return slices.ContainsFunc(g.slots, func(slot uint32) bool {
		r := s.table.at(slot)
		return r.timeout != 0 && r.flags&(not|sending) == 0
	})
}

// abandon takes back a reservation.
func (s *Server) abandon(slot uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leave(slot, s.table.at(slot))
}

// withdraw has a future ended as soon as it is stored.
func (s *Server) withdraw(slot uint32, nid api.NID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.table.live(slot, nid); r != nil {
		s.end(s.batch(), slot, r, api.Discarded, nil)
	}
}

// insert starts the clock and hands the future to the next transaction.
func (s *Server) insert(slot uint32, f *api.Future) (*batch, int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.table.at(slot)
	if s.stopping || r.flags&doomed != 0 {
		s.leave(slot, r)
		return nil, 0, api.ErrStopping
	}
	if len(s.next.Inserts) >= maxBatch {
		s.leave(slot, r)
		return nil, 0, api.ErrOverloaded
	}
	if _, repeated := s.holder(f.Secret); repeated && f.TxnKey != nil {
		s.leave(slot, r)
		return nil, 0, errRepeated
	}
	now := s.clock.ceil()
	f.Created = s.clock.wall(now)
	if r.timeout != 0 {
		r.deadline = now + int64(r.timeout)
		f.Deadline = f.Created + int64(r.timeout)
	}
	b := s.batch()
	s.passing[f.Secret] = passing{nid: f.NID, user: r.user, made: b}
	b.Inserts = append(b.Inserts, f)
	b.slots = append(b.slots, slot)
	return b, len(b.Inserts) - 1, nil
}

// settleInsert tells memory what the database has said of a new future. Under the lock.
func (s *Server) settleInsert(b *batch, i int) {
	f, slot := b.Inserts[i], b.slots[i]
	r := s.table.at(slot)
	delete(s.passing, f.Secret)
	switch {
	case b.insertErr(i) != nil:
		// Nobody can know whether a failed commit was applied. If it was, this undoes it.
		next := s.batch()
		next.Ends = append(next.Ends, storage.End{NID: f.NID, State: api.Discarded, At: f.Created})
		s.unwritten++
		s.leave(slot, r)
	case b.result.Duplicate[i]:
		s.leave(slot, r)
	case r.flags&doomed != 0:
		r.flags &^= creating | doomed
		s.arm(slot, r)
		s.end(s.batch(), slot, r, api.Discarded, nil)
	default:
		b.again[i] = r.flags&lookAgain != 0
		s.arm(slot, r)
	}
}

func (b *batch) insertErr(i int) error {
	if b.failed != nil {
		return b.failed[i]
	}
	return nil
}

// arm makes a stored future live: its tokens work and its timer runs. Under the lock.
func (s *Server) arm(slot uint32, r *record) {
	r.flags &^= creating
	s.table.addTokens(slot, r, s.table.tokens.add)
	if r.timeout != 0 {
		s.wheel.Add(slot)
		if r.deadline < s.wakeAt {
			notify(s.wake)
		}
	}
}

// limits returns those that apply to a future.
func (s *Server) limits(isManaged bool) Limits {
	if isManaged {
		return s.cfg.Delayed
	}
	return s.cfg.Futures
}
