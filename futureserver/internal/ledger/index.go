package ledger

import "slices"

// index finds small numbers by hash: an open-addressing hash table with linear probing, cut into shards so
// that growing one never holds the lock for long. An entry is six bytes and no pointer: 16 bits of the hash,
// and the number. The rest is not kept; whoever looks for something verifies the candidates. Hashes are
// uniformly random and nobody can choose them, so that their own bits say where an entry belongs.
//
// The entries of a shard are sorted by those 16 bits, so that a search that fails stops as early as one that
// succeeds, and all but one place in thirty-two may be taken. A shard may have any size, not only powers of two,
// and grows by a sixteenth.
type index struct {
	shards [256]shard
}

// address is the part of a hash that says where its entry belongs and rules out most others.
type address struct {
	shard uint8
	print uint16
}

type shard struct {
	entries []entry // in order of print, with gaps
	homes   int     // where entries may begin; behind them is room for those that others push on
	used    int
}

// entry is a print and a number in two halves, so that it needs no padding.
type entry struct {
	print, high, low uint16
}

func newEntry(print uint16, number uint32) entry {
	return entry{print, uint16(number >> 16), uint16(number)}
}

// number is 0 if there is no entry in this place.
func (e entry) number() uint32 { return uint32(e.high)<<16 | uint32(e.low) }

// find returns the number at that address that is the one looked for.
func (x *index) find(a address, is func(number uint32) bool) (number uint32, ok bool) {
	s := &x.shards[a.shard]
	for i := s.home(a.print); i < len(s.entries); i++ {
		e := s.entries[i]
		n := e.number()
		if n == 0 || e.print > a.print {
			break
		}
		if e.print == a.print && is(n) {
			return n, true
		}
	}
	return 0, false
}

// add puts in a number, which is not 0.
func (x *index) add(a address, number uint32) {
	s := &x.shards[a.shard]
	for s.used >= s.homes-s.homes/32 || !s.insert(newEntry(a.print, number)) {
		s.resize(len(s.entries) + len(s.entries)/16)
	}
}

func (x *index) remove(a address, number uint32) {
	s := &x.shards[a.shard]
	if i := s.place(newEntry(a.print, number)); i >= 0 {
		s.remove(i)
	}
}

// replace changes a number in its place.
func (x *index) replace(a address, from, to uint32) {
	s := &x.shards[a.shard]
	s.entries[s.place(newEntry(a.print, from))] = newEntry(a.print, to)
}

// tail is how many places of n are no homes.
func tail(n int) int { return min(n/32, 64) }

// home maps a print onto the places in order (a multiplication instead of a division).
func (s *shard) home(print uint16) int { return int(print) * s.homes >> 16 }

// place returns where an entry stands, -1 if it is not there.
func (s *shard) place(e entry) int {
	for i := s.home(e.print); i < len(s.entries) && s.entries[i].number() != 0 && s.entries[i].print <= e.print; i++ {
		if s.entries[i] == e {
			return i
		}
	}
	return -1
}

// insert pushes what belongs behind e on by one place, up to the next gap. It reports false if there is none.
func (s *shard) insert(e entry) bool {
	i := s.home(e.print)
	for i < len(s.entries) && s.entries[i].number() != 0 && s.entries[i].print <= e.print {
		i++
	}
	gap := i
	for gap < len(s.entries) && s.entries[gap].number() != 0 {
		gap++
	}
	if gap == len(s.entries) {
		return false
	}
	copy(s.entries[i+1:], s.entries[i:gap])
	s.entries[i] = e
	s.used++
	return true
}

// remove empties place i and moves back every later entry of the run that may stand there.
func (s *shard) remove(i int) {
	end := i + 1
	for end < len(s.entries) && s.entries[end].number() != 0 && s.home(s.entries[end].print) < end {
		end++
	}
	copy(s.entries[i:], s.entries[i+1:end])
	s.entries[end-1] = entry{}
	s.used--
}

// resize gives the shard at least n places and a few. If it grows, all entries find room: none is further from the
// end than it was. It reports false, and does nothing, if they do not.
func (s *shard) resize(n int) bool {
	next := shard{entries: slices.Grow([]entry(nil), n+16), used: s.used}
	next.entries = next.entries[:cap(next.entries)] // what the allocator has given anyhow
	next.homes = len(next.entries) - tail(len(next.entries))
	i := 0
	for _, e := range s.entries {
		if e.number() == 0 {
			continue
		}
		if i = max(i, next.home(e.print)); i == len(next.entries) {
			return false
		}
		next.entries[i] = e
		i++
	}
	*s = next
	return true
}

// gather adds a number of which nothing is asked before fit: so many come in a row that it is quicker to sort them.
func (x *index) gather(a address, number uint32) {
	s := &x.shards[a.shard]
	s.entries = append(s.entries, newEntry(a.print, number))
	s.used++
}

// fit puts the entries of an index that was gathered in their places.
func (x *index) fit() {
	var spare []entry
	for i := range x.shards {
		s := &x.shards[i]
		spare = slices.Grow(spare[:0], len(s.entries))[:len(s.entries)]
		sortByPrint(s.entries, spare)
		for n := s.used + s.used/30 + tail(s.used); !s.resize(n); n += n/16 + 16 {
		}
	}
}

// sortByPrint sorts by the lower byte and then by the upper one.
func sortByPrint(from, to []entry) {
	for shift := 0; shift < 16; shift += 8 {
		var starts [257]int
		for _, e := range from {
			starts[e.print>>shift&0xff+1]++
		}
		for i := range 256 {
			starts[i+1] += starts[i]
		}
		for _, e := range from {
			place := &starts[e.print>>shift&0xff]
			to[*place] = e
			*place++
		}
		from, to = to, from
	}
}

// len counts the entries.
func (x *index) len() (n int) {
	for i := range x.shards {
		n += x.shards[i].used
	}
	return n
}
