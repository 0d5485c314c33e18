package stateres

import "slices"

// split divides the state into the keys on which all sets agree, and the events of all other keys. A key that is
// absent from some set is in conflict, even if all sets that have it agree.
func split(sets []map[Key]string) (unconflicted map[Key]string, conflicted []string) {
	unconflicted = map[Key]string{}
	if len(sets) == 0 {
		return unconflicted, nil
	}
	for k, id := range sets[0] {
		differs := func(set map[Key]string) bool {
			other, ok := set[k]
			return !ok || other != id
		}
		if !slices.ContainsFunc(sets[1:], differs) {
			unconflicted[k] = id
		}
	}
	seen := map[string]bool{}
	for _, set := range sets {
		if len(set) == len(unconflicted) {
			continue
		}
		for k, id := range set {
			if _, agreed := unconflicted[k]; !agreed && !seen[id] {
				seen[id] = true
				conflicted = append(conflicted, id)
			}
		}
	}
	return unconflicted, conflicted
}

// authDifference returns the events that are in the auth chains of some state sets, but not of all.
func (g *graph) authDifference(sets []map[Key]string, excludeSelf bool) nodeSet {
	words := (len(sets) + 63) / 64
	masks := make([]uint64, len(g.ids)*words) // for each event a bit mask: the sets whose auth chains have it
	mask := func(i int32) []uint64 {
		return masks[int(i)*words : (int(i)+1)*words]
	}
	all := make([]uint64, words)
	for s, set := range sets {
		word, bit := s/64, uint64(1)<<(s%64)
		all[word] |= bit
		for _, id := range set {
			i := g.index[id]
			if !excludeSelf {
				mask(i)[word] |= bit
				continue
			}
			for _, a := range g.auth(i) {
				mask(a)[word] |= bit
			}
		}
	}
	difference := g.newSet()
	for i := int32(len(g.ids)) - 1; i >= 0; i-- {
		own := mask(i)
		some := false
		for _, word := range own {
			some = some || word != 0
		}
		if !some {
			continue
		}
		if !slices.Equal(own, all) {
			difference.add(i)
		}
		for _, a := range g.auth(i) {
			of := mask(a)
			for w := range own {
				of[w] |= own[w]
			}
		}
	}
	return difference
}

// subgraph returns the conflicted state subgraph (MSC4297): all events on a path along auth events from one conflicted
// event to another, both ends included. An event is on such a path if a conflicted event reaches it and it reaches a
// conflicted event. Listing the paths themselves would take exponential time.
func (g *graph) subgraph(conflicted nodeSet) nodeSet {
	back := union(conflicted)
	for i := int32(len(g.ids)) - 1; i >= 0; i-- {
		if back.has(i) {
			for _, a := range g.auth(i) {
				back.add(a)
			}
		}
	}
	between := union(conflicted)
	for i := range int32(len(g.ids)) {
		if back.has(i) && slices.ContainsFunc(g.auth(i), between.has) {
			between.add(i)
		}
	}
	return between
}
