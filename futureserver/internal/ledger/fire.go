package ledger

import (
	"github.com/matrix-org/dendrite/futures/futureserver/api"
	"github.com/matrix-org/dendrite/futures/futureserver/storage"
)

// Sending a future: Due, Ready, Claim, Conclude.

// Due calls each for futures that are due and takes them out of the wheel. One call handles at most limit entries of the
// wheel; done is false if there are more.
func (l *Ledger) Due(now Time, limit int, each func(ref Ref, deadline int64, room uint64)) (done bool) {
	return l.wheel.Advance(now.Now, limit, func(slot uint32) {
		r := l.at(slot)
		each(Ref{slot, r.nid}, r.deadline, l.roomOf(r))
	})
}

// Next returns the time at which Due must be called again.
func (l *Ledger) Next() int64 { return l.wheel.Next() }

// Readiness says whether a future may be sent.
type Readiness uint8

const (
	Gone  Readiness = iota // it has ended, or is being sent
	Early                  // it was refreshed after it became due, and was put back into the wheel
	Ready
)

// Ready reports whether a future may be sent now: it became due at that deadline or, if asked is set, its send token was
// used. A future that was refreshed since is not sent for the old deadline. This holds even if the new deadline has
// passed too, because an event that was built before would be dated before its deadline.
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

// Claim makes a future that is Ready the winner of its group, and adds the claim to the changes. It returns how late the
// future is, in ms.
func (l *Ledger) Claim(ref Ref, event *api.Event, now Time, c *Changes) (late int64) {
	r := l.at(ref.Slot)
	late = now.Now - r.deadline
	c.Claims = append(c.Claims, storage.Claim{NID: r.nid, Event: event, At: now.wall(now.Now)})
	if r.flags&managed == 0 { // the ID of a delayed event stays valid until its end
		l.removeTokens(ref.Slot, r)
	}
	l.wheel.Remove(ref.Slot)
	l.claim(r)
	l.addUnsettled(r)
	l.settle(l.groupOf(ref.Slot, r), now, c)
	return late
}

// addUnsettled lets a future that is being sent be found by its secret.
func (l *Ledger) addUnsettled(r *record) {
	l.unsettled[r.secret] = unsettled{nid: r.nid, user: r.user, managed: r.flags&managed != 0}
}

// Conclude gives a future its final state. If the future fails before it is claimed, its whole group is over
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

// Forget drops a future from memory and leaves the disk alone: another server has the future.
func (l *Ledger) Forget(ref Ref) {
	if r := l.live(ref); r != nil {
		delete(l.unsettled, r.secret)
		l.leave(ref.Slot, r)
	}
}
