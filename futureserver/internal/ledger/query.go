package ledger

import (
	"time"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
)

// Questions about live futures.

// View is what memory knows about a live future.
type View struct {
	Ref
	State    api.State
	Deadline int64         // in the ledger's time, ms; 0 for an action future
	Timeout  time.Duration // 0 for an action future
	Managed  bool
	Arriving bool // it is not stored yet
	user     uint64
	room     uint64
}

func (l *Ledger) view(slot uint32, r *record) View {
	return View{
		Ref: Ref{slot, r.nid}, State: r.state(), Deadline: r.deadline, Timeout: time.Duration(r.timeout) * time.Millisecond,
		Managed: r.flags&managed != 0, Arriving: r.flags&creating != 0, user: r.user, room: l.roomOf(r),
	}
}

// ByToken finds the future and the kind of a token. It does not allocate.
func (l *Ledger) ByToken(token api.Token) (ref Ref, kind api.TokenKind, ok bool) {
	slot, kind, ok := l.findToken(token)
	if !ok {
		return Ref{}, 0, false
	}
	return Ref{slot, l.at(slot).nid}, kind, true
}

// Delayed finds a delayed event that is scheduled or being sent.
func (l *Ledger) Delayed(id string) (View, bool) {
	token, ok := api.ParseToken(id)
	if !ok {
		return View{}, false
	}
	slot, kind, ok := l.findToken(token)
	if !ok || kind != api.GroupToken {
		return View{}, false
	}
	return l.view(slot, l.at(slot)), true
}

// OfUser returns a user's futures.
func (l *Ledger) OfUser(userID string) []View {
	slots := l.slotsOf(l.hash(userID))
	views := make([]View, 0, len(slots))
	for _, slot := range slots {
		views = append(views, l.view(slot, l.at(slot)))
	}
	return views
}

// At returns a live future; ok is false if it has left memory.
func (l *Ledger) At(ref Ref) (View, bool) {
	if r := l.live(ref); r != nil {
		return l.view(ref.Slot, r), true
	}
	return View{}, false
}

// IsUser reports whether the future is that user's.
func (l *Ledger) IsUser(v View, userID string) bool { return v.user == l.hash(userID) }

// IsRoom reports whether the future is in that room.
func (l *Ledger) IsRoom(v View, roomID string) bool { return v.room == l.hash(roomID) }

// RoomOf returns the hash of the room of a live future.
func (l *Ledger) RoomOf(ref Ref) uint64 { return l.roomOf(l.at(ref.Slot)) }

// Lookup returns the user's future with that NID, if it is stored.
func (l *Ledger) Lookup(userID string, nid api.NID) (View, bool) {
	for _, slot := range l.slotsOf(l.hash(userID)) {
		if r := l.at(slot); r.nid == nid && r.flags&creating == 0 {
			return l.view(slot, r), true
		}
	}
	return View{}, false
}

// Ended is a future whose end is decided but not yet on disk.
type Ended struct {
	NID      api.NID
	Managed  bool
	State    api.State
	At       int64 // Unix ms
	Deadline int64 // Unix ms
	Failure  *api.Refusal
}

// Ending returns the user's futures whose end is decided but not yet on disk.
func (l *Ledger) Ending(userID string) (ended []Ended) {
	user := l.hash(userID)
	for _, u := range l.unsettled {
		if u.user == user && u.end != nil {
			ended = append(ended, Ended{u.nid, u.managed, u.end.State, u.end.At, u.end.Deadline, u.end.Failure})
		}
	}
	return ended
}

// UnderWay lists the user's futures that are claimed, or whose end is not on disk yet.
func (l *Ledger) UnderWay(userID string) (nids []api.NID) {
	user := l.hash(userID)
	for _, u := range l.unsettled {
		if u.user == user && u.arrival == nil {
			nids = append(nids, u.nid)
		}
	}
	return nids
}

// Counts returns how many futures are live, by state, and of how many users and rooms.
func (l *Ledger) Counts() api.Counts {
	return api.Counts{Scheduled: l.scheduled, Sending: l.sending, Users: l.users.len, Rooms: l.rooms.places.len()}
}

// Tokens returns how many tokens are valid.
func (l *Ledger) Tokens() int { return l.tokens.len() }

// Unsettled returns how many futures are being stored or sent, or have an end that is not on disk yet.
func (l *Ledger) Unsettled() int { return len(l.unsettled) }
