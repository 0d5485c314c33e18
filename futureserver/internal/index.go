package internal

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
		s.grow()
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

// grow makes the shard larger. All entries find room: none is further from the end than it was.
func (s *shard) grow() {
	old := s.entries
	s.entries = slices.Grow([]entry(nil), len(old)+len(old)/16+16)
	s.entries = s.entries[:cap(s.entries)] // what the allocator has given anyhow
	s.homes = len(s.entries) - min(len(s.entries)/32, 64)
	next := 0
	for _, e := range old {
		if e.number() != 0 {
			next = max(next, s.home(e.print))
			s.entries[next] = e
			next++
		}
	}
}
