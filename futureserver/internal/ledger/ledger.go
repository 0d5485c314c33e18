// Package ledger holds the state of all live futures. It is the state machine of docs/architecture.md as a pure value,
// without locks, clocks, goroutines or I/O. Its owner calls one method at a time, passes in the time, and writes the
// Changes that the method makes to disk.
//
// The function settle is the rule of groups: it decides which futures end together. It runs after every method that
// touches a group, and after a restart.
package ledger

import (
	"hash/maphash"
	"time"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
	"github.com/matrix-org/dendrite/futures/futureserver/internal/wheel"
	"github.com/matrix-org/dendrite/futures/futureserver/storage"
)

// Config holds the settings that the rules depend on.
type Config struct {
	Futures, Delayed Limits
	Slack            time.Duration // how far a stored deadline is raised above the true one; see Refresh
	Grace            time.Duration // what a future with a heartbeat gets after a restart if it became due while no server ran
	MaxBytes         int           // of the futures in one transaction
}

// Limits are the limits for one kind of futures.
type Limits struct {
	MaxTimeout time.Duration // at most 49 days
	MaxPerUser int
}

// Time is one reading of the clocks, in ms.
type Time struct {
	Now    int64 // rounded down, so that nothing is due early
	Ceil   int64 // rounded up, so that a deadline counted from it is not early
	Offset int64 // added to Now or Ceil, it gives the wall clock's time
	Age    int64 // for how long servers have run on this database
}

func (t Time) wall(ms int64) int64 { return ms + t.Offset }

// Ref identifies a live future: its slot in memory, and its NID, because the slot may have been reused.
type Ref struct {
	Slot uint32
	NID  api.NID
}

// Ledger holds the live futures. It is not safe for concurrent use.
type Ledger struct {
	table
	cfg     Config
	wheel   *wheel.Wheel
	lastNID api.NID

	arrivals  map[api.NID]*Arrival     // futures that are being created
	unsettled map[api.Secret]unsettled // futures that can be found by their secret neither on disk nor by their tokens
	closing   map[name]int             // by group name: how many ends are decided but not yet on disk
	looks     [256]uint32              // by shard of the name: how often a name has left closing; see Reserve

	dirty   []uint32 // slots whose stored deadline must be raised
	offset  int64    // of the wall clock for which the deadlines on disk are right
	rewrite uint32   // the first slot whose deadline must be rewritten because the wall clock was set; 0: none
	ends    int      // how many ends are decided but not yet on disk
	graced  []Ref    // futures that got the grace of a restart
	tallies map[uint64]tally
	removed map[uint64]removal // users and rooms that were removed recently, by the hash of their name
}

// unsettled is a future that is being stored or sent, or whose end is not on disk yet.
type unsettled struct {
	nid     api.NID
	user    uint64 // hash of the user ID
	arrival *Arrival
	managed bool
	end     *storage.End // nil if it has not ended
}

// New returns an empty ledger.
func New(cfg Config, now Time) *Ledger {
	l := &Ledger{
		cfg: cfg, table: newTable(), offset: now.Offset,
		arrivals:  make(map[api.NID]*Arrival),
		unsettled: make(map[api.Secret]unsettled),
		closing:   make(map[name]int),
		tallies:   make(map[uint64]tally),
		removed:   make(map[uint64]removal),
	}
	l.wheel = wheel.New(now.Now, l.deadlineOf)
	return l
}

// Changes are written to disk in one transaction. Its parts apply in the order of storage.Batch: inserts, raised
// deadlines, claims, ends, and last the undos of futures that were turned away before they were stored.
type Changes struct {
	storage.Batch
	Number uint64 // set by the owner

	bytes    int
	arrivals []*Arrival   // one for each of Inserts
	raises   []raise      // one for each of Extends
	secrets  []api.Secret // are no longer unsettled once the transaction is on disk
	names    []name       // have one end less in closing then
}

// raise is what memory notes once Extends[i] is durable.
type raise struct {
	slot uint32
	high int64 // the new stored deadline, in the ledger's time
}

// Written tells the ledger that the changes are on disk, and adds the changes that follow from this to next. failed[i]
// says why Inserts[i] was not stored; failed is nil if all were stored.
func (l *Ledger) Written(c *Changes, result storage.Result, failed []error, now Time, next *Changes) {
	for _, secret := range c.secrets {
		delete(l.unsettled, secret)
	}
	for _, n := range c.names {
		if l.closing[n]--; l.closing[n] == 0 {
			delete(l.closing, n)
		}
		l.looks[n.shard()]++
	}
	l.ends -= len(c.Ends)
	for i, a := range c.arrivals {
		switch {
		case failed != nil && failed[i] != nil:
			l.notStored(a, failed[i], next)
		case i < len(result.Duplicate) && result.Duplicate[i]:
			l.repeated(a)
		default:
			l.stored(a, now, next)
		}
	}
}

// Confirm tells the ledger that Extends[from:to] are on disk.
func (l *Ledger) Confirm(c *Changes, from, to int) {
	for i := from; i < min(to, len(c.raises)); i++ {
		if r := l.live(Ref{c.raises[i].slot, c.Extends[i].NID}); r != nil {
			r.confirm(c.raises[i].high)
		}
	}
}

// Unwritten returns how many ends are not on disk yet.
func (l *Ledger) Unwritten() int { return l.ends }

// Arriving returns the arrivals of the changes, in the order of their inserts.
func (c *Changes) Arriving() []*Arrival { return c.arrivals }

// hash hashes the name of a user or a room. The seed is private to this process, so nobody can choose names that collide.
func (l *Ledger) hash(name string) uint64 { return maphash.String(l.seed, name) }
