package ledger

import (
	"hash/maphash"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
	"github.com/matrix-org/dendrite/futures/futureserver/storage"
)

// From disk into memory.

// Found is a live future on its way.
type Found struct {
	record
	room   uint64
	name   name // of its group; 0 if that is its own
	graced bool
}

// Overdue reports whether its timer ran out while no server ran.
func (f *Found) Overdue(now Time) bool {
	return f.state() == api.Scheduled && f.timeout != 0 && (f.graced || f.deadline <= now.Ceil)
}

// Find makes out the future of a row; it may run beside Restore. The true deadlines of a crashed server are lost, but the
// stored one and now + timeout are both upper bounds of it, so their minimum is never early; and since the stored one
// does not grow by restarting, a crash loop cannot keep a future alive. A future with a heartbeat that became due while
// no server ran gets the grace of a restart, once: the row remembers it.
func (l *Ledger) Find(t *storage.Timer, now Time) Found {
	f := Found{
		record: record{
			nid: t.NID, user: maphash.Bytes(l.seed, t.UserID), secret: t.Secret,
			timeout: uint32(t.Timeout.Milliseconds()),
		},
		room: maphash.Bytes(l.seed, t.RoomID),
	}
	if t.KeyHash != 0 && t.Policy.Watched() {
		f.flags |= watched
		f.key = keyFilter(t.KeyHash)
	}
	if t.Policy.Has(api.Managed) {
		f.flags |= managed
	}
	if t.State == api.Sending {
		f.flags |= sending
	}
	if f.timeout != 0 {
		stored := t.Deadline - now.Offset
		f.deadline = min(stored, now.Ceil+int64(f.timeout))
		f.setHigh(stored)
	}
	if t.Refreshed {
		f.flags |= refreshed
		if f.Overdue(now) && l.cfg.Grace > 0 && t.Deadline != t.Graced {
			f.deadline, f.spare, f.graced = now.Ceil+l.cfg.Grace.Milliseconds(), 0, true
		}
	}
	if len(t.GroupID) > 0 {
		f.name = name{f.user, maphash.Bytes(l.seed, t.GroupID)}
	}
	return f
}

// Restore puts a future into memory as it is on disk. Its tokens work when all are there.
func (l *Ledger) Restore(f *Found) (ref Ref, room uint64, claimed bool) {
	slot, r := l.put(f.record, f.room)
	if f.name != (name{}) {
		l.joinGroup(slot, r, f.name).founded = true
	}
	if r.flags&sending == 0 || r.flags&managed != 0 {
		l.addTokens(slot, r, l.tokens.gather)
	}
	ref = Ref{slot, r.nid}
	switch {
	case r.flags&sending != 0:
		l.pass(r)
	case r.timeout != 0:
		l.wheel.Add(slot)
	}
	if f.graced {
		l.graced = append(l.graced, ref)
	}
	return ref, l.roomOf(r), r.flags&sending != 0
}

// Restored ends a restart: from now on futures are found by their tokens. Groups whose founder is on disk as if it were
// alone take it in, every group is settled, and the grace of a restart becomes durable with the changes.
func (l *Ledger) Restored(last api.NID, now Time, c *Changes) {
	l.tokens.fit()
	l.lastNID = last
	adopted := make(map[uint64]bool)
	for _, g := range l.groups.list() {
		if user := g.name.user; !adopted[user] {
			adopted[user] = true
			l.adoptFounders(user)
		}
	}
	for _, g := range l.groups.list() {
		l.settle(g, now, c)
	}
	for _, ref := range l.graced {
		if r := l.live(ref); r != nil && r.state() == api.Scheduled {
			l.extend(ref.Slot, r, storage.Extend{Deadline: r.deadline, Exact: true, Grace: true}, now, c)
		}
	}
	l.graced = nil
}
