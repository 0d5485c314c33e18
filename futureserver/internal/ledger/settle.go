package ledger

import (
	"slices"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
	"github.com/matrix-org/dendrite/futures/futureserver/storage"
)

// The end of a future, and of the futures in its group.

// settle is the rule of groups: when a group is over, all its futures end except the one that was claimed. It runs after
// every method that touches the group, and for all groups after a restart. The ends go into the same changes.
func (l *Ledger) settle(g *group, now Time, c *Changes) {
	if g == nil || !l.isOver(g) {
		return
	}
	g.over = true
	for _, slot := range slices.Clone(g.slots) {
		r := l.at(slot)
		switch {
		case r.flags&sending != 0: // the one that was claimed
		case r.flags&creating != 0:
			l.turnAway(l.arrivals[r.nid], api.ErrUnknownGroup, c)
		default:
			l.endAlone(slot, r, api.Discarded, nil, now, c)
		}
	}
}

// isOver reports whether one of the group's futures was claimed or its last timeout future has ended. Only futures whose
// row is on disk count. A group is not over before its first future is stored.
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
	l.endAlone(slot, r, state, failure, now, c)
	l.settle(g, now, c)
}

// endAlone ends one stored future and leaves the rest of its group alone. Until the end is on disk, the future is in
// l.unsettled and its group's name in l.closing.
func (l *Ledger) endAlone(slot uint32, r *record, state api.State, failure *api.Refusal, now Time, c *Changes) {
	e := storage.End{NID: r.nid, State: state, At: now.wall(now.Now), Age: now.Age, Failure: failure}
	if r.deadline != 0 {
		e.Deadline = now.wall(r.deadline)
	}
	c.Ends = append(c.Ends, e)
	l.ends++
	l.unsettled[r.secret] = unsettled{nid: r.nid, user: r.user, managed: r.flags&managed != 0, end: &e}
	c.secrets = append(c.secrets, r.secret)
	if n, named := l.nameOf(slot, r); named {
		l.closing[n]++
		c.names = append(c.names, n)
	} else {
		l.tally(r.user, r.nid)
	}
	l.leave(slot, r)
}

// turnAway ends a future that is still being created; the creator finds the reason in a.Err. If its row is in changes
// already, c deletes it again.
func (l *Ledger) turnAway(a *Arrival, err error, c *Changes) {
	a.Err = err
	delete(l.arrivals, a.Future.NID)
	if a.inserted {
		c.Undos = append(c.Undos, a.Future.NID)
		delete(l.unsettled, a.Future.Secret)
	}
	l.leave(a.slot, l.at(a.slot))
}

// leave drops a future from memory, with its tokens and its timer.
func (l *Ledger) leave(slot uint32, r *record) {
	if r.flags&creating == 0 && (r.flags&sending == 0 || r.flags&managed != 0) {
		l.removeTokens(slot, r)
		l.wheel.Remove(slot)
	}
	l.drop(slot)
}

// tally counts the user's delayed events that have ended since old ones were last deleted.
type tally struct {
	nid api.NID // of the last one that ended
	n   int
}

const (
	maxTallies = 100_000 // of users
	trimPart   = 20      // old ones are deleted once keep/trimPart have ended since the last time
)

func (l *Ledger) tally(user uint64, nid api.NID) {
	t, known := l.tallies[user]
	if !known {
		if len(l.tallies) >= maxTallies {
			clear(l.tallies) // each user gets a new tally with the next end
		}
		t.n = 1 << 30 // it is unknown how many ended before, so trim this user soon
	}
	l.tallies[user] = tally{nid, t.n + 1}
}

// Trims returns up to limit users whose oldest ended delayed events should be deleted; keep is how many a user may keep.
// Each user is represented by one of their futures.
func (l *Ledger) Trims(keep, limit int) (trims []api.NID) {
	for user, t := range l.tallies {
		if len(trims) == limit {
			break
		}
		if t.n > keep/trimPart {
			trims = append(trims, t.nid)
			l.tallies[user] = tally{nid: t.nid}
		}
	}
	return trims
}
