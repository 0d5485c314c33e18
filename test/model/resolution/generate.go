package resolution

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"

	"github.com/matrix-org/dendrite/futures/roomserver/stateres"
)

// History is a random room: users of different power on three servers act on branches that fork and merge. The sets are
// the states of the branches at the end.
type History struct {
	Room
	Seed uint64
	PDUs [][]byte // all events in their federation format, each after those that it cites
	IDs  []string // their IDs
}

// Algorithm is the one that the room's version uses.
func (h *History) Algorithm() stateres.Algorithm {
	if h.Version == "12" {
		return stateres.V21
	}
	return stateres.V2
}

// Model is the slow resolver for the sets of the room.
func (r Room) Model(alg stateres.Algorithm, opts stateres.Options) *Model {
	return &Model{
		Version: r.Version, V21: alg == stateres.V21, Create: r.Create, Events: r.Events, Sets: r.Sets,
		Options: opts, Allowed: Allowed(r.Version),
	}
}

// branch is the view of the room on one or more servers.
type branch struct {
	tips  []string
	state map[Key]string
}

func (b *branch) clone() *branch {
	return &branch{slices.Clone(b.tips), maps.Clone(b.state)}
}

type generator struct {
	*rand.Rand
	h        *History
	allowed  func(*Event, map[Key]*Event) error
	users    []string // the first is the creator
	now      int64
	branches []*branch
	past     []map[Key]string // earlier states
	rejected []string
}

const maxBranches = 5

// Generate returns the room for a seed.
func Generate(seed uint64) *History {
	g := &generator{
		Rand: rand.New(rand.NewPCG(seed, 4297)),
		h:    &History{Seed: seed, Room: Room{Version: "12", Events: map[string]*Event{}}},
		now:  1_700_000_000_000,
	}
	if g.one(4) {
		g.h.Version = "11"
	}
	g.allowed = Allowed(g.h.Version)
	for n := range 4 + g.IntN(5) {
		g.users = append(g.users, fmt.Sprintf("@%c:%s", 'a'+n, []string{"one", "two", "three"}[g.IntN(3)]))
	}
	g.begin()
	steps := 6 + g.IntN(40)
	if g.one(50) {
		steps += 100
	}
	for range steps {
		g.step()
	}
	for len(g.branches) < 2 {
		g.fork()
		g.act(g.branches[0])
		g.act(g.branches[1])
	}
	g.finish()
	return g.h
}

// one reports true once in n times.
func (g *generator) one(n int) bool {
	return g.IntN(n) == 0
}

func (g *generator) user() string {
	return g.users[g.IntN(len(g.users))]
}

// begin creates the room as a client's createRoom does, with some users.
func (g *generator) begin() {
	b := &branch{state: map[Key]string{}}
	g.branches = []*branch{b}
	creator := g.users[0]
	create := map[string]any{"room_version": g.h.Version}
	if g.one(20) {
		create["m.federate"] = false
	}
	if g.h.Version == "12" && g.one(2) {
		additional := []any{}
		for range 1 + g.IntN(2) {
			additional = append(additional, g.user())
		}
		create["additional_creators"] = additional
	}
	g.append(b, "m.room.create", "", creator, create)
	g.append(b, "m.room.member", creator, creator, map[string]any{"membership": "join"})
	if !g.one(12) {
		g.append(b, "m.room.power_levels", "", creator, g.firstLevels())
	}
	if !g.one(12) {
		g.append(b, "m.room.join_rules", "", creator, map[string]any{"join_rule": g.joinRule()})
	}
	for _, user := range g.users[1:] {
		if g.one(4) {
			continue
		}
		g.append(b, "m.room.member", user, creator, map[string]any{"membership": "invite"})
		g.append(b, "m.room.member", user, user, map[string]any{"membership": "join"})
	}
}

func (g *generator) joinRule() string {
	rules := []string{"public", "public", "invite", "invite", "knock", "restricted", "knock_restricted"}
	return rules[g.IntN(len(rules))]
}

// firstLevels makes some users admins and some moderators.
func (g *generator) firstLevels() map[string]any {
	users := map[string]any{}
	if g.h.Version == "11" {
		users[g.users[0]] = 100
	}
	for _, user := range g.users[1:] {
		if level := []int{0, 0, 50, 50, 100}[g.IntN(5)]; level > 0 && !g.creator(user) {
			users[user] = level
		}
	}
	levels := map[string]any{"users": users}
	if g.one(2) {
		levels["events"] = map[string]any{"m.room.topic": 0, "m.room.name": 25}
	}
	return levels
}

func (g *generator) creator(user string) bool {
	return g.h.Version == "12" && room{create: g.h.Create}.isCreator(user)
}

func (g *generator) step() {
	b := g.branches[g.IntN(len(g.branches))]
	switch {
	case len(g.branches) < maxBranches && g.one(7):
		g.fork()
	case len(g.branches) > 2 && g.one(10):
		g.merge()
	default:
		g.act(b)
	}
	if g.one(6) {
		g.past = append(g.past, maps.Clone(b.state))
	}
}

func (g *generator) fork() {
	g.branches = append(g.branches, g.branches[g.IntN(len(g.branches))].clone())
}

// merge joins two branches: the next event cites both.
func (g *generator) merge() {
	last := len(g.branches) - 1
	a, b := g.branches[last-1], g.branches[last]
	both := g.h.Room
	both.Sets = []map[Key]string{a.state, b.state}
	g.branches = append(g.branches[:last-1], &branch{
		tips:  slices.Compact(slices.Sorted(slices.Values(append(a.tips, b.tips...)))),
		state: both.Model(g.h.Algorithm(), stateres.Options{}).Resolve(),
	})
	g.Shuffle(len(g.branches), func(i, j int) { g.branches[i], g.branches[j] = g.branches[j], g.branches[i] })
}

// act appends one event to the branch. Users also try what they may not do; sometimes such an event is kept, as
// rejected.
func (g *generator) act(b *branch) {
	for range 12 {
		eventType, stateKey, sender, content := g.action(b)
		if g.append(b, eventType, stateKey, sender, content) {
			return
		}
	}
}

// append appends an event to the branch if the branch's state allows it.
func (g *generator) append(b *branch, eventType, stateKey, sender string, content map[string]any) bool {
	e := &Event{Type: eventType, StateKey: stateKey, Sender: sender, RoomID: g.h.roomID(), PrevEvents: slices.Clone(b.tips), OriginServerTS: g.time()}
	e.Content = canonical(content)
	e.Value = Parse(e)
	state := State{}
	for _, k := range Needed(e) {
		by := g.h.Events[b.state[k]]
		if by == nil {
			continue
		}
		state[k] = by
		if g.h.Version != "12" || k.Type != "m.room.create" {
			e.AuthEvents = append(e.AuthEvents, by.ID)
		}
	}
	e.Rejected = g.allowed(e, state) != nil
	if e.Rejected && !g.one(10) {
		return false
	}
	if len(g.rejected) > 0 && g.one(20) {
		g.citeRejected(e)
	}
	g.add(e, content)
	if e.Rejected {
		g.rejected = append(g.rejected, e.ID)
		return false
	}
	b.state[e.Key()] = e.ID
	b.tips = []string{e.ID}
	return true
}

func (r Room) roomID() string {
	switch {
	case r.Version == "11":
		return "!room:one"
	case r.Create != nil:
		return r.Create.RoomID
	}
	return ""
}

// citeRejected makes the event cite a rejected one instead of a valid one. Then it is rejected itself, unless its
// server did not know of the rejection.
func (g *generator) citeRejected(e *Event) {
	for n, a := range e.AuthEvents {
		for _, id := range g.rejected {
			if g.h.Events[a].Key() == g.h.Events[id].Key() {
				e.AuthEvents[n] = id
				e.Rejected = e.Rejected || !g.one(3)
				return
			}
		}
	}
}

// add adds the event to the history.
func (g *generator) add(e *Event, content map[string]any) {
	g.h.PDUs = append(g.h.PDUs, pdu(g.h.Version, e, content, len(g.h.PDUs)+1))
	g.h.IDs = append(g.h.IDs, e.ID)
	if e.Type == "m.room.create" {
		g.h.Create = e
		if g.h.Version == "12" {
			e.RoomID = "!" + e.ID[1:]
		}
	}
	g.h.Events[e.ID] = e
}

// time advances, but clocks are not always right, and events within one millisecond are not rare.
func (g *generator) time() int64 {
	switch g.IntN(10) {
	case 0, 1:
		return g.now
	case 2:
		return g.now + int64(g.IntN(20_000)) - 10_000
	}
	g.now += int64(g.IntN(1000))
	return g.now
}

// finish chooses the state sets. They are the branches' states; some servers have parts of earlier states, or rejected
// events in the state.
func (g *generator) finish() {
	for _, b := range g.branches {
		g.h.Sets = append(g.h.Sets, b.state)
	}
	if len(g.past) > 0 && g.one(4) {
		g.h.Sets = append(g.h.Sets, g.past[g.IntN(len(g.past))])
	}
	if len(g.past) > 0 && g.one(3) {
		g.revert(g.h.Sets[0], g.past[g.IntN(len(g.past))])
	}
	if len(g.rejected) > 0 && g.one(4) {
		e := g.h.Events[g.rejected[g.IntN(len(g.rejected))]]
		for n := range g.h.Sets {
			if n == 0 || g.one(2) {
				g.h.Sets[n][e.Key()] = e.ID
			}
		}
		g.Shuffle(len(g.h.Sets), func(i, j int) { g.h.Sets[i], g.h.Sets[j] = g.h.Sets[j], g.h.Sets[i] })
	}
	if g.one(10) {
		g.h.Sets = append(g.h.Sets, maps.Clone(g.h.Sets[g.IntN(len(g.h.Sets))]))
	}
}

// revert sets some keys of the state back to earlier values.
func (g *generator) revert(state, past map[Key]string) {
	keys := slices.SortedFunc(maps.Keys(state), func(a, b Key) int {
		return slices.Compare([]string{a.Type, a.StateKey}, []string{b.Type, b.StateKey})
	})
	for _, k := range keys {
		if k.Type == "m.room.create" || !g.one(3) {
			continue
		}
		if id, ok := past[k]; ok {
			state[k] = id
		} else {
			delete(state, k)
		}
	}
}
