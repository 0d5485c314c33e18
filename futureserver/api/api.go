// Package api holds the types, the errors and the interfaces of the futureserver: FutureInternalAPI is what it offers, in
// one part for each caller; Room is what it needs of a room. The package knows nothing of HTTP, NATS or SQL. It imports
// no other package of this module, so every package can import it.
//
// A future is an event that a client gives to the server now. The event enters the room later, or never (MSC4140,
// generation 0). Futures with the same group ID exclude each other: at most one event of a group ever reaches a room.
package api

import (
	"cmp"
	"context"
	"encoding/json"
	"time"
)

// NID is the number of a future in one database. Clients never see it.
type NID int64

// A StateKeyTuple identifies one piece of room state.
type StateKeyTuple struct {
	Type, StateKey string
}

// Policy says how a future behaves where the generations of MSC4140 differ. The endpoint that creates the future sets
// it, and it is stored with the future.
type Policy uint8

const (
	// CancelOnNewerState ends a state future when a newer state event becomes current for its room, type and state key,
	// whoever sent that event (generation 0, 5.7).
	CancelOnNewerState Policy = 1 << iota
	// CancelOnOthersState ends it only if another user sent the newer event (generation 1, 6.3).
	CancelOnOthersState
	// Managed marks delayed events (generations 1 and 2). A delayed event has no tokens. Every action names its ID, which
	// is its group ID. Clients can look up its outcome afterwards.
	Managed
)

// Has reports whether p contains all of q.
func (p Policy) Has(q Policy) bool { return p&q == q }

// State is the state of a future. Scheduled and Sending are live; the others are final.
type State uint8

const (
	Scheduled   State = iota + 1 // waiting for its deadline or for a token
	Sending                      // claimed: its PDU is stored, and is submitted until the room confirms or refuses it
	Sent                         // its event is in the room
	Failed                       // the room refused it
	Cancelled                    // by its cancel token, an administrator, or the end of its account or room
	Invalidated                  // by a newer state event
	Discarded                    // another future of its group was claimed, or its group has no timeout future left
)

// String returns the state's name as it is spelled in documentation, metrics and the admin API.
func (s State) String() string {
	switch s {
	case Scheduled:
		return "scheduled"
	case Sending:
		return "sending"
	case Sent:
		return "sent"
	case Failed:
		return "failed"
	case Cancelled:
		return "cancelled"
	case Invalidated:
		return "invalidated"
	case Discarded:
		return "discarded"
	}
	return "unknown"
}

// Live reports whether the future can still put an event into the room.
func (s State) Live() bool { return s == Scheduled || s == Sending }

// Future is a complete future: the request and its outcome.
type Future struct {
	NID    NID
	Secret Secret // all its tokens are derived from it
	State  State
	Policy Policy

	UserID   string
	RoomID   string
	Type     string
	StateKey *string         // nil for a message event
	Content  json.RawMessage // as submitted, a JSON object
	GroupID  string          // as the client sees it
	Timeout  time.Duration   // 0: an action future, which only its send token sends
	Deadline int64           // Unix ms; 0 for an action future. Of a finished future: when it would have been due
	Created  int64           // Unix ms
	Base     string          // ID of the event that was current for the state key at creation; "" for none or a message
	OriginTS int64           // origin_server_ts of the event, Unix ms; 0: the time at which it is built

	// The origin of the request. A repeat of the same transaction gets the same future, and the device that scheduled
	// the event gets its local echo.
	DeviceID  string
	SessionID int64
	TxnID     string // "" if the endpoint has none
	TxnKey    []byte // in a request: a digest that identifies the transaction among the user's; nil without a transaction

	// The outcome; zero while the future is scheduled.
	Event    *Event   // set by the claim
	Finished int64    // Unix ms
	Failure  *Refusal // of a failed future
}

// Token returns the future's token of that kind.
func (f *Future) Token(k TokenKind) Token { return f.Secret.Token(k) }

// Tuple returns the piece of state that f would set; ok is false for a message future.
func (f *Future) Tuple() (t StateKeyTuple, ok bool) {
	if f.StateKey == nil {
		return StateKeyTuple{}, false
	}
	return StateKeyTuple{f.Type, *f.StateKey}, true
}

// Outdated reports whether newer state ends a state future with this policy. base is the event that was current for its
// piece of state when userID created it; now is the event that is current now.
func (p Policy) Outdated(base, userID string, now StateEvent) bool {
	if now.ID == base {
		return false
	}
	return p.Has(CancelOnNewerState) || p.Has(CancelOnOthersState) && now.Sender != userID
}

// Watched reports whether newer state can end a future with this policy.
func (p Policy) Watched() bool { return p&(CancelOnNewerState|CancelOnOthersState) != 0 }

// Event is a built and signed PDU. Its ID is fixed: submitting it twice puts it into the room once.
type Event struct {
	ID  string
	PDU json.RawMessage // in Dendrite's headered form; a round trip keeps every byte
}

// Action is what can be done to a delayed event.
type Action uint8

const (
	Send Action = iota
	Cancel
	Restart
)

// FinishedError is the error of an action on a delayed event that has ended or is being sent.
type FinishedError struct {
	*Future
}

// Error implements error.
func (e *FinishedError) Error() string { return "the delayed event is " + e.State.String() }

// StateEvent is the event that is current for a piece of state; the zero value stands for none.
type StateEvent struct {
	ID, Sender string
}

// Spell spells a Unix time in ms for people who read logs; 0 is "none".
func Spell(ms int64) string {
	if ms == 0 {
		return "none"
	}
	return time.UnixMilli(ms).UTC().Format("2006-01-02T15:04:05.000Z")
}

// Filter selects futures; the zero value selects all that live. They come in order of their NID, or from the newest on if
// Backwards, and begin behind After if that is not 0.
type Filter struct {
	UserID, RoomID string
	NID            NID
	States         States // 0: Live
	Kind           Kind
	From, Until    int64 // Unix ms, Until excluded; 0: no bound. Of the end, or the deadline of one that lives
	After          NID
	Backwards      bool
	Limit          int // 0: no limit
}

// Wanted returns the states that the filter selects.
func (f *Filter) Wanted() States { return cmp.Or(f.States, Live) }

// Matches reports whether the filter selects the future, whatever its place in the order.
func (f *Filter) Matches(x *Future) bool {
	when := cmp.Or(x.Finished, x.Deadline)
	return (f.UserID == "" || f.UserID == x.UserID) && (f.RoomID == "" || f.RoomID == x.RoomID) && (f.NID == 0 || f.NID == x.NID) &&
		f.Wanted().Has(x.State) && (f.Kind == AnyKind || f.Kind == KindOf(x.Policy)) &&
		(f.From == 0 || when >= f.From) && (f.Until == 0 || when != 0 && when < f.Until)
}

// States is a set of states.
type States uint8

// Live and Finished are the two halves of a future's life.
const (
	Live     = States(1<<Scheduled | 1<<Sending)
	Finished = States(1<<Sent | 1<<Failed | 1<<Cancelled | 1<<Invalidated | 1<<Discarded)
)

// Has reports whether the state is in the set.
func (s States) Has(state State) bool { return s&(1<<state) != 0 }

// Kind tells futures from delayed events.
type Kind uint8

const (
	AnyKind     Kind = iota
	OneOfGroup       // a future of generation 0, with tokens
	DelayedKind      // a delayed event, of generation 1 or 2
)

// KindOf returns what a future of that policy is.
func KindOf(p Policy) Kind {
	if p.Has(Managed) {
		return DelayedKind
	}
	return OneOfGroup
}

// String returns the kind's name as the admin API and the log spell it.
func (k Kind) String() string {
	switch k {
	case OneOfGroup:
		return "future"
	case DelayedKind:
		return "delayed_event"
	}
	return "any"
}

// DelayedFilter selects managed futures of one user. Without States it selects the scheduled ones. They are in order of
// NID, or newest first if Backwards is set. If After is not 0, the result starts after it.
type DelayedFilter struct {
	UserID    string
	RoomID    string // "": all rooms
	States    []State
	After     NID
	Backwards bool
	Limit     int // 0: no limit
}

// Compare orders the results of the filter; its result is that of cmp.Compare.
func (f DelayedFilter) Compare(a, b NID) int {
	if f.Backwards {
		a, b = b, a
	}
	return cmp.Compare(a, b)
}

// Counts says how many futures are live.
type Counts struct {
	Scheduled, Sending, Users, Rooms int
}

// Statistics count what has happened since the start.
type Statistics struct {
	Since                         time.Time // the start
	Scheduled, Refreshed, Retries uint64    // accepted futures, heartbeats, repeated attempts to send
	Ended                         map[State]uint64
	Failed                        map[RefusalKind]uint64 // Ended[Failed], by reason
	Lateness, Delivery            Histogram              // from the deadline to the claim, and to the confirmation
	Overdue                       time.Duration          // as in Vitals
}

// Histogram counts durations by ranges.
type Histogram struct {
	Bounds []time.Duration // the upper bound of each range, included
	Counts []uint64        // one more: the last is of all that are longer
}

// Vitals say how a futureserver is.
type Vitals struct {
	// Overdue is how long the oldest event has waited for its room since it was due; 0 if none waits. The time before the
	// server's start does not count.
	Overdue time.Duration
	// Stalled is for how long the database has not answered.
	Stalled time.Duration
}

// Room is what the core needs of the rooms; roomserver.Room implements it. An error that is neither *Refusal nor
// ErrNewerState counts as temporary: the core retries.
type Room interface {
	// Admit checks a future when it is scheduled: that the server knows the room, that the user is in it, and that this
	// kind of event can be sent at all. It does not look at power levels, which may change until the future fires
	// (generation 0, 3.8 and 5.1). It returns the ID of the event that is current for the future's state key, "" if
	// there is none or f is a message.
	Admit(ctx context.Context, f *Future) (base string, err error)

	// Current returns, for each piece of state, the event that sets it now. Without keys it does no I/O.
	Current(ctx context.Context, roomID string, keys []StateKeyTuple) ([]StateEvent, error)

	// Enter waits until nobody else on this server is making an event in the room. The caller must call leave once its
	// own events are in the room. Enter waits for a few seconds at most and then returns anyway. A caller that stays
	// inside for longer no longer keeps others out.
	Enter(ctx context.Context, roomID string) (leave func())

	// Build builds the events of futures of one room as if their users had sent them now. Each event follows the one
	// before it, and each is checked against the room's current state. The result has one Built for each future.
	Build(ctx context.Context, fs []*Future) []Built

	// Submit submits the events of futures of one room; an event comes after those it was built on. Its result is only
	// a hint: nil does not prove that the events are in the room, and an error does not prove that they are not.
	// Submitting the same events again is harmless.
	Submit(ctx context.Context, fs []*Future) error

	// Verdict says for each future what became of its submitted event. An error means that this is not known.
	Verdict(ctx context.Context, fs []*Future) ([]Verdict, error)
}

// Built is the event that was built for a future. Without an event, Err says why: ErrNewerState if newer state ends the
// future; *Refusal if the room would not accept the event. If both are nil, the event can only be built once its
// predecessors are in the room.
type Built struct {
	Event *Event
	Err   error
}

// Verdict is what is known of a submitted event.
type Verdict uint8

const (
	Unknown   Verdict = iota // not in the room, or no longer: submit it again
	Confirmed                // in the room's timeline
	Refused                  // the room has processed it and keeps it out of the timeline
)
