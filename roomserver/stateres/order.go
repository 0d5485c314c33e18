package stateres

import (
	"cmp"
	"container/heap"
	"encoding/json"
	"math"
	"slices"
	"strings"
)

// aboveAll is a creator's power in room version 12. The largest power level that may be set is 2^53-1.
const aboveAll = 1 << 53

// creatorsOf returns the users who are above every power level.
func creatorsOf(rules Rules, create *Event) map[string]bool {
	if rules.Creators != CreatorsAboveAll {
		return nil
	}
	creators := map[string]bool{create.Sender: true}
	var additional []json.RawMessage
	if json.Unmarshal(parse(create.Content)["additional_creators"], &additional) != nil {
		return creators
	}
	for _, raw := range additional {
		if user, ok := (object{"user": raw}).text("user"); ok {
			creators[user] = true
		}
	}
	return creators
}

// power returns the power level of the event's sender according to the event's own auth events. Only the order depends on
// it, so it does not use the state that is being resolved.
func (r *resolution) power(i int32) int64 {
	e := r.events[i]
	if r.creators[e.Sender] {
		return aboveAll
	}
	if p := r.cited(i, powerLevelsKey); p >= 0 {
		levels, ok := r.levels[p]
		if !ok {
			levels = parseLevels(r.events[p].Content)
			r.levels[p] = levels
		}
		return levels.of(e.Sender)
	}
	c := r.cited(i, createKey)
	if c < 0 || r.rules.Creators == CreatorsAboveAll {
		return 0
	}
	creator := r.events[c].Sender
	if r.rules.Creators == CreatorInContent {
		creator, _ = parse(r.events[c].Content).text("creator")
	}
	if creator != e.Sender {
		return 0
	}
	return 100
}

// powerSet returns the power events of the full conflicted set, and the events of that set that can be reached from them
// by auth events within the set.
func (r *resolution) powerSet(full nodeSet) nodeSet {
	power := r.newSet()
	for i := int32(len(r.ids)) - 1; i >= 0; i-- {
		if !full.has(i) || !power.has(i) && !isPowerEvent(r.events[i]) {
			continue
		}
		power.add(i)
		for _, a := range r.auth(i) {
			if full.has(a) {
				power.add(a)
			}
		}
	}
	return power
}

// ranked is an event and the values that decide its place in the reverse topological power order.
type ranked struct {
	power int64
	ts    int64
	id    string
	at    int // its index in the list that is being ordered
}

// ready is a heap of the events whose auth events have been placed.
type ready []ranked

func (h ready) Len() int      { return len(h) }
func (h ready) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *ready) Push(x any)   { *h = append(*h, x.(ranked)) }

func (h ready) Less(i, j int) bool {
	a, b := h[i], h[j]
	if a.power != b.power {
		return a.power > b.power
	}
	if a.ts != b.ts {
		return a.ts < b.ts
	}
	return a.id < b.id
}

func (h *ready) Pop() any {
	last := len(*h) - 1
	x := (*h)[last]
	*h = (*h)[:last]
	return x
}

// powerOrder returns the events of the set in reverse topological power order: each event after its auth events, then by
// the power of the sender (highest first), then by age (oldest first), then by ID.
func (r *resolution) powerOrder(set nodeSet) []int32 {
	members := set.list()
	place := make(map[int32]int, len(members))
	for at, i := range members {
		place[i] = at
	}
	waits := make([]int, len(members)) // the number of auth events that are not placed yet
	citing := make([][]int, len(members))
	var next ready
	rank := func(at int) ranked {
		i := members[at]
		return ranked{r.power(i), r.events[i].OriginServerTS, r.ids[i], at}
	}
	for at, i := range members {
		for _, a := range r.auth(i) {
			if set.has(a) {
				waits[at]++
				citing[place[a]] = append(citing[place[a]], at)
			}
		}
		if waits[at] == 0 {
			next = append(next, rank(at))
		}
	}
	heap.Init(&next)
	order := make([]int32, 0, len(members))
	for len(next) > 0 {
		at := heap.Pop(&next).(ranked).at
		order = append(order, members[at])
		for _, c := range citing[at] {
			if waits[c]--; waits[c] == 0 {
				heap.Push(&next, rank(c))
			}
		}
	}
	return order
}

// mainlineOrder returns the events of the set in mainline order: by the distance of their power levels from those of the
// partial state (furthest first), then by age (oldest first), then by ID. If the partial state has no power levels, the
// mainline is empty.
func (r *resolution) mainlineOrder(set nodeSet) []int32 {
	positions := map[int32]int{}
	if p, ok := r.state[powerLevelsKey]; ok {
		for i := p; i >= 0; i = r.cited(i, powerLevelsKey) {
			positions[i] = len(positions)
		}
	}
	type placed struct {
		i        int32
		position int
	}
	members := set.list()
	list := make([]placed, len(members))
	for n, i := range members {
		list[n] = placed{i, r.mainlinePosition(positions, r.cited(i, powerLevelsKey))}
	}
	slices.SortFunc(list, func(a, b placed) int {
		return cmp.Or(
			cmp.Compare(b.position, a.position),
			cmp.Compare(r.events[a.i].OriginServerTS, r.events[b.i].OriginServerTS),
			strings.Compare(r.ids[a.i], r.ids[b.i]))
	})
	order := make([]int32, len(list))
	for n, p := range list {
		order[n] = p.i
	}
	return order
}

// offMainline is the position of an event whose power levels lead to no event of the mainline.
const offMainline = math.MaxInt

// mainlinePosition follows the chain of power levels until one has a position. It stores the answer for all power levels
// that it passes, so none is passed twice.
func (r *resolution) mainlinePosition(positions map[int32]int, from int32) int {
	position := offMainline
	var passed []int32
	for i := from; i >= 0; i = r.cited(i, powerLevelsKey) {
		if p, ok := positions[i]; ok {
			position = p
			break
		}
		passed = append(passed, i)
	}
	for _, i := range passed {
		positions[i] = position
	}
	return position
}
