package stateres

import "math/bits"

// nodeSet is a set of event numbers, one bit for each event of the graph. A nil nodeSet is empty.
type nodeSet []uint64

func (g *graph) newSet() nodeSet {
	return make(nodeSet, (len(g.ids)+63)/64)
}

func (g *graph) setOf(ids []string) nodeSet {
	s := g.newSet()
	for _, id := range ids {
		s.add(g.index[id])
	}
	return s
}

// known removes the missing events from the set and returns it.
func (g *graph) known(s nodeSet) nodeSet {
	for _, id := range g.missing {
		i := g.index[id]
		s[i>>6] &^= 1 << (i & 63)
	}
	return s
}

func (s nodeSet) add(i int32) {
	s[i>>6] |= 1 << (i & 63)
}

func (s nodeSet) has(i int32) bool {
	return s[i>>6]&(1<<(i&63)) != 0
}

// list returns the members in ascending order.
func (s nodeSet) list() []int32 {
	n := 0
	for _, word := range s {
		n += bits.OnesCount64(word)
	}
	members := make([]int32, 0, n)
	for w, word := range s {
		for ; word != 0; word &= word - 1 {
			members = append(members, int32(w<<6+bits.TrailingZeros64(word)))
		}
	}
	return members
}

// union returns a new set with the members of all. The first must not be nil.
func union(first nodeSet, others ...nodeSet) nodeSet {
	u := make(nodeSet, len(first))
	copy(u, first)
	for _, s := range others {
		for w, word := range s {
			u[w] |= word
		}
	}
	return u
}

// minus returns a new set with the members of s that are not in t.
func minus(s, t nodeSet) nodeSet {
	m := make(nodeSet, len(s))
	for w := range s {
		m[w] = s[w] &^ t[w]
	}
	return m
}
