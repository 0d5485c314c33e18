package ledger

import (
	"hash/maphash"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
	"github.com/matrix-org/dendrite/futures/futureserver/storage"
)

// Restoring live futures from disk.

// Found is a live future that Find has made of its row and that Restore has yet to add.
type Found struct {
	record
	room   uint64
	name   name // of its group; zero if it was created without a group ID
	graced bool
}

// Overdue reports whether the future's timer ran out while no server ran.
func (f *Found) Overdue(now Time) bool {
	return f.state() == api.Scheduled && f.timeout != 0 && (f.graced || f.deadline <= now.Ceil)
}

// Find makes a future of its row. It may run concurrently with Restore. After a crash the true deadline is lost. The
// stored deadline and now + timeout are both upper bounds of it, so their minimum is never early. A restart does not
// raise the stored deadline, so a crash loop cannot keep a future alive. A future with a heartbeat that became due while
// no server ran gets the grace of a restart. It gets it once: the row records it.
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

// Restore adds a future to memory as it is on disk. Its tokens work after Restored.
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
		l.addUnsettled(r)
	case r.timeout != 0:
		l.wheel.Add(slot)
	}
	if f.graced {
		l.graced = append(l.graced, ref)
	}
	return ref, l.roomOf(r), r.flags&sending != 0
}

// Restored ends a restart. From now on futures are found by their tokens. It puts each future that was created without a
// group ID into the group that others have joined by its group token. It settles every group, and adds the grace of the
// restart to the changes.
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
