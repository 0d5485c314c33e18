// Package ledger is what is true of all live futures: the state machine of docs/architecture.md as a pure value, without
// lock, clock, goroutine or I/O. Its owner brings the time and the events of the world, one verb at a time, and writes the
// Changes that a verb makes to disk.
//
// One function, settle, is the rule of groups: who ends with whom. It runs after every verb and after a restart.
package ledger

import (
	"hash/maphash"
	"time"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
	"github.com/matrix-org/dendrite/futures/futureserver/internal/wheel"
	"github.com/matrix-org/dendrite/futures/futureserver/storage"
)

// Config is what the rules depend on.
type Config struct {
	Futures, Delayed Limits
	Slack            time.Duration // of the stored deadline; see Refresh
	Grace            time.Duration // in which a heartbeat saves a future that became due while no server ran
	MaxBytes         int           // of futures that wait for one transaction
}

// Limits are those of one kind of futures.
type Limits struct {
	MaxTimeout time.Duration // at most 49 days
	MaxPerUser int
}

// Time is one reading of the clocks, in ms.
type Time struct {
	Now    int64 // rounded down: what is due is due
	Ceil   int64 // rounded up: a deadline that is counted from it is never early
	Offset int64 // turns both into times of the wall clock
	Age    int64 // how long servers have run on this database
}

func (t Time) wall(ms int64) int64 { return ms + t.Offset }

// Ref names a live future: where it is in memory, and its number, for the place may be another's by now.
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

	arrivals map[api.NID]*Arrival   // futures that are being created
	passing  map[api.Secret]passing // futures that neither the tokens nor the disk find by their secret
	closing  map[name]int           // names of groups with an end that is not on disk yet: how many ends
	looks    [256]uint32            // counts, by name, how often one has left closing; see Reserve

	dirty   []uint32 // slots whose stored deadline is to be raised
	offset  int64    // of the wall clock, when deadlines were last known to be right on disk
	rewrite uint32   // slots from here on are still to be written anew, because the wall clock was set; 0: none
	ends    int      // that are decided and not on disk yet
	graced  []Ref    // of futures that were given the grace of a restart
	tallies map[uint64]tally
	removed map[uint64]removal // users and rooms that were removed a moment ago, by the hash of their name
}

// passing is a future that is being stored or sent, or whose end is not on disk yet.
type passing struct {
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
		arrivals: make(map[api.NID]*Arrival),
		passing:  make(map[api.Secret]passing),
		closing:  make(map[name]int),
		tallies:  make(map[uint64]tally),
		removed:  make(map[uint64]removal),
	}
	l.wheel = wheel.New(now.Now, l.deadlineOf)
	return l
}

// Changes are what must become durable together: one transaction. It applies in the order of storage.Batch: a future's
// row is inserted, raised, claimed, ended, and at last undone if its creator was turned away meanwhile.
type Changes struct {
	storage.Batch
	Number uint64 // the owner's

	bytes    int
	arrivals []*Arrival   // of Inserts
	raises   []raise      // of Extends
	secrets  []api.Secret // that need not be passing any more when it is on disk
	names    []name       // that need not be closing
}

// raise is what memory learns when Extends[i] is durable.
type raise struct {
	slot uint32
	high int64 // the new stored deadline in the ledger's time
}

// Written tells the ledger that the changes are on disk. What follows from it goes into next. Of Inserts[i],
// failed[i] says why it was not stored; nil means that all were.
func (l *Ledger) Written(c *Changes, result storage.Result, failed []error, now Time, next *Changes) {
	for _, secret := range c.secrets {
		delete(l.passing, secret)
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

// Confirm tells memory that Extends[from:to] are on disk.
func (l *Ledger) Confirm(c *Changes, from, to int) {
	for i := from; i < min(to, len(c.raises)); i++ {
		if r := l.live(Ref{c.raises[i].slot, c.Extends[i].NID}); r != nil {
			r.confirm(c.raises[i].high)
		}
	}
}

// Unwritten counts ends that are not on disk yet.
func (l *Ledger) Unwritten() int { return l.ends }

// Arriving returns the arrivals of the changes, in the order of their inserts.
func (c *Changes) Arriving() []*Arrival { return c.arrivals }

// hash stands for the name of a user or a room. Its seed is this process's own and nobody can see the outcome, so that
// nobody can look for two names with the same.
func (l *Ledger) hash(name string) uint64 { return maphash.String(l.seed, name) }
