package ledger

import (
	"slices"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
	"github.com/matrix-org/dendrite/futures/futureserver/storage"
)

// How futures end, and who ends with them.

// settle is the rule: a group that is over keeps nothing but the future that won. It runs after every verb that touches
// the group, and for all groups after a restart; what it decides is part of the same changes.
func (l *Ledger) settle(g *group, now Time, c *Changes) {
	if g == nil || !l.isOver(g) {
		return
	}
	g.over = true
	for _, slot := range slices.Clone(g.slots) {
		r := l.at(slot)
		switch {
		case r.flags&sending != 0: // it has won
		case r.flags&creating != 0:
			l.turnAway(l.arrivals[r.nid], api.ErrUnknownGroup, c)
		default:
			l.close(slot, r, api.Discarded, nil, now, c)
		}
	}
}

// isOver: one of the group is claimed, or its last timeout future is gone. A future counts when its row is on disk, so
// that a group none of whose futures was ever stored is not over.
func (l *Ledger) isOver(g *group) bool {
	if g.over || !g.founded {
		return g.over
	}
	timers := 0
	for _, slot := range g.slots {
		r := l.at(slot)
		if r.flags&sending != 0 {
			return true
		}
		if r.timeout != 0 && r.flags&creating == 0 {
			timers++
		}
	}
	return timers == 0
}

// end gives a scheduled future its final state and settles its group.
func (l *Ledger) end(slot uint32, r *record, state api.State, failure *api.Refusal, now Time, c *Changes) {
	g := l.groupOf(slot, r)
	l.close(slot, r, state, failure, now, c)
	l.settle(g, now, c)
}

// close ends one future that is stored. Until the end is on disk, its secret is passing and its group's name closing.
func (l *Ledger) close(slot uint32, r *record, state api.State, failure *api.Refusal, now Time, c *Changes) {
	e := storage.End{NID: r.nid, State: state, At: now.wall(now.Now), Age: now.Age, Failure: failure}
	if r.deadline != 0 {
		e.Deadline = now.wall(r.deadline)
	}
	c.Ends = append(c.Ends, e)
	l.ends++
	l.passing[r.secret] = passing{nid: r.nid, user: r.user, managed: r.flags&managed != 0, end: &e}
	c.secrets = append(c.secrets, r.secret)
	if n, named := l.nameOf(slot, r); named {
		l.closing[n]++
		c.names = append(c.names, n)
	} else {
		l.tally(r.user, r.nid)
	}
	l.leave(slot, r)
}

// turnAway ends a future that is still being created: its creator finds out why. If its row is on its way to the disk,
// the same changes take it back, so that it leaves no trace.
func (l *Ledger) turnAway(a *Arrival, err error, c *Changes) {
	a.Err = err
	delete(l.arrivals, a.Future.NID)
	if a.inserted {
		c.Undos = append(c.Undos, a.Future.NID)
		delete(l.passing, a.Future.Secret)
	}
	l.leave(a.slot, l.at(a.slot))
}

// leave takes a future out of memory: its tokens stop working, its timer stops.
func (l *Ledger) leave(slot uint32, r *record) {
	if r.flags&creating == 0 && (r.flags&sending == 0 || r.flags&managed != 0) {
		l.removeTokens(slot, r)
		l.wheel.Remove(slot)
	}
	l.drop(slot)
}

// tally counts the delayed events of a user that have ended since the older ones were last deleted.
type tally struct {
	nid api.NID // of the last one
	n   int
}

const (
	mostTallies = 100_000 // of users
	trimPart    = 20      // more than this part of what is kept, and the oldest go
)

func (l *Ledger) tally(user uint64, nid api.NID) {
	t, known := l.tallies[user]
	if !known {
		if len(l.tallies) >= mostTallies {
			clear(l.tallies) // each is counted anew with its next end
		}
		t.n = 1 << 30 // nobody knows how many there were before
	}
	l.tallies[user] = tally{nid, t.n + 1}
}

// Trims names the users who have so many ended delayed events by now that the oldest are to be deleted, by one of their futures.
func (l *Ledger) Trims(keep, most int) (trims []api.NID) {
	for user, t := range l.tallies {
		if len(trims) == most {
			break
		}
		if t.n > keep/trimPart {
			trims = append(trims, t.nid)
			l.tallies[user] = tally{nid: t.nid}
		}
	}
	return trims
}
