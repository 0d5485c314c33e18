package ledger

import (
	"errors"
	"slices"
	"time"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
	"github.com/matrix-org/dendrite/futures/futureserver/storage"
)

// The creation of a future: Reserve checks the limits and takes a slot, and Insert adds the row to the changes. Once they
// are written, the future is stored and its tokens work. Until then it is an arrival, which can still be turned away.

var (
	// ErrLook: the owner must first ask the disk whether the group's name has been used.
	ErrLook = errors.New("look at the disk first")
	// ErrRepeated: a future with the same secret exists, so it was created by the same transaction.
	ErrRepeated = errors.New("the transaction is known")
)

// Arrival is a future that is being created.
type Arrival struct {
	Future  *api.Future
	Err     error  // why it was turned away
	Stored  bool   // it is on disk, and live unless it has ended since
	Recheck bool   // its piece of state has changed since it was reserved: compare it with the room again
	Changes uint64 // the Number of the changes that hold its row

	slot     uint32
	inserted bool
	offset   int64 // of the wall clock when its deadline was computed
}

// Look is what the disk knows about a group's name.
type Look struct {
	Used bool // a future of a group with that name has ended

	taken bool
	count uint32 // of Ledger.looks when it was taken
}

// Reserve checks the limits and the group and takes a slot for the future. It fills in State, NID and GroupID. On ErrLook
// the caller asks the disk for the name, without holding a lock, sets look.Used, and calls Reserve again with the same
// look. If the answer is out of date by then, Reserve returns ErrLook again.
func (l *Ledger) Reserve(f *api.Future, look *Look, now Time) (*Arrival, error) {
	f.State = api.Scheduled
	user, named := l.hash(f.UserID), f.GroupID != ""
	if !named && f.Timeout == 0 {
		return nil, api.ErrUnknownGroup
	}
	if err := l.checkLimit(user, f.Policy.Has(api.Managed), now); err != nil {
		return nil, err
	}
	if named {
		if err := l.checkGroup(user, f, look); err != nil {
			return nil, err
		}
	}
	if err := l.checkRemoved(now, user, l.hash(f.RoomID)); err != nil {
		return nil, err
	}
	if !named {
		f.GroupID = f.Token(api.GroupToken).String()
	}
	l.lastNID++
	f.NID = l.lastNID
	r := record{nid: f.NID, user: user, secret: f.Secret, timeout: uint32(f.Timeout.Milliseconds()), flags: creating}
	if t, ok := f.Tuple(); ok && f.Policy.Watched() {
		r.flags |= watched
		r.key = keyFilter(storage.KeyHash(t.Type, t.StateKey))
	}
	if f.Policy.Has(api.Managed) {
		r.flags |= managed
	}
	slot, rec := l.put(r, l.hash(f.RoomID))
	if named {
		l.joinGroup(slot, rec, l.newName(user, f.GroupID))
	}
	a := &Arrival{Future: f, slot: slot}
	l.arrivals[f.NID] = a
	return a, nil
}

// checkLimit counts the user's futures of one kind. If the limit has been lowered since they were created, several must
// end before a new one fits.
func (l *Ledger) checkLimit(user uint64, isManaged bool, now Time) error {
	limit := l.Limits(isManaged).MaxPerUser
	slots := l.slotsOf(user)
	if len(slots) < limit {
		return nil
	}
	n := 0
	var deadlines []int64
	for _, slot := range slots {
		if r := l.at(slot); (r.flags&managed != 0) == isManaged {
			n++
			if r.deadline != 0 {
				deadlines = append(deadlines, r.deadline)
			}
		}
	}
	if n < limit {
		return nil
	}
	slices.Sort(deadlines)
	e := &api.LimitError{Max: limit, Managed: isManaged}
	if tooMany := n - limit; tooMany < len(deadlines) {
		e.RetryAfter = max(0, time.Duration(deadlines[tooMany]-now.Now)*time.Millisecond)
	}
	return e
}

// Limits returns the limits of delayed events if isManaged is set, else those of other futures.
func (l *Ledger) Limits(isManaged bool) Limits {
	if isManaged {
		return l.cfg.Delayed
	}
	return l.cfg.Futures
}

// checkGroup reports whether the future may join its group. A group takes members until it is over, and action futures
// only while one of its timeout futures runs. A name can be used for one group only. The disk knows which names were
// used; closing knows those whose end is not on disk yet.
func (l *Ledger) checkGroup(user uint64, f *api.Future, look *Look) error {
	if g := l.openGroup(user, f.GroupID); g != nil {
		if l.isOver(g) || f.Timeout == 0 && !g.founded {
			return api.ErrUnknownGroup
		}
		return nil
	}
	n := l.newName(user, f.GroupID)
	switch {
	case f.Timeout == 0, l.closing[n] > 0, l.isDelayed(f.GroupID):
		return api.ErrUnknownGroup
	case !look.taken || look.count != l.looks[n.shard()]:
		look.taken, look.count = true, l.looks[n.shard()]
		return ErrLook
	case look.Used:
		return api.ErrUnknownGroup
	}
	return nil
}

// isDelayed reports whether id is the ID of a live delayed event, which is always alone in its group.
func (l *Ledger) isDelayed(id string) bool {
	_, ok := l.Delayed(id)
	return ok
}

// Insert starts the future's timer and adds its row to the changes.
func (l *Ledger) Insert(a *Arrival, c *Changes, now Time) error {
	if a.Err != nil {
		return a.Err
	}
	f, r := a.Future, l.at(a.slot)
	size := len(f.Content) + len(f.GroupID) + len(f.Type) + rowBytes
	if _, known := l.findBySecret(f.Secret); known && f.TxnKey != nil {
		l.turnAway(a, ErrRepeated, c)
	} else if c.bytes+size > l.cfg.MaxBytes {
		l.turnAway(a, api.ErrOverloaded, c)
	}
	if a.Err != nil {
		return a.Err
	}
	f.Created = now.wall(now.Ceil)
	if r.timeout != 0 {
		r.deadline = now.Ceil + int64(r.timeout)
		f.Deadline = f.Created + int64(r.timeout)
	}
	a.inserted, a.offset, a.Changes = true, now.Offset, c.Number
	l.unsettled[f.Secret] = unsettled{nid: f.NID, user: r.user, arrival: a}
	c.Inserts = append(c.Inserts, f)
	c.arrivals = append(c.arrivals, a)
	c.bytes += size
	return nil
}

const rowBytes = 500 // about the size of a row's other columns

// Abandon turns an arrival away with the creator's error. It does nothing to an arrival that is stored.
func (l *Ledger) Abandon(a *Arrival, err error, c *Changes) {
	if a.Err == nil && !a.Stored {
		l.turnAway(a, err, c)
	}
}

// stored makes a future live: its tokens work and its timer runs.
func (l *Ledger) stored(a *Arrival, now Time, c *Changes) {
	if a.Err != nil {
		return // it was turned away, and those changes delete its row
	}
	a.Stored = true
	delete(l.arrivals, a.Future.NID)
	delete(l.unsettled, a.Future.Secret)
	r := l.at(a.slot)
	r.flags &^= creating
	l.addTokens(a.slot, r, l.tokens.add)
	if r.timeout != 0 {
		l.wheel.Add(a.slot)
		if by := a.offset - l.offset; max(by, -by) >= clockStep { // the wall clock was set after Insert
			l.setExact(a.slot, r, now, c)
		}
	}
	if g := l.groupOf(a.slot, r); g != nil {
		g.founded = true
		l.settle(g, now, c)
	}
}

// notStored turns the arrival away and deletes its row, because a commit that failed may still have been applied.
func (l *Ledger) notStored(a *Arrival, err error, c *Changes) {
	if a.Err == nil {
		l.turnAway(a, err, c)
	}
}

// repeated turns the arrival away: a finished future has its secret, so the row was not stored.
func (l *Ledger) repeated(a *Arrival) {
	if a.Err == nil {
		a.inserted = false // there is no row to delete
		delete(l.unsettled, a.Future.Secret)
		l.turnAway(a, ErrRepeated, nil)
	}
}

// findBySecret finds the future with that secret, unless its end is on disk already.
func (l *Ledger) findBySecret(secret api.Secret) (u unsettled, ok bool) {
	if u, ok = l.unsettled[secret]; ok {
		return u, true
	}
	for _, kind := range []api.TokenKind{api.SendToken, api.GroupToken} {
		if slot, _, ok := l.findToken(secret.Token(kind)); ok {
			return unsettled{nid: l.at(slot).nid}, true
		}
	}
	return u, false
}

// BySecret finds the future with that secret. nid is 0 if only the disk can know of it. arrival is not nil while the
// future is being stored.
func (l *Ledger) BySecret(secret api.Secret) (nid api.NID, arrival *Arrival) {
	u, _ := l.findBySecret(secret)
	return u.nid, u.arrival
}
