// Package storage keeps futures on disk.
//
// There are three tables. futureserver_timers holds one row for each live future: all that recovery needs.
// futureserver_raised holds the stored deadlines of those that are refreshed, and nothing else, because these rows change
// all the time: wherever they are among the futures that are not, they lie on few pages. futureserver_events holds
// what each future is about, written once, and what became of it; its rows outlive the future by the retention time,
// so that a repeated transaction finds its first answer. Indexes hold finished futures only: memory finds the live ones, by
// deadline, token, user and room, and nobody who schedules one waits for an index.
//
// This package holds the nouns. The subpackages sqlite3 and postgres open a database and write to it, each
// in its own dialect; the subpackage shared is what they have in common: the order inside a transaction,
// and the reads.
package storage

import (
	"context"
	"errors"
	"time"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
)

var (
	// ErrLocked: another server has the database open. Two would each believe to know every timer.
	ErrLocked = errors.New("another server is using this futures database")
	// ErrLockLost: this server has lost its lock, and another one has it or had it since. What memory holds
	// may be stale; nothing can be written any more. Only a restart helps, once the other one is gone.
	ErrLockLost = errors.New("another server has taken over this futures database")
	// ErrLockUnsure: the session that held the lock is over. The next commit takes it again, or finds it lost.
	ErrLockUnsure = errors.New("the session that locks the futures database has ended")
)

// Database is the promise both databases keep; test/storagetest holds them to it.
//
// Commit is the only way to change anything; it is called by one goroutine at a time. The reads may run
// beside it.
type Database interface {
	// Commit applies the batch in one durable transaction: first inserts, then extensions, claims, ends and
	// undos, which is the order of a future's life. On an error nothing is applied, unless the error came from the
	// commit itself, when nobody can know.
	//
	// Committing a batch a second time changes nothing more and gives the same result, if it does not both
	// claim and end one future: whoever cannot know repeats it.
	//
	// The errors wrap ErrLockLost if the database is another server's now. Others may pass by themselves.
	Commit(ctx context.Context, b *Batch) (Result, error)

	// Scan calls each for every live future, in order of NID, and returns the highest NID ever stored that is
	// still on disk. It reads no events. The *Timer is reused between calls.
	Scan(ctx context.Context, each func(*Timer) error) (api.NID, error)

	// Key returns 32 random bytes that were made with the database and remain.
	Key() []byte

	// Age returns how long servers had run on this database, in ms, when it was opened: Batch.Age of the last that was stored.
	Age() int64

	// Confirm returns nil if the database was this server's at some time since the call. ErrLockUnsure: a commit will
	// find out. It may be called at any time.
	Confirm(ctx context.Context) error

	// Load returns one future whole, nil if it is not on disk.
	Load(ctx context.Context, nid api.NID) (*api.Future, error)

	// LoadAll returns those of the futures that are on disk, whole, in order of NID.
	LoadAll(ctx context.Context, nids []api.NID) ([]*api.Future, error)

	// LoadEnded returns the finished future with that secret, nil if there is none.
	LoadEnded(ctx context.Context, secret api.Secret) (*api.Future, error)

	// LoadFinished returns the managed future of that group ID that has ended, nil if there is none.
	LoadFinished(ctx context.Context, groupID string) (*api.Future, error)

	// SelectFinished returns the finished managed futures that match, whole. States that are not final match none.
	SelectFinished(ctx context.Context, f api.DelayedFilter) ([]*api.Future, error)

	// SelectSent calls each for the newest managed futures of that user that were sent, at most limit of them.
	SelectSent(ctx context.Context, userID string, limit int, each func(eventID, groupID string)) error

	// SelectSenders calls each for every user who has a managed future that was sent.
	SelectSenders(ctx context.Context, each func(userID string)) error

	// SelectWatchedRooms returns the rooms with live futures that newer state can end.
	SelectWatchedRooms(ctx context.Context) ([]string, error)

	// LoadBase returns what a state future would set and the event it was made against; ok is false if the
	// future is not on disk or is a message.
	LoadBase(ctx context.Context, nid api.NID) (b Base, ok bool, err error)

	// GroupUsed reports whether any finished future of that user was in the group of that ID, be the ID the client's
	// or a group token.
	GroupUsed(ctx context.Context, userID, groupID string) (bool, error)

	// Select returns the futures that match, whole, and in the filter's order. Live ones match whatever their state and
	// deadline, which memory knows better. It may read all that is on disk.
	Select(ctx context.Context, f api.Filter) ([]*api.Future, error)

	// Close releases the database and its lock. No other method may be running.
	Close() error
}

// Batch is what one transaction changes. It may hold the whole life of one future, and the same future
// several times, but inserted only once: parts apply in their order, and what no longer fits does nothing.
type Batch struct {
	Inserts []*api.Future
	Extends []Extend
	Claims  []Claim
	Ends    []End
	Undos   []api.NID // futures whose creation was taken back: they leave no row
	// Age, if not 0, is how long servers have run on this database, in ms. It is stored.
	Age int64
	// ForgetBefore, if not 0, deletes up to 1,000 futures that finished before that age.
	ForgetBefore int64
	// KeepPerUser, if not 0, deletes finished managed futures of whose user there are that many newer ones: of the users of
	// Trims, and of some others, a few with each batch, in turn. It deletes up to 1,000 of a user.
	KeepPerUser int
	Trims       []api.NID // each stands for its user
}

// Rows returns how many futures the batch touches.
func (b *Batch) Rows() int {
	n := len(b.Inserts) + len(b.Extends) + len(b.Claims) + len(b.Ends) + len(b.Undos)
	for i := range b.Claims {
		n += len(b.Claims[i].Discards)
	}
	return n
}

// Result says which parts of a batch did not apply, though the batch did.
type Result struct {
	Duplicate []bool // a finished future has the secret of Inserts[i], which was not stored
	Lost      []bool // Claims[i] found its future no longer scheduled; neither it nor its discards were applied
	Forgotten int    // how many finished futures were deleted
}

// Extend raises a scheduled future's stored deadline. It never lowers one and touches no other state.
type Extend struct {
	NID      api.NID
	Deadline int64 // Unix ms
	// Exact sets the deadline even if it is lower: a clean stop stores the true deadline.
	Exact bool
	// Grace says that this deadline is the grace of a restart, which is given once. With Exact only.
	Grace bool
}

// Claim makes a scheduled future the one of its group: it stores the PDU and closes the others, or, if the
// future is no longer scheduled, does nothing. Claiming again with the same event ID is not lost.
type Claim struct {
	NID      api.NID
	Event    *api.Event
	At       int64 // Unix ms
	Discards []api.NID
}

// End gives a live future its final state. Ending one that is not live, or is unknown, does nothing.
type End struct {
	NID     api.NID
	State   api.State
	At      int64 // Unix ms
	Age     int64 // of the database, ms; 0: as At
	Failure *api.Refusal
	// Deadline is when its timer would have run out, Unix ms; 0 for an action future.
	Deadline int64
}

// Timer is the row of a live future: what the table in memory is rebuilt from.
type Timer struct {
	NID      api.NID
	State    api.State // Scheduled or Sending
	Policy   api.Policy
	Secret   api.Secret
	Deadline int64         // Unix ms, the stored high-water mark
	Graced   int64         // the deadline that was the grace of a restart, Unix ms; 0 if none was
	Timeout  time.Duration // 0: an action future
	KeyHash  uint32        // KeyHash(type, state key); 0 for a message
	// Refreshed says that somebody has refreshed it.
	Refreshed bool
	UserID    []byte // valid until each returns
	RoomID    []byte // likewise
	GroupID   []byte // likewise; empty if the group ID is the secret's group token
}

// Base is the piece of state a future would set, and the event that set it when the future was made.
type Base struct {
	api.StateKeyTuple
	EventID string
	UserID  string // of the future
	Policy  api.Policy
}

// KeyHash is a stable 32-bit digest of a piece of state, never 0. It finds candidates; LoadBase tells.
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
