// Package storage keeps futures on disk.
//
// There are three main tables. futureserver_timers holds one row for each live future: what recovery needs.
// futureserver_raised holds the stored deadlines of futures that are refreshed, and nothing else. These rows change all
// the time; in a table of their own they fill few pages. futureserver_events holds the request of each future, which is
// written once, and its outcome. Its rows are kept for the retention time after the future's end, so that a repeated
// transaction gets its first answer. Indexes hold finished futures only: memory finds the live ones by deadline, token,
// user and room, so a creation never waits for an index.
//
// This package holds the types. The subpackages sqlite3 and postgres open a database and write to it, each in its own
// SQL dialect. The subpackage shared holds what they have in common: the order inside a transaction, and the reads.
package storage

import (
	"context"
	"errors"
	"time"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
)

var (
	// ErrLocked: another server has the database open. Only one server may use it, because each keeps all timers in memory.
	ErrLocked = errors.New("another server is using this futures database")
	// ErrLockLost: this server has lost its lock, and another server has or had it since. Memory may be stale, so nothing
	// can be written any more. Restart this server once the other one has stopped.
	ErrLockLost = errors.New("another server has taken over this futures database")
	// ErrLockUnsure: the session that held the lock has ended. The next commit takes the lock again or returns ErrLockLost.
	ErrLockUnsure = errors.New("the session that locks the futures database has ended")
)

// Database is what both databases implement; test/storagetest checks them against it.
//
// Only Commit changes data. One goroutine at a time may call it. Reads may run concurrently.
type Database interface {
	// Commit applies the batch in one durable transaction, in the order of a future's life: inserts, extensions, claims,
	// ends, undos. On an error nothing is applied, except if the commit itself failed: then the batch may have been
	// applied.
	//
	// After such an error the caller may commit the same batch again. This has the same effect and result as one commit,
	// unless the batch both claims and ends one future.
	//
	// The error wraps ErrLockLost if another server owns the database now. Other errors may be temporary.
	Commit(ctx context.Context, b *Batch) (Result, error)

	// Scan calls each for every live future, in order of NID. It returns the highest NID on disk, live or finished. It
	// reads no events. The *Timer is reused between calls. An error of each ends the scan and is returned.
	Scan(ctx context.Context, each func(*Timer) error) (api.NID, error)

	// SelectDelegations calls each for every stored delegation, in order of NID. An error of each ends it and is returned.
	SelectDelegations(ctx context.Context, each func(Delegation) error) error

	// Key returns 32 random bytes that were created with the database. They never change.
	Key() []byte

	// Age returns for how long servers had run on this database when it was opened, in ms: the last Batch.Age stored.
	Age() int64

	// Confirm returns nil if this server owned the database at some moment during the call. ErrLockUnsure means that
	// only a commit can find out. Confirm may be called at any time.
	Confirm(ctx context.Context) error

	// Load returns one complete future, nil if it is not on disk.
	Load(ctx context.Context, nid api.NID) (*api.Future, error)

	// LoadAll returns the complete futures with these NIDs, in order of NID. It leaves out those that are not on disk.
	LoadAll(ctx context.Context, nids []api.NID) ([]*api.Future, error)

	// LoadEnded returns the finished future with that secret, nil if there is none.
	LoadEnded(ctx context.Context, secret api.Secret) (*api.Future, error)

	// LoadFinished returns the finished managed future with that group ID, nil if there is none.
	LoadFinished(ctx context.Context, groupID string) (*api.Future, error)

	// SelectFinished returns the complete finished managed futures that match. States that are not final match none.
	SelectFinished(ctx context.Context, f api.DelayedFilter) ([]*api.Future, error)

	// SelectSent calls each for the user's newest managed futures that were sent, at most limit of them.
	SelectSent(ctx context.Context, userID string, limit int, each func(eventID, groupID string)) error

	// SelectSenders calls each for every user who has a managed future that was sent.
	SelectSenders(ctx context.Context, each func(userID string)) error

	// SelectWatchedRooms returns the rooms with live futures that newer state can end.
	SelectWatchedRooms(ctx context.Context) ([]string, error)

	// LoadBase returns the piece of state that a state future would set, and the event that was current for it when the
	// future was created. ok is false if the future is not on disk or is a message.
	LoadBase(ctx context.Context, nid api.NID) (b Base, ok bool, err error)

	// GroupUsed reports whether the user has a finished future with that group ID. The ID may be chosen by the client or
	// be a group token.
	GroupUsed(ctx context.Context, userID, groupID string) (bool, error)

	// Select returns the complete futures that match, in the filter's order. A live future matches whatever its state and
	// deadline are on disk: memory knows them better. It may scan all that is on disk.
	Select(ctx context.Context, f api.Filter) ([]*api.Future, error)

	// Close releases the database and its lock. No other method may be running.
	Close() error
}

// Batch is what one transaction changes. It may hold the whole life of a future. It may name a future several times,
// but insert it only once. The parts apply in their order; a part that no longer applies does nothing.
type Batch struct {
	Inserts []*api.Future
	Extends []Extend
	Claims  []Claim
	Ends    []End
	Undos   []api.NID // futures whose creation is undone: their rows are deleted
	// Delegations are stored or deleted in their order, after everything else.
	Delegations []Delegation
	// Age, if not 0, is for how long servers have run on this database, in ms. It is stored.
	Age int64
	// ForgetBefore, if not 0, deletes up to 1,000 futures that finished before that age, in ms.
	ForgetBefore int64
	// KeepPerUser, if not 0, is how many finished managed futures a user keeps. The batch deletes up to 1,000 older ones
	// of each user in Trims, and of a few other users, who take turns from batch to batch.
	KeepPerUser int
	Trims       []api.NID // each stands for its user
}

// Rows returns how many changes of futures the batch holds.
func (b *Batch) Rows() int {
	n := len(b.Inserts) + len(b.Extends) + len(b.Claims) + len(b.Ends) + len(b.Undos) + len(b.Delegations)
	for i := range b.Claims {
		n += len(b.Claims[i].Discards)
	}
	return n
}

// Result says which parts of a committed batch did not apply.
type Result struct {
	Duplicate []bool // Inserts[i] was not stored, because a finished future has its secret
	Lost      []bool // Claims[i] and its discards did not apply, because the future was no longer scheduled
	Forgotten int    // how many finished futures were deleted
}

// Extend raises a scheduled future's stored deadline. It never lowers one and touches no other state.
type Extend struct {
	NID      api.NID
	Deadline int64 // Unix ms
	// Exact sets the deadline even if it is lower: a clean stop stores the true deadline.
	Exact bool
	// Grace says that this deadline is the grace of a restart, which is given once. It requires Exact.
	Grace bool
}

// Claim makes a scheduled future the winner of its group: it stores the PDU and discards the others. It does nothing if
// the future is no longer scheduled. A second claim with the same event ID succeeds.
type Claim struct {
	NID      api.NID
	Event    *api.Event
	At       int64 // Unix ms
	Discards []api.NID
}

// End gives a live future its final state. It does nothing to a future that is finished or unknown.
type End struct {
	NID     api.NID
	State   api.State
	At      int64 // Unix ms
	Age     int64 // of the database, ms; 0: the same as At
	Failure *api.Refusal
	// Deadline is when its timer would have run out, Unix ms; 0 for an action future.
	Deadline int64
}

// Delegation is the stored delegation of a delayed event (api.Delegation). In a batch, one without a body is deleted.
type Delegation struct {
	NID  api.NID
	Body []byte
}

// Timer is the row of a live future, from which memory is rebuilt at a start.
type Timer struct {
	NID       api.NID
	State     api.State // Scheduled or Sending
	Policy    api.Policy
	Secret    api.Secret
	Deadline  int64         // Unix ms, the stored high-water mark
	Graced    int64         // the deadline that was the grace of a restart, Unix ms; 0 if none was
	Timeout   time.Duration // 0: an action future
	KeyHash   uint32        // KeyHash(type, state key); 0 for a message
	Refreshed bool          // it has been refreshed
	UserID    []byte        // valid until each returns
	RoomID    []byte        // likewise
	GroupID   []byte        // likewise; empty if the group ID is the secret's group token
}

// Base is the piece of state that a future would set, and the event that was current for it when the future was created.
type Base struct {
	api.StateKeyTuple
	EventID string
	UserID  string // of the future
	Policy  api.Policy
}

// KeyHash returns a stable 32-bit hash of a piece of state, never 0. Different pieces may collide; LoadBase has the truth.
func KeyHash(eventType, stateKey string) uint32 {
	h := uint32(2166136261) // FNV-1a
	for i := range len(eventType) {
		h = (h ^ uint32(eventType[i])) * 16777619
	}
	h *= 16777619 // a zero byte between the two
	for i := range len(stateKey) {
		h = (h ^ uint32(stateKey[i])) * 16777619
	}
	return max(h, 1)
}
