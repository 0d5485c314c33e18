package ledger

import (
	"math"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
	"github.com/matrix-org/dendrite/futures/futureserver/storage"
)

// What is done to a stored future from outside.

// Refreshed says what a refresh costs.
type Refreshed uint8

const (
	Kept  Refreshed = iota // it is durable as it stands
	Dirty                  // so it is, and the stored deadline is to be raised soon; said once
	Waits                  // it is durable when the changes are
)

// Refresh restarts a timer. Each future has its true deadline in memory and a stored bound that no acknowledged deadline
// ever exceeds ("the stored high-water deadline" of docs/durability.md). Below the bound a refresh is durable as it
// stands; if the next one, after as long a pause as this one, would pass it, it is raised soon; beyond it the answer waits
// for the changes that raise it. If sure is false, nobody knows whether the disk is still ours: then every answer waits.
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

// extend sets the stored deadline, given in the ledger's time. Until that is on disk, only the old one counts.
func (l *Ledger) extend(slot uint32, r *record, e storage.Extend, now Time, c *Changes) {
	high := e.Deadline
	e.NID, e.Deadline = r.nid, now.wall(high)
	if r.spare == 0 {
		r.flags |= raising
	}
	c.Extends = append(c.Extends, e)
	c.raises = append(c.raises, raise{slot, high})
}

// setExact writes the stored deadline anew, after the wall clock was set: a future that was never refreshed is exact, any
// other keeps a whole slack, so that what was raised meanwhile is not taken back.
func (l *Ledger) setExact(slot uint32, r *record, now Time, c *Changes) {
	high := r.deadline
	if r.flags&refreshed != 0 {
		high = max(high+l.cfg.Slack.Milliseconds(), r.high())
	}
	l.extend(slot, r, storage.Extend{Deadline: high, Exact: true}, now, c)
}

// Gather puts some of the deadlines that are to be raised, or to be written anew, into the changes, and reports whether
// there are more.
func (l *Ledger) Gather(c *Changes, most int, now Time) (more bool) {
	n := min(len(l.dirty), most)
	for _, slot := range l.dirty[:n] {
		if r := l.at(slot); r.flags&dirty != 0 && r.state() == api.Scheduled {
			r.flags &^= dirty
			l.extend(slot, r, storage.Extend{Deadline: r.deadline + l.cfg.Slack.Milliseconds()}, now, c)
		}
	}
	l.dirty = l.dirty[n:]
	for ; n < most && l.rewrite != 0; n++ {
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

// clockStep is what is taken for a step of the wall clock, in ms.
const clockStep = 1000

// NoticeStep has all deadlines written anew if the wall clock was set since the last call, by a second or more: those on
// disk were counted by the old one, and would be early after a crash, or late. It returns the step in ms, 0 if there was none.
func (l *Ledger) NoticeStep(now Time) (step int64) {
	step = now.Offset - l.offset
	if max(step, -step) < clockStep {
		return 0
	}
	l.offset = now.Offset
	l.Rewrite()
	return step
}

// Rewrite has all deadlines written anew.
func (l *Ledger) Rewrite() { l.rewrite = 1 }

// StoreExact puts the true deadlines of refreshed futures, from a slot on, into the changes, for a clean stop. It returns
// where to go on, 0 if that was all. Nothing may be refreshed any more.
func (l *Ledger) StoreExact(from uint32, most int, now Time, c *Changes) (next uint32) {
	l.dirty, l.rewrite = nil, 0
	for slot := from; slot <= l.records.last; slot++ {
		if len(c.Extends) >= most {
			return slot
		}
		if r := l.at(slot); r.state() == api.Scheduled && (r.spare != 0 || r.flags&raising != 0) && r.flags&creating == 0 {
			l.extend(slot, r, storage.Extend{Deadline: r.deadline, Exact: true}, now, c)
		}
	}
	return 0
}

// End gives a scheduled future its final state.
func (l *Ledger) End(ref Ref, state api.State, now Time, c *Changes) {
	if r := l.live(ref); r != nil && r.state() == api.Scheduled && r.flags&creating == 0 {
		l.end(ref.Slot, r, state, nil, now, c)
	}
}

// Watchers returns the futures of a room that newer state of these keys could end (nil: any), and a few others, whose
// 8-bit filter collides. One that is being created is marked instead: its creator compares it again when it is stored.
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

// Watcher finds a future that Watchers has named.
func (l *Ledger) Watcher(roomID string, nid api.NID) (Ref, bool) {
	for slot, r := range l.watchedIn(l.hash(roomID)) {
		if r.nid == nid {
			return Ref{slot, nid}, true
		}
	}
	return Ref{}, false
}

// IsWatched reports whether newer state in that room could concern any future.
func (l *Ledger) IsWatched(roomID string) bool {
	for range l.watchedIn(l.hash(roomID)) {
		return true
	}
	return false
}

// Ungathered reports whether there is anything to Gather.
func (l *Ledger) Ungathered() bool { return l.rewrite != 0 || len(l.dirty) > 0 }
