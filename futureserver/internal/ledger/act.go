package ledger

import (
	"math"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
	"github.com/matrix-org/dendrite/futures/futureserver/storage"
)

// Actions on a stored future.

// Refreshed says when a refresh is durable.
type Refreshed uint8

const (
	Kept  Refreshed = iota // it is durable now
	Dirty                  // it is durable now, and the owner should call Gather soon; returned for the first such future only
	Waits                  // it is durable once the changes are on disk
)

// Refresh restarts a timer. Memory has the true deadline; the disk has a bound that no acknowledged deadline exceeds
// ("the stored high-water deadline" of docs/durability.md). A refresh below the bound is durable at once. If the next
// refresh, after an equal pause, would exceed the bound, the bound is raised soon. A refresh above the bound is durable
// once the changes that raise the bound are on disk. If sure is false, another server may own the database: then every
// refresh waits for the changes.
func (l *Ledger) Refresh(ref Ref, sure bool, now Time, c *Changes) Refreshed {
	r := l.at(ref.Slot)
	deadline := now.Ceil + int64(r.timeout)
	slack := l.cfg.Slack.Milliseconds()
	if deadline > r.high() || r.flags&raising != 0 || !sure {
		r.move(deadline)
		r.flags |= refreshed
		l.extend(ref.Slot, r, storage.Extend{Deadline: max(deadline+slack, r.high())}, now, c)
		return Waits
	}
	pause := deadline - r.deadline
	r.move(deadline)
	if r.high()-deadline < pause+slack/16 && r.flags&dirty == 0 {
		r.flags |= dirty
		l.dirty = append(l.dirty, ref.Slot)
		if len(l.dirty) == 1 {
			return Dirty
		}
	}
	return Kept
}

// extend adds a new stored deadline, given in the ledger's time, to the changes. The old one counts until they are on disk.
func (l *Ledger) extend(slot uint32, r *record, e storage.Extend, now Time, c *Changes) {
	high := e.Deadline
	e.NID, e.Deadline = r.nid, now.wall(high)
	if r.spare == 0 {
		r.flags |= raising
	}
	c.Extends = append(c.Extends, e)
	c.raises = append(c.raises, raise{slot, high})
}

// setExact rewrites the stored deadline after the wall clock was set. A future that was never refreshed gets its true
// deadline. Any other gets a whole slack more, so that this does not undo a raise.
func (l *Ledger) setExact(slot uint32, r *record, now Time, c *Changes) {
	high := r.deadline
	if r.flags&refreshed != 0 {
		high = max(high+l.cfg.Slack.Milliseconds(), r.high())
	}
	l.extend(slot, r, storage.Extend{Deadline: high, Exact: true}, now, c)
}

// Gather adds up to limit deadlines that must be raised or rewritten to the changes, and reports whether there are more.
func (l *Ledger) Gather(c *Changes, limit int, now Time) (more bool) {
	n := min(len(l.dirty), limit)
	for _, slot := range l.dirty[:n] {
		if r := l.at(slot); r.flags&dirty != 0 && r.state() == api.Scheduled {
			r.flags &^= dirty
			l.extend(slot, r, storage.Extend{Deadline: r.deadline + l.cfg.Slack.Milliseconds()}, now, c)
		}
	}
	l.dirty = l.dirty[n:]
	for ; n < limit && l.rewrite != 0; n++ {
		if l.rewrite > l.records.last {
			l.rewrite = 0
			break
		}
		if r := l.at(l.rewrite); r.state() == api.Scheduled && r.timeout != 0 && r.flags&creating == 0 {
			l.setExact(l.rewrite, r, now, c)
		}
		l.rewrite++
	}
	return l.Ungathered()
}

// clockStep is the smallest change of the wall clock that counts as a step, in ms.
const clockStep = 1000

// NoticeStep starts to rewrite all deadlines if the wall clock has been set by clockStep or more since the last call. The
// deadlines on disk are times of the old clock, so after a crash they would be early or late. It returns the step in ms,
// 0 if there was none.
func (l *Ledger) NoticeStep(now Time) (step int64) {
	step = now.Offset - l.offset
	if max(step, -step) < clockStep {
		return 0
	}
	l.offset = now.Offset
	l.Rewrite()
	return step
}

// Rewrite starts to rewrite all stored deadlines; Gather adds them to the changes.
func (l *Ledger) Rewrite() { l.rewrite = 1 }

// StoreExact adds the true deadlines of refreshed futures to the changes, up to limit of them, beginning at slot from. It
// serves a clean stop: no future may be refreshed afterwards. It returns the slot to continue at, 0 when it is done.
func (l *Ledger) StoreExact(from uint32, limit int, now Time, c *Changes) (next uint32) {
	l.dirty, l.rewrite = nil, 0
	for slot := from; slot <= l.records.last; slot++ {
		if len(c.Extends) >= limit {
			return slot
		}
		if r := l.at(slot); r.state() == api.Scheduled && (r.spare != 0 || r.flags&raising != 0) && r.flags&creating == 0 {
			l.extend(slot, r, storage.Extend{Deadline: r.deadline, Exact: true}, now, c)
		}
	}
	return 0
}

// End gives a scheduled future its final state. It does nothing to any other.
func (l *Ledger) End(ref Ref, state api.State, now Time, c *Changes) {
	if r := l.live(ref); r != nil && r.state() == api.Scheduled && r.flags&creating == 0 {
		l.end(ref.Slot, r, state, nil, now, c)
	}
}

// Watchers returns the futures of a room that newer state of these keys could end; nil stands for all keys. The result
// has some others too: futures whose 8-bit filter collides. A future that is being created is marked instead; its creator
// compares it with the room again once it is stored.
func (l *Ledger) Watchers(roomID string, changed []api.StateKeyTuple) (nids []api.NID) {
	var keys [math.MaxUint8 + 1]bool
	for _, t := range changed {
		keys[keyFilter(storage.KeyHash(t.Type, t.StateKey))] = true
	}
	for _, r := range l.watchedIn(l.hash(roomID)) {
		switch {
		case changed != nil && !keys[r.key], r.flags&sending != 0:
		case r.flags&creating != 0:
			l.arrivals[r.nid].Recheck = true
		default:
			nids = append(nids, r.nid)
		}
	}
	return nids
}

// Watcher finds a future that Watchers has returned.
func (l *Ledger) Watcher(roomID string, nid api.NID) (Ref, bool) {
	for slot, r := range l.watchedIn(l.hash(roomID)) {
		if r.nid == nid {
			return Ref{slot, nid}, true
		}
	}
	return Ref{}, false
}

// IsWatched reports whether newer state in that room could end any future.
func (l *Ledger) IsWatched(roomID string) bool {
	for range l.watchedIn(l.hash(roomID)) {
		return true
	}
	return false
}

// Ungathered reports whether there is anything to Gather.
func (l *Ledger) Ungathered() bool { return l.rewrite != 0 || len(l.dirty) > 0 }
