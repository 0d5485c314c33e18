package ledger

import (
	"slices"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
)

// The removal of an account or of a room.

// removal refuses new futures of a removed user or room until that time: requests that began before the removal may
// still be on their way.
type removal struct {
	until int64
	why   *api.Refusal
}

const (
	removedFor  = 60_000 // ms, longer than a request may take
	maxRemovals = 10_000
)

// refuseLate notes the removal of a user or a room.
func (l *Ledger) refuseLate(name uint64, why *api.Refusal, now Time) {
	if len(l.removed) >= maxRemovals {
		for name, r := range l.removed {
			if r.until < now.Now || len(l.removed) >= maxRemovals {
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

// RemoveUser cancels the user's scheduled futures and turns away those that are being created. Futures that are being
// sent stay.
func (l *Ledger) RemoveUser(userID string, now Time, c *Changes) {
	gone := &api.Refusal{Kind: api.Forbidden, Message: "The account has been removed."}
	user := l.hash(userID)
	l.refuseLate(user, gone, now)
	for _, slot := range slices.Clone(l.slotsOf(user)) {
		// The end of one future may have ended others of its group: their slots are free now.
		if r := l.at(slot); r.nid != 0 {
			l.remove(slot, r, gone, now, c)
		}
	}
}

// PurgeRoom does the same to a room, step by step. The first call has from 1 and turns away what is being created. Each
// call looks at limit slots, beginning at from. It returns the slot to continue at, 0 when it is done.
func (l *Ledger) PurgeRoom(roomID string, from uint32, limit int, now Time, c *Changes) (next uint32) {
	gone := &api.Refusal{Kind: api.RoomNotFound, Message: "The room has been removed."}
	room := l.hash(roomID)
	l.refuseLate(room, gone, now)
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
	last := min(l.records.last, from+uint32(limit)-1)
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

// remove cancels a scheduled future or turns an arrival away.
func (l *Ledger) remove(slot uint32, r *record, why error, now Time, c *Changes) {
	switch {
	case r.flags&sending != 0:
	case r.flags&creating != 0:
		l.turnAway(l.arrivals[r.nid], why, c)
	default:
		l.end(slot, r, api.Cancelled, nil, now, c)
	}
}
