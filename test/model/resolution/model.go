package resolution

import (
	"encoding/json"
	"math"
	"slices"
	"strings"

	"github.com/matrix-org/dendrite/futures/roomserver/stateres"
)

// Model resolves state by the definitions of the specification, one function each, without any optimisation. All events
// must exist, and none may cite itself through others.
type Model struct {
	Version string // "11": state resolution 2; "12": 2.1
	V21     bool
	Create  *Event
	Events  map[string]*Event
	Sets    []map[Key]string
	Options stateres.Options // ChainExcludesSelf and AdmitRejected
	Allowed func(e *Event, state map[Key]*Event) error

	Admitted set // the events that Resolve has admitted
}

type set = map[string]bool

// Resolve returns the resolved state.
func (m *Model) Resolve() map[Key]string {
	m.Admitted = set{}
	unconflicted := m.Unconflicted()
	full := m.Full()
	state := map[Key]string{}
	if !m.V21 {
		for k, id := range unconflicted {
			state[k] = id
		}
	}
	power := m.powerSet(full)
	m.iterate(m.powerOrder(power), state)
	rest := set{}
	for id := range full {
		if !power[id] {
			rest[id] = true
		}
	}
	m.iterate(m.mainlineOrder(rest, state[Key{Type: "m.room.power_levels"}]), state)
	for k, id := range unconflicted {
		state[k] = id
	}
	return state
}

func (m *Model) keys() map[Key]bool {
	keys := map[Key]bool{}
	for _, s := range m.Sets {
		for k := range s {
			keys[k] = true
		}
	}
	return keys
}

// values returns the values of a key in the sets; "" stands for none.
func (m *Model) values(k Key) set {
	values := set{}
	for _, s := range m.Sets {
		values[s[k]] = true
	}
	return values
}

// Unconflicted is the unconflicted state map.
func (m *Model) Unconflicted() map[Key]string {
	unconflicted := map[Key]string{}
	for k := range m.keys() {
		if len(m.values(k)) == 1 {
			unconflicted[k] = m.Sets[0][k]
		}
	}
	return unconflicted
}

// Conflicted is the conflicted state set.
func (m *Model) Conflicted() set {
	conflicted := set{}
	for k := range m.keys() {
		values := m.values(k)
		if len(values) == 1 {
			continue
		}
		for id := range values {
			if id != "" {
				conflicted[id] = true
			}
		}
	}
	return conflicted
}

// Full is the full conflicted set; it is empty if there is no conflict.
func (m *Model) Full() set {
	full := m.Conflicted()
	if len(full) == 0 {
		return full
	}
	parts := []set{m.AuthDifference()}
	if m.V21 {
		parts = append(parts, m.Subgraph())
	}
	for _, part := range parts {
		for id := range part {
			full[id] = true
		}
	}
	return full
}

func (m *Model) addChain(chain set, id string) {
	for _, a := range m.Events[id].AuthEvents {
		if !chain[a] {
			chain[a] = true
			m.addChain(chain, a)
		}
	}
}

func (m *Model) chain(id string) set {
	chain := set{}
	m.addChain(chain, id)
	return chain
}

// AuthDifference is the auth difference of the sets.
func (m *Model) AuthDifference() set {
	in := map[string]int{} // in how many sets' chains an event is
	for _, s := range m.Sets {
		chain := set{}
		for _, id := range s {
			m.addChain(chain, id)
			if !m.Options.ChainExcludesSelf {
				chain[id] = true
			}
		}
		for id := range chain {
			in[id]++
		}
	}
	difference := set{}
	for id, n := range in {
		if n < len(m.Sets) {
			difference[id] = true
		}
	}
	return difference
}

// Subgraph is the conflicted state subgraph: the events between two conflicted events, and these themselves.
func (m *Model) Subgraph() set {
	conflicted := m.Conflicted()
	subgraph := set{}
	for id := range conflicted {
		subgraph[id] = true
		for x := range m.chain(id) {
			for far := range m.chain(x) {
				if conflicted[far] {
					subgraph[x] = true
				}
			}
		}
	}
	return subgraph
}

func (m *Model) text(e *Event, name string) string {
	s, _ := Parse(e)[name].(string)
	return s
}

func (m *Model) isPower(e *Event) bool {
	if e.StateKey == "" && (e.Type == "m.room.power_levels" || e.Type == "m.room.join_rules" || e.Type == "m.room.create") {
		return true
	}
	membership := m.text(e, "membership")
	return e.Type == "m.room.member" && e.Sender != e.StateKey && (membership == "leave" || membership == "ban")
}

func (m *Model) powerSet(full set) set {
	power := set{}
	var add func(id string)
	add = func(id string) {
		if !full[id] || power[id] {
			return
		}
		power[id] = true
		for _, a := range m.Events[id].AuthEvents {
			add(a)
		}
	}
	for id := range full {
		if m.isPower(m.Events[id]) {
			add(id)
		}
	}
	return power
}

func (m *Model) citedEvent(id string, k Key) *Event {
	for _, a := range m.Events[id].AuthEvents {
		if m.Events[a].Key() == k {
			return m.Events[a]
		}
	}
	return nil
}

// power is the power of the event's sender by the event's own auth events, according to the rules.
func (m *Model) power(id string) float64 {
	state := State{}
	for _, a := range m.Events[id].AuthEvents {
		state[m.Events[a].Key()] = m.Events[a]
	}
	return room{v12: m.Version == "12", state: state, create: m.Create}.power(m.Events[id].Sender)
}

func (m *Model) powerOrder(power set) []string {
	var order []string
	placed := set{}
	ready := func(id string) bool {
		for _, a := range m.Events[id].AuthEvents {
			if power[a] && !placed[a] {
				return false
			}
		}
		return !placed[id]
	}
	before := func(a, b string) bool {
		if m.power(a) != m.power(b) {
			return m.power(a) > m.power(b)
		}
		return m.older(a, b) < 0
	}
	for len(order) < len(power) {
		best := ""
		for id := range power {
			if ready(id) && (best == "" || before(id, best)) {
				best = id
			}
		}
		placed[best] = true
		order = append(order, best)
	}
	return order
}

func (m *Model) older(a, b string) int {
	if d := m.Events[a].OriginServerTS - m.Events[b].OriginServerTS; d != 0 {
		return int(d)
	}
	return strings.Compare(a, b)
}

func (m *Model) mainlineOrder(rest set, present string) []string {
	var mainline []string
	for id := present; id != ""; {
		mainline = append(mainline, id)
		e := m.citedEvent(id, Key{Type: "m.room.power_levels"})
		if id = ""; e != nil {
			id = e.ID
		}
	}
	position := func(id string) int {
		for e := m.citedEvent(id, Key{Type: "m.room.power_levels"}); e != nil; e = m.citedEvent(e.ID, Key{Type: "m.room.power_levels"}) {
			if at := slices.Index(mainline, e.ID); at >= 0 {
				return at
			}
		}
		return math.MaxInt32
	}
	var order []string
	for id := range rest {
		order = append(order, id)
	}
	slices.SortFunc(order, func(a, b string) int {
		if d := position(b) - position(a); d != 0 {
			return d
		}
		return m.older(a, b)
	})
	return order
}

func (m *Model) iterate(order []string, state map[Key]string) {
	for _, id := range order {
		e := m.Events[id]
		if e.Rejected && !m.Options.AdmitRejected {
			continue
		}
		authorising := State{}
		for _, k := range Needed(e) {
			if by := m.authorising(e, k, state); by != nil {
				authorising[k] = by
			}
		}
		if m.Allowed(e, authorising) == nil {
			state[e.Key()] = id
			m.Admitted[id] = true
		}
	}
}

func (m *Model) authorising(e *Event, k Key, state map[Key]string) *Event {
	if m.Version == "12" && k.Type == "m.room.create" {
		return m.Create
	}
	if id, ok := state[k]; ok && (!m.Events[id].Rejected || m.Options.AdmitRejected) {
		return m.Events[id]
	}
	for _, a := range e.AuthEvents {
		if by := m.Events[a]; by.Key() == k && !by.Rejected {
			return by
		}
	}
	return nil
}

// Needed is the auth events selection, including the create event, which room version 12 leaves out of auth_events.
func Needed(e *Event) []Key {
	if e.Type == "m.room.create" {
		return nil
	}
	member := func(user string) Key { return Key{Type: "m.room.member", StateKey: user} }
	keys := []Key{{Type: "m.room.create"}, {Type: "m.room.power_levels"}, member(e.Sender)}
	if e.Type != "m.room.member" {
		return keys
	}
	if e.StateKey != e.Sender {
		keys = append(keys, member(e.StateKey))
	}
	switch content := Parse(e); content["membership"] {
	case "join":
		keys = append(keys, Key{Type: "m.room.join_rules"})
		if user, ok := content["join_authorised_via_users_server"].(string); ok {
			keys = append(keys, member(user))
		}
	case "invite", "knock":
		keys = append(keys, Key{Type: "m.room.join_rules"})
	}
	return keys
}

func content(v any) []byte {
	raw, err := json.Marshal(v)
	if err != nil {
		panic(err) // cannot happen: only maps, strings and numbers
	}
	return raw
}
