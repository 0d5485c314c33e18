package ledger

import (
	"slices"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
)

// The end of an account or of a room.

// removal is why nothing is created for a user or in a room for a while: requests that began before may come late.
type removal struct {
	until int64
	why   *api.Refusal
}

const (
	removedFor   = 60_000 // ms, longer than a request may take
	mostRemovals = 10_000
)

// remember refuses what comes late.
func (l *Ledger) remember(name uint64, why *api.Refusal, now Time) {
	if len(l.removed) >= mostRemovals {
		for name, r := range l.removed {
			if r.until < now.Now || len(l.removed) >= mostRemovals {
				delete(l.removed, name)
			}
		}
	}
	l.removed[name] = removal{now.Now + removedFor, why}
}

func (l *Ledger) checkRemoved(now Time, names ...uint64) error {
	for _, name := range names {
		if r, ok := l.removed[name]; ok {
			if now.Now < r.until {
				return r.why
			}
			delete(l.removed, name)
		}
	}
	return nil
}

// RemoveUser ends all that a user has and that is not being sent yet, also what is being created.
func (l *Ledger) RemoveUser(userID string, now Time, c *Changes) {
	gone := &api.Refusal{Kind: api.Forbidden, Message: "The account has been removed."}
	user := l.hash(userID)
	l.remember(user, gone, now)
	for _, slot := range slices.Clone(l.slotsOf(user)) {
		// Closing one may close others of its group, and their places are empty then.
		if r := l.at(slot); r.nid != 0 {
			l.remove(slot, r, gone, now, c)
		}
	}
}

// PurgeRoom does the same to a room: with what is being created at the first call, from slot 1, and with what is stored in
// most slots from that one on. It returns where to go on, 0 if that was all.
func (l *Ledger) PurgeRoom(roomID string, from uint32, most int, now Time, c *Changes) (next uint32) {
	gone := &api.Refusal{Kind: api.RoomNotFound, Message: "The room has been removed."}
	room := l.hash(roomID)
	l.remember(room, gone, now)
	number, ok := l.rooms.find(room)
	if !ok {
		return 0
	}
	if from == 1 {
		for _, a := range l.arrivals {
			if l.at(a.slot).room == number {
				l.turnAway(a, gone, c)
			}
		}
	}
	last := min(l.records.last, from+uint32(most)-1)
	for slot := from; slot <= last; slot++ {
		if r := l.at(slot); r.nid != 0 && r.room == number {
			l.remove(slot, r, gone, now, c)
		}
	}
	if last < l.records.last {
		return last + 1
	}
	return 0
}

// remove ends a future whatever it is doing, unless it is being sent.
func (l *Ledger) remove(slot uint32, r *record, why error, now Time, c *Changes) {
	switch {
	case r.flags&sending != 0:
	case r.flags&creating != 0:
		l.turnAway(l.arrivals[r.nid], why, c)
	default:
		l.end(slot, r, api.Cancelled, nil, now, c)
	}
}
