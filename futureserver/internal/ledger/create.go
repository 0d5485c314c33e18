package ledger

import (
	"errors"
	"slices"
	"time"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
	"github.com/matrix-org/dendrite/futures/futureserver/storage"
)

// How a future comes to be: Reserve gives it a place within the limits, Insert puts its row into the changes, and when
// these are written it is stored, and its tokens work. Until then it is an arrival, and may be turned away.

var (
	// ErrLook: the disk has to be asked whether the group's name was used before.
	ErrLook = errors.New("look at the disk first")
	// ErrRepeated: a future with the same secret, which is to say of the same transaction, is there already.
	ErrRepeated = errors.New("the transaction is known")
)

// Arrival is a future that is being created.
type Arrival struct {
	Future  *api.Future
	Err     error  // why it was turned away
	Stored  bool   // it is on disk, and live unless it has ended since
	Recheck bool   // its piece of state changed meanwhile: compare it with the room again
	Changes uint64 // the number of the changes that hold its row

	slot     uint32
	inserted bool
	offset   int64 // of the wall clock that its deadline was counted by
}

// Look is what the disk says of a group's name.
type Look struct {
	Used bool // a future of a group of that name has ended

	taken bool
	count uint32
}

// Reserve checks the limits and the group, and takes a place for the future; it fills in State, NID and GroupID. If it
// returns ErrLook, the disk is to be asked for the name, without any lock, and Reserve to be called again with the same
// look. An answer that is out of date by then is not used.
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

// checkLimit counts the user's futures of one kind. A limit may have been lowered since they were made: then it takes
// the end of several to get below it.
func (l *Ledger) checkLimit(user uint64, isManaged bool, now Time) error {
	most := l.Limits(isManaged).MaxPerUser
	slots := l.slotsOf(user)
	if len(slots) < most {
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
	if n < most {
		return nil
	}
	slices.Sort(deadlines)
	e := &api.LimitError{Max: most, Managed: isManaged}
	if tooMany := n - most; tooMany < len(deadlines) {
		e.RetryAfter = max(0, time.Duration(deadlines[tooMany]-now.Now)*time.Millisecond)
	}
	return e
}

// Limits returns those that apply to delayed events, or to other futures.
func (l *Ledger) Limits(isManaged bool) Limits {
	if isManaged {
		return l.cfg.Delayed
	}
	return l.cfg.Futures
}

// checkGroup: a group takes members until it is over, and action futures only beside a timeout future that runs. A name
// is good for one group: nobody opens it again. Whether it was used the disk knows, and before it does, closing.
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

// isDelayed reports whether that is the ID of a live delayed event, which is alone in its group.
func (l *Ledger) isDelayed(id string) bool {
	_, ok := l.Delayed(id)
	return ok
}

// Insert starts the future's clock and puts its row into the changes.
func (l *Ledger) Insert(a *Arrival, c *Changes, now Time) error {
	if a.Err != nil {
		return a.Err
	}
	f, r := a.Future, l.at(a.slot)
	size := len(f.Content) + len(f.GroupID) + len(f.Type) + rowBytes
	if _, known := l.holder(f.Secret); known && f.TxnKey != nil {
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
	l.passing[f.Secret] = passing{nid: f.NID, user: r.user, arrival: a}
	c.Inserts = append(c.Inserts, f)
	c.arrivals = append(c.arrivals, a)
	c.bytes += size
	return nil
}

const rowBytes = 500 // what the rest of a row takes, about

// Abandon turns an arrival away that is not stored yet, for a reason of its creator's. One that is stored is left alone.
func (l *Ledger) Abandon(a *Arrival, err error, c *Changes) {
	if a.Err == nil && !a.Stored {
		l.turnAway(a, err, c)
	}
}

// stored makes a future live: its tokens work and its timer runs.
func (l *Ledger) stored(a *Arrival, now Time, c *Changes) {
	if a.Err != nil {
		return // it was turned away, and its row goes with the changes that say so
	}
	a.Stored = true
	delete(l.arrivals, a.Future.NID)
	delete(l.passing, a.Future.Secret)
	r := l.at(a.slot)
	r.flags &^= creating
	l.addTokens(a.slot, r, l.tokens.add)
	if r.timeout != 0 {
		l.wheel.Add(a.slot)
		if by := a.offset - l.offset; max(by, -by) >= clockStep { // the wall clock was set meanwhile
			l.setExact(a.slot, r, now, c)
		}
	}
	if g := l.groupOf(a.slot, r); g != nil {
		g.founded = true
		l.settle(g, now, c)
	}
}

// notStored: nobody can know whether a commit that failed was applied, so its row is taken back.
func (l *Ledger) notStored(a *Arrival, err error, c *Changes) {
	if a.Err == nil {
		l.turnAway(a, err, c)
	}
}

// repeated: a finished future has the secret, and the row was not stored.
func (l *Ledger) repeated(a *Arrival) {
	if a.Err == nil {
		a.inserted = false // there is no row to take back
		delete(l.passing, a.Future.Secret)
		l.turnAway(a, ErrRepeated, nil)
	}
}

// holder finds the future with that secret, unless the disk knows it to have ended.
func (l *Ledger) holder(secret api.Secret) (p passing, ok bool) {
	if p, ok = l.passing[secret]; ok {
		return p, true
	}
	for _, kind := range []api.TokenKind{api.SendToken, api.GroupToken} {
		if slot, _, ok := l.findToken(secret.Token(kind)); ok {
			return passing{nid: l.at(slot).nid}, true
		}
	}
	return p, false
}

// BySecret finds the future with that secret, 0 if only the disk can know of it. While it is being stored, arrival is not
// nil.
func (l *Ledger) BySecret(secret api.Secret) (nid api.NID, arrival *Arrival) {
	p, _ := l.holder(secret)
	return p.nid, p.arrival
}
