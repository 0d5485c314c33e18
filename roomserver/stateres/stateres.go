// Package stateres resolves the state of a Matrix room: it merges the states of several branches of the room's history
// into the one state that holds where the branches meet. It implements state resolution version 2 (room versions 2 to
// 11) and version 2.1 (room version 12).
//
// The package is pure. It reads the events that the caller gives it, and nothing else: no database, no network, no
// clock. It starts no goroutines, keeps nothing between calls and does not change its arguments, so calls may run
// concurrently. It uses no recursion, because auth chains of 100 000 events exist.
//
// Sources: the specification's pages of room versions 2, 11 and 12, MSC1442 (version 2) and MSC4297 (version 2.1).
// All servers must agree on the result. So where the text and Synapse differ, this package does what Synapse does:
//
//   - Synapse counts the events of a state set as part of the set's auth chain; the text does not.
//     [Options.ChainExcludesSelf] follows the text.
//   - Synapse never admits an event that was rejected before, and never authorises an event by a rejected one. The text
//     admits a rejected event if it passes now. [Options.AdmitRejected] follows the text.
//   - When Synapse looks for the auth chain of the power events, it walks only through the full conflicted set. Under
//     version 2.1 the text gives the same events; under version 2 it may give more.
//
// This package differs from Synapse in three ways on purpose. A missing event is an error unless [Options.Lenient] is
// set. Events that cite each other in a cycle are always an error. If an event cites two events with the same key,
// which no valid event does, the first one counts.
package stateres

import "maps"

// Key names one piece of a room's state.
type Key struct {
	Type     string
	StateKey string
}

var (
	createKey      = Key{Type: "m.room.create"}
	powerLevelsKey = Key{Type: "m.room.power_levels"}
	joinRulesKey   = Key{Type: "m.room.join_rules"}
)

const (
	memberType           = "m.room.member"
	thirdPartyInviteType = "m.room.third_party_invite"
)

// Event is a state event in the form that the algorithm needs. Resolve never changes an event.
type Event struct {
	ID       string
	RoomID   string // set for the create event too, although its JSON has none in room version 12
	Type     string
	StateKey string
	Sender   string
	Content  []byte // a JSON object; anything else counts as an empty object

	// AuthEvents are the IDs that the event lists. In room version 12 the create event is not among them.
	AuthEvents []string
	// PrevEvents are for [Rules]; this package does not read them.
	PrevEvents     []string
	OriginServerTS int64 // Unix ms

	// Rejected says that the event failed its authorisation when it was received. A soft-failed event is not rejected.
	Rejected bool

	// Value is for the caller. This package does not read it.
	Value any
}

// Key returns the piece of state that the event sets.
func (e *Event) Key() Key {
	return Key{e.Type, e.StateKey}
}

// Algorithm is a version of the state resolution algorithm.
type Algorithm int

// The two algorithms. V21 is version 2.1.
const (
	V2 Algorithm = iota + 1
	V21
)

// Options change how Resolve works. The zero value does what Synapse does, except that missing events are an error.
type Options struct {
	// ChainExcludesSelf leaves the events of a state set out of the set's auth chain, unless another event of the set
	// cites them. This is what the text of the specification says.
	ChainExcludesSelf bool

	// AdmitRejected admits an event that was rejected before if it passes now, as the specification says.
	AdmitRejected bool

	// Lenient ignores missing events, as Synapse does. Two servers that miss different events may then get different
	// results, so the caller should mark a lenient result where it stores it.
	Lenient bool

	// Trace, if it is not nil, is filled with the intermediate values. It is for tests and logs.
	Trace *Trace
}

// Trace holds the intermediate values of one resolution, under the names of the specification. If there is no conflict,
// only Unconflicted is set. The sets are in no particular order.
type Trace struct {
	Unconflicted   map[Key]string
	Conflicted     []string // the conflicted state set
	AuthDifference []string
	Subgraph       []string // the conflicted state subgraph; empty under version 2
	Full           []string // the full conflicted set
	PowerOrder     []string // the first pass, in reverse topological power order
	MainlineOrder  []string // the second pass, in mainline order
	Admitted       []string // the events of both passes that were authorised
}

// Resolve merges the state sets into one state. Each set is the state after one branch; a key may be absent from a set.
// The caller must give all sets at once: resolving two and then a third gives another result.
//
// events must hold every event of the sets and their complete auth chains, by event ID, even for keys on which all sets
// agree. It may hold more. create is the room's create event, which in room version 12 is in no auth chain.
//
// The result is a new map. A conflicted key may be absent from it, and it may have a key that no set has. The result
// need not authorise its own events; this is how the algorithm is defined. If there is no conflict, the result is the
// common state, and Resolve does not look at events and rules.
//
// The errors are [*MissingError], [ErrForeignEvent], [ErrAuthCycle] and [ErrBadInput]. On an error the result is nil.
func Resolve(alg Algorithm, rules Rules, create *Event, sets []map[Key]string, events map[string]*Event, opts Options) (map[Key]string, error) {
	if err := checkArguments(alg, rules, create); err != nil {
		return nil, err
	}
	unconflicted, conflicted := split(sets)
	if len(conflicted) == 0 {
		if opts.Trace != nil {
			*opts.Trace = Trace{Unconflicted: maps.Clone(unconflicted)}
		}
		return unconflicted, nil
	}
	g, err := load(create, sets, events)
	if err != nil {
		return nil, err
	}
	if len(g.missing) > 0 && !opts.Lenient {
		return nil, g.missingError()
	}
	r := resolution{graph: g, rules: rules, create: create, opts: opts, creators: creatorsOf(rules, create), levels: map[int32]*userLevels{}}
	return r.run(alg, sets, unconflicted, conflicted), nil
}

// resolution is one run of the algorithm.
type resolution struct {
	*graph
	rules    Rules
	create   *Event
	opts     Options
	creators map[string]bool // users above every power level; nil before room version 12
	levels   map[int32]*userLevels
	state    map[Key]int32
	admitted []int32
}

func (r *resolution) run(alg Algorithm, sets []map[Key]string, unconflicted map[Key]string, conflicted []string) map[Key]string {
	inConflict := r.setOf(conflicted)
	difference := r.authDifference(sets, r.opts.ChainExcludesSelf)
	var subgraph nodeSet
	r.state = map[Key]int32{}
	if alg == V21 {
		subgraph = r.subgraph(inConflict)
	} else {
		for k, id := range unconflicted {
			r.state[k] = r.index[id]
		}
	}
	full := r.known(union(inConflict, difference, subgraph))

	power := r.powerSet(full)
	first := r.powerOrder(power)
	r.pass(first)
	second := r.mainlineOrder(minus(full, power))
	r.pass(second)

	if t := r.opts.Trace; t != nil {
		*t = Trace{
			Unconflicted: maps.Clone(unconflicted), Conflicted: conflicted,
			AuthDifference: r.named(difference.list()), Subgraph: r.named(subgraph.list()), Full: r.named(full.list()),
			PowerOrder: r.named(first), MainlineOrder: r.named(second), Admitted: r.named(r.admitted),
		}
	}
	result := make(map[Key]string, len(r.state)+len(unconflicted))
	for k, i := range r.state {
		result[k] = r.ids[i]
	}
	maps.Copy(result, unconflicted)
	return result
}
