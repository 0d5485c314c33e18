package api

import "context"

// FutureInternalAPI is all that the futureserver offers the rest of the server. Only the code that assembles the server
// needs the whole of it; every other caller takes its own part. All methods are safe for concurrent use; after Stop they
// return ErrStopping.
type FutureInternalAPI interface {
	ClientAPI
	SyncAPI
	RoomserverAPI
	AccountAPI
}

// ClientAPI is the part for the HTTP endpoints of futures and delayed events.
type ClientAPI interface {
	SchedulingAPI
	ActionAPI
	LookupAPI
	AdminAPI
}

// SchedulingAPI serves requests that schedule an event.
type SchedulingAPI interface {
	TransactionAPI

	// PerformFutureCreation stores a future and starts its timer. The future is durable when it returns.
	// It fills in NID, Secret, State, Deadline, Created, Base and, if empty, GroupID, and returns the
	// completed future. A repeat of a known transaction returns the first future instead; the rest of the request
	// and the limits are then not looked at.
	// Errors: ErrUnknownGroup (also for a timeout future that names a group that is over), *LimitError,
	// *TimeoutError, *Refusal, ErrOverloaded, ErrStopping.
	PerformFutureCreation(ctx context.Context, f *Future) (*Future, error)
}

// TransactionAPI knows which transactions have created futures.
type TransactionAPI interface {
	// QueryFutureByTransaction returns the future that a user's transaction created, live or finished, or nil, nil if
	// there is none. It serves requests whose body can no longer be read.
	QueryFutureByTransaction(ctx context.Context, userID string, txnKey []byte) (*Future, error)
}

// ActionAPI serves requests that act on a future: heartbeats, cancellations, events that are to be sent now.
type ActionAPI interface {
	// PerformTokenAction does what the token allows. A refresh or a cancellation is durable when it returns; a sent
	// event is in the room. Errors: ErrGone for a token that is not valid (unknown, spent, or of a finished group);
	// *Refusal if the room refuses the event now, which leaves the future and its group unchanged.
	PerformTokenAction(ctx context.Context, token Token) error

	// PerformDelayedEventAction acts on the managed future with that ID. owner, if not empty, must be its user.
	// It promises the same as PerformTokenAction. Errors: ErrGone for an ID that is unknown, forgotten or another
	// user's; *FinishedError for a future that has ended; *Refusal if the room refuses the event now.
	PerformDelayedEventAction(ctx context.Context, id, owner string, a Action) error
}

// LookupAPI serves users who look at their own futures and delayed events.
type LookupAPI interface {
	// QueryDelayedEvent returns a managed future, live or finished. Error: ErrGone, as for PerformDelayedEventAction.
	QueryDelayedEvent(ctx context.Context, id, owner string) (*Future, error)

	// QueryDelayedEvents returns managed futures of a user, at most filter.Limit of them.
	QueryDelayedEvents(ctx context.Context, filter DelayedFilter) ([]*Future, error)

	// QueryFuturesByUser returns the user's scheduled futures that are not managed, in order of their deadlines. Action
	// futures come last.
	QueryFuturesByUser(ctx context.Context, userID string) ([]*Future, error)
}

// AdminAPI serves administrators.
type AdminAPI interface {
	// QueryFutures returns the futures that match the filter, in order of NID.
	QueryFutures(ctx context.Context, filter Filter) ([]*Future, error)

	// QueryFutureCounts returns how many futures are live, by state.
	QueryFutureCounts(ctx context.Context) Counts

	// QueryStatistics returns what has happened since the start.
	QueryStatistics(ctx context.Context) Statistics

	// PerformAdminCancellation cancels the scheduled futures that match the filter, and returns how many it cancelled.
	// The filter must name a user, a room or a future.
	PerformAdminCancellation(ctx context.Context, filter Filter) (int, error)
}

// SyncAPI serves the code that adds to /sync.
type SyncAPI interface {
	// QueryDelayIDs returns, by event ID, the IDs of the user's delayed events whose event is in a room or is being
	// sent. It has the newest ones, for as long as they are kept. An event is in the map before anybody can see the
	// event. The map is shared: the caller must not change it. It costs no I/O for a user who has none.
	QueryDelayIDs(ctx context.Context, userID string) (map[string]string, error)
}

// RoomserverAPI serves the consumer of the roomserver's output.
type RoomserverAPI interface {
	// HasStateFutures reports whether newer state in that room could end any future. It costs no I/O.
	HasStateFutures(roomID string) bool

	// QueryStateRooms returns the rooms with futures that newer state could end.
	QueryStateRooms(ctx context.Context) ([]string, error)

	// PerformStateChange ends the state futures of a room whose piece of state has changed since they were created. It
	// looks only at the given pieces of state; nil stands for all. It compares with the room itself, so calling it too
	// often, too late or out of order does no harm. The ends are durable when it returns nil.
	PerformStateChange(ctx context.Context, roomID string, changed []StateKeyTuple) error

	// PerformRoomPurge cancels all scheduled futures of a room that is gone.
	PerformRoomPurge(ctx context.Context, roomID string) error
}

// AccountAPI serves the end of accounts.
type AccountAPI interface {
	// PerformUserRemoval cancels all scheduled futures of a deactivated account.
	PerformUserRemoval(ctx context.Context, userID string) error
}
