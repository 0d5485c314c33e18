// Package api holds the nouns, the errors and the two ports of the futureserver: the verbs it offers
// (FutureInternalAPI) and what it needs of the room (Room). It knows neither HTTP, nor NATS, nor SQL,
// and imports nothing of ours, so that every other package can speak its words.
//
// A future is an event that a client hands to the server now and that enters the room later or never
// (MSC4140, generation 0). Futures with one group ID exclude each other: at most one event of a group
// ever reaches a room.
package api

import (
	"cmp"
	"context"
	"encoding/json"
	"time"
)

// NID numbers a future inside one database. It never leaves the server.
type NID int64

// A StateKeyTuple names one piece of room state.
type StateKeyTuple struct {
	Type, StateKey string
}

// Policy says how a future behaves where the dialects of MSC4140 differ. It is set by the dialect that
// made the future and stored with it.
type Policy uint8

const (
	// CancelOnNewerState closes a state future when somebody else's or the user's own newer state event
	// becomes current for its room, type and state key (generation 0, 5.7).
	CancelOnNewerState Policy = 1 << iota
	// CancelOnOthersState does so only if somebody else sent that newer event (generation 1, 6.3).
	CancelOnOthersState
	// Managed futures are delayed events (generations 1 and 2): they have one ID for all that can be done to
	// them, which is their group ID, instead of tokens, and their outcome can be looked up afterwards.
	Managed
)

// Has reports whether p contains all of q.
func (p Policy) Has(q Policy) bool { return p&q == q }

// State is where a future is in its life. Scheduled and Sending are live; the others are final and are
// never left again.
type State uint8

const (
	Scheduled   State = iota + 1 // waiting for its deadline or for a token
	Sending                      // claimed: its PDU is stored and will be submitted until it is proved or refused
	Sent                         // its event is in the room
	Failed                       // the room refused it
	Cancelled                    // by its cancel token, an administrator, or the end of its account or room
	Invalidated                  // by a newer state event
	Discarded                    // another future of its group won, or its group has no timeout future left
)

// String returns the state's name as documentation, metrics and the admin API spell it.
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

// Future is one future, whole: what was asked for, and what became of it.
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
	GroupID  string          // as the client knows it
	Timeout  time.Duration   // 0: an action future, sent only by its send token
	Deadline int64           // Unix ms; 0 for an action future. Of a finished future: when it would have been due
	Created  int64           // Unix ms
	Base     string          // event ID that was current for the state key at creation; "" for none or a message
	OriginTS int64           // origin_server_ts of the event, Unix ms; 0: the time at which it is built

	// Where the request came from: a repeat of the same transaction is answered with the same future,
	// and the device that scheduled the event gets its local echo.
	DeviceID  string
	SessionID int64
	TxnID     string // "" where the endpoint has none
	TxnKey    []byte // of a request: digest that identifies the transaction among those of the user; nil where there is none

	// The outcome; zero while the future is scheduled.
	Event    *Event   // from the claim on
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

// Outdated reports whether newer state ends a state future of that policy: base is what was current for its
// piece of state when userID made it, now is what sets it now.
func (p Policy) Outdated(base, userID string, now StateEvent) bool {
	if now.ID == base {
		return false
	}
	return p.Has(CancelOnNewerState) || p.Has(CancelOnOthersState) && now.Sender != userID
}

// Watched reports whether newer state can end the future at all.
func (p Policy) Watched() bool { return p&(CancelOnNewerState|CancelOnOthersState) != 0 }

// Event is a built and signed PDU. Its ID is fixed, so submitting it twice puts it into the room once.
type Event struct {
	ID  string
	PDU json.RawMessage // in Dendrite's headered form, which survives a round trip byte for byte
}

// Action is what can be done to a delayed event.
type Action uint8

const (
	Send Action = iota
	Cancel
	Restart
)

// FinishedError answers an action on a delayed event that is over, or is being sent at this moment.
type FinishedError struct {
	*Future
}

// Error implements error.
func (e *FinishedError) Error() string { return "the delayed event is " + e.State.String() }

// StateEvent is what sets a piece of state; the zero value means that nothing does.
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

// FutureInternalAPI is the futureserver as the rest of the server sees it. All methods are safe for
// concurrent use; after Stop they return ErrStopping.
type FutureInternalAPI interface {
	// PerformFutureCreation stores a future and arms its timer. The request is durable when it returns.
	// It fills in NID, Secret, State, Deadline, Created, Base and, if empty, GroupID, and returns the
	// completed future. A repeat of a known transaction returns the first future instead, whatever else
	// the repeat holds and whatever limits have been reached meanwhile.
	// Errors: ErrUnknownGroup (also for a timeout future that names a group that is over), *LimitError,
	// *TimeoutError, *Refusal, ErrOverloaded, ErrStopping.
	PerformFutureCreation(ctx context.Context, f *Future) (*Future, error)

	// QueryFutureByTransaction finds the future that a user's transaction made, live or finished; nil, nil if
	// there is none. It is for requests whose body can no longer be read.
	QueryFutureByTransaction(ctx context.Context, userID string, txnKey []byte) (*Future, error)

	// PerformTokenAction does what the token stands for. Refreshing and cancelling are durable when it
	// returns; sending has put the event into the room. Errors: ErrGone for a token that stands for
	// nothing (made up, spent, or of a finished group), *Refusal if the room refuses the event now, in
	// which case the future and its group are as they were.
	PerformTokenAction(ctx context.Context, token Token) error

	// PerformDelayedEventAction acts on the managed future of that ID; owner, if not empty, must be its user.
	// What it promises is PerformTokenAction's. Errors: ErrGone for an unknown ID, somebody else's, or one that
	// is forgotten; *FinishedError for one that has ended; *Refusal if the room refuses the event now.
	PerformDelayedEventAction(ctx context.Context, id, owner string, a Action) error

	// QueryDelayedEvent returns a managed future, live or finished; ErrGone as above.
	QueryDelayedEvent(ctx context.Context, id, owner string) (*Future, error)

	// QueryDelayedEvents returns managed futures of a user, at most filter.Limit of them.
	QueryDelayedEvents(ctx context.Context, filter DelayedFilter) ([]*Future, error)

	// QueryDelayIDs returns, by event ID, the IDs of the user's delayed events whose event is in a room or on its
	// way there: of the newest of them, as long as they are kept. From the moment at which anybody could see an
	// event on, it is among them. The map is shared and must not be changed. For users who have none it costs no
	// I/O.
	QueryDelayIDs(ctx context.Context, userID string) (map[string]string, error)

	// QueryFuturesByUser returns the user's scheduled futures that are not managed: by deadline, action futures
	// last.
	QueryFuturesByUser(ctx context.Context, userID string) ([]*Future, error)

	// QueryFutures is the administrator's view: futures that match the filter, by NID.
	QueryFutures(ctx context.Context, filter Filter) ([]*Future, error)

	// QueryFutureCounts returns how many futures are live, by state.
	QueryFutureCounts(ctx context.Context) Counts

	// PerformAdminCancellation cancels the scheduled futures that match the filter, which must name a
	// user, a room or a future, and returns how many there were.
	PerformAdminCancellation(ctx context.Context, filter Filter) (int, error)

	// PerformUserRemoval cancels all scheduled futures of a deactivated account.
	PerformUserRemoval(ctx context.Context, userID string) error

	// PerformRoomPurge cancels all scheduled futures of a room that is gone.
	PerformRoomPurge(ctx context.Context, roomID string) error

	// PerformStateChange looks at the pending state futures of a room for these pieces of state (nil: for
	// all of them) and closes those whose piece of state is no longer what it was when they were made. It
	// compares with the room itself, so calling it too often, too late or out of order does no harm. The
	// closing is durable when it returns nil.
	PerformStateChange(ctx context.Context, roomID string, changed []StateKeyTuple) error
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

// DelayedFilter selects managed futures of one user. Without States it selects the scheduled ones. They
// come in order of their NID, or from the newest on if Backwards, and begin behind After if that is not 0.
type DelayedFilter struct {
	UserID    string
	RoomID    string // "": all rooms
	States    []State
	After     NID
	Backwards bool
	Limit     int // 0: no limit
}

// Compare is the order in which they come.
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

// Vitals say how a futureserver is.
type Vitals struct {
	// Overdue is how long the oldest event has waited for its room since it was due; 0 if none waits. The time before the
	// server's start does not count.
	Overdue time.Duration
	// Stalled is for how long the database has not answered.
	Stalled time.Duration
}

// Room is the south port: what the core needs of the rooms. roomserver.Room is the real one. An error
// that is neither *Refusal nor ErrNewerState is taken for a passing fault and tried again.
type Room interface {
	// Admit checks, when a future is scheduled, what cannot change until it fires or would be an error of
	// /send and /state at once: that the room is known, the user is in it, the event can be sent by this
	// road at all. It does not look at power levels (generation 0, 3.8 and 5.1). It returns the ID of the
	// event that is current for the future's state key, "" if there is none or f is a message.
	Admit(ctx context.Context, f *Future) (base string, err error)

	// Current returns, for each piece of state, the event that sets it now. For none it asks nobody.
	Current(ctx context.Context, roomID string, keys []StateKeyTuple) ([]StateEvent, error)

	// Enter returns when nobody else on this server is making an event in the room, and what to call when the
	// caller's are made and in the room. It waits for a few seconds at the most, then returns all the same; who stays
	// longer than that is no longer waited for.
	Enter(ctx context.Context, roomID string) (leave func())

	// Build makes the events that these futures of one room stand for, as if their users had sent them now,
	// each after the one before it, and checks each against the room's current state. There is one Built for
	// each future.
	Build(ctx context.Context, fs []*Future) []Built

	// Submit hands the events of these futures of one room to the room, each after those it was built on. Its
	// result is a hint at most: nil is no proof that the events are in the room, and an error none that they are
	// not. Submitting the same events again is harmless.
	Submit(ctx context.Context, fs []*Future) error

	// Verdict says of each what became of its submitted event. An error means that nobody knows.
	Verdict(ctx context.Context, fs []*Future) ([]Verdict, error)
}

// Built is an event that a future stands for. Without an event, Err says why: ErrNewerState if the future's
// policy is Outdated; a *Refusal if the room would not accept the event. Without either, the event can only be
// built when those before it are in the room.
type Built struct {
	Event *Event
	Err   error
}

// Verdict is what is known of a submitted event.
type Verdict uint8

const (
	Unknown Verdict = iota // not there yet, or not there any more: submit it again
	Proved                 // it is in the room's timeline
	Refused                // the room has taken it in and keeps it out of the timeline
)
