package ledger

import (
	"github.com/matrix-org/dendrite/futures/futureserver/api"
	"github.com/matrix-org/dendrite/futures/futureserver/storage"
)

// A future's way into its room.

// Due hands out what is due, at most most entries of the wheel, and reports whether that was all.
func (l *Ledger) Due(now Time, most int, each func(ref Ref, deadline int64, room uint64)) (done bool) {
	return l.wheel.Advance(now.Now, most, func(slot uint32) {
		r := l.at(slot)
		each(Ref{slot, r.nid}, r.deadline, l.roomOf(r))
	})
}

// Next says when Due is to be called again.
func (l *Ledger) Next() int64 { return l.wheel.Next() }

// Readiness says whether a future may be sent.
type Readiness uint8

const (
	Gone  Readiness = iota // it has ended, or is being sent
	Early                  // it was refreshed after it became due, and is back in the wheel
	Ready
)

// Ready reports whether a future may be sent now: one that became due at that deadline, or, if asked, one that a send
// token sends. One that was refreshed since is alive until it is claimed. So it is if its timer has run out again
// meanwhile, for an event that was built before would be dated before its deadline.
func (l *Ledger) Ready(ref Ref, deadline int64, asked bool) Readiness {
	r := l.live(ref)
	switch {
	case r == nil || r.state() != api.Scheduled:
		return Gone
	case !asked && r.deadline != deadline:
		l.wheel.Add(ref.Slot)
		return Early
	}
	return Ready
}

// Claim decides that a future that is Ready is the one of its group. It returns how late it is.
func (l *Ledger) Claim(ref Ref, event *api.Event, now Time, c *Changes) (late int64) {
	r := l.at(ref.Slot)
	late = now.Now - r.deadline
	c.Claims = append(c.Claims, storage.Claim{NID: r.nid, Event: event, At: now.wall(now.Now)})
	if r.flags&managed == 0 { // the ID of a delayed event says until its end what becomes of it
		l.removeTokens(ref.Slot, r)
	}
	l.wheel.Remove(ref.Slot)
	l.claim(r)
	l.pass(r)
	l.settle(l.groupOf(ref.Slot, r), now, c)
	return late
}

// pass has a future that is being sent found by its secret.
func (l *Ledger) pass(r *record) {
	l.passing[r.secret] = passing{nid: r.nid, user: r.user, managed: r.flags&managed != 0}
}

// Conclude gives a future its final state. If it fails before it is claimed, its whole group is consumed with it
// (generation 0, 5.2).
func (l *Ledger) Conclude(ref Ref, state api.State, failure *api.Refusal, now Time, c *Changes) {
	r := l.live(ref)
	if r == nil {
		return
	}
	if g := l.groupOf(ref.Slot, r); g != nil && state == api.Failed {
		g.over = true
	}
	l.end(ref.Slot, r, state, failure, now, c)
}

// Forget drops a future from memory alone: another process has it.
func (l *Ledger) Forget(ref Ref) {
	if r := l.live(ref); r != nil {
		delete(l.passing, r.secret)
		l.leave(ref.Slot, r)
	}
}
