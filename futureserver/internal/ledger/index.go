package ledger

import "slices"

// index finds small numbers by hash. It is an open-addressing hash table with linear probing. It is cut into shards, so
// that growing one does not hold the caller's lock for long. An entry has six bytes and no pointer: 16 bits of the hash
// and the number. The caller must verify each candidate, because the rest of the hash is not stored. Hashes are uniformly
// random and nobody can choose them, so their bits decide where an entry belongs.
//
// The entries of a shard are sorted by those 16 bits, so a search that fails stops as early as one that succeeds. A shard
// may therefore be filled up to 31/32. It may have any size, not only powers of two, and grows by a sixteenth.
type index struct {
	shards [256]shard
}

// address is the part of a hash that the index uses: where the entry belongs, and a print that rules out most others.
type address struct {
	shard uint8
	print uint16
}

type shard struct {
	entries []entry // in order of print, with gaps
	homes   int     // how many places can be an entry's home; the rest take what is pushed beyond them
	used    int
}

// entry is a print and a number. The number is split in two, so that the entry needs no padding.
type entry struct {
	print, high, low uint16
}

func newEntry(print uint16, number uint32) entry {
	return entry{print, uint16(number >> 16), uint16(number)}
}

// number returns the entry's number; it is 0 in an empty place.
func (e entry) number() uint32 { return uint32(e.high)<<16 | uint32(e.low) }

// find returns the first number at that address for which match returns true.
func (x *index) find(a address, match func(number uint32) bool) (number uint32, ok bool) {
	s := &x.shards[a.shard]
	for i := s.home(a.print); i < len(s.entries); i++ {
		e := s.entries[i]
		n := e.number()
		if n == 0 || e.print > a.print {
			break
		}
		if e.print == a.print && match(n) {
			return n, true
		}
	}
	return 0, false
}

// add adds a number, which must not be 0.
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

// replace changes a number, which must be in the index, to another.
func (x *index) replace(a address, from, to uint32) {
	s := &x.shards[a.shard]
	s.entries[s.place(newEntry(a.print, from))] = newEntry(a.print, to)
}

// tail returns how many of n places are no homes.
func tail(n int) int { return min(n/32, 64) }

// home returns the first place for a print. It keeps the order of the prints.
func (s *shard) home(print uint16) int { return int(print) * s.homes >> 16 }

// place returns the place of an entry, -1 if it is not in the shard.
func (s *shard) place(e entry) int {
	for i := s.home(e.print); i < len(s.entries) && s.entries[i].number() != 0 && s.entries[i].print <= e.print; i++ {
		if s.entries[i] == e {
			return i
		}
	}
	return -1
}

// insert inserts e and moves the entries after it by one place, up to the next gap. It reports false if there is no gap.
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

// remove empties place i and moves the entries of the run after it back by one, up to the first that is in its home.
func (s *shard) remove(i int) {
	end := i + 1
	for end < len(s.entries) && s.entries[end].number() != 0 && s.home(s.entries[end].print) < end {
		end++
	}
	copy(s.entries[i:], s.entries[i+1:end])
	s.entries[end-1] = entry{}
	s.used--
}

// resize gives the shard at least n + 16 places. It reports false and changes nothing if the entries do not fit, which
// cannot happen to a shard that grows.
func (s *shard) resize(n int) bool {
	next := shard{entries: slices.Grow([]entry(nil), n+16), used: s.used}
	next.entries = next.entries[:cap(next.entries)] // use all that the allocator has given
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

// gather adds a number that find sees only after fit. To add many, gather and fit are faster than add.
func (x *index) gather(a address, number uint32) {
	s := &x.shards[a.shard]
	s.entries = append(s.entries, newEntry(a.print, number))
	s.used++
}

// fit sorts the gathered entries and puts them in their places.
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

// sortByPrint is a radix sort of from by the lower byte and then by the upper one; to is scratch space of the same length.
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

// len returns the number of entries.
func (x *index) len() (n int) {
	for i := range x.shards {
		n += x.shards[i].used
	}
	return n
}
