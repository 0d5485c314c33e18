package internal

import (
	"crypto/subtle"
	"encoding/binary"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
)

// index finds the future that a token stands for: an open-addressing hash set with linear probing, cut
// into shards so that growing one never holds the lock for long. An entry is eight bytes and no pointer:
// 32 bits of the token, the slot, and the token's kind. The token itself is not kept; a candidate is
// verified by deriving its token again from the future's secret.
//
// Tokens are uniformly random, so their own bits are the hash and nobody can choose a collision. A shard
// may have any size, not only powers of two, so it grows by a quarter and is never half empty.
type index struct {
	shards [256]shard
}

type shard struct {
	entries []uint64 // 0 is empty: slot 0 is never used
	used    int
}

// ref is an entry's lower half: a slot and a kind.
type ref uint32

func newRef(slot uint32, kind api.TokenKind) ref { return ref(slot<<2 | uint32(kind)) }

func (r ref) slot() uint32        { return uint32(r >> 2) }
func (r ref) kind() api.TokenKind { return api.TokenKind(r & 3) }

// maxSlot is the highest slot a ref can hold.
const maxSlot = 1<<30 - 1

func fingerprint(t api.Token) uint32 { return binary.LittleEndian.Uint32(t[:4]) }

func (x *index) shard(t api.Token) *shard { return &x.shards[t[15]] }

// find returns the slot and kind of a live token. secretOf gives the secret of a slot in the index.
func (x *index) find(t api.Token, secretOf func(slot uint32) *api.Secret) (slot uint32, kind api.TokenKind, ok bool) {
	s, fp := x.shard(t), fingerprint(t)
	if len(s.entries) == 0 {
		return 0, 0, false
	}
	for i := s.home(fp); s.entries[i] != 0; i = s.after(i) {
		if uint32(s.entries[i]>>32) != fp {
			continue
		}
		r := ref(s.entries[i])
		want := secretOf(r.slot()).Token(r.kind())
		if subtle.ConstantTimeCompare(want[:], t[:]) == 1 {
			return r.slot(), r.kind(), true
		}
	}
	return 0, 0, false
}

func (x *index) add(t api.Token, slot uint32, kind api.TokenKind) {
	s := x.shard(t)
	if s.used+1 > len(s.entries)*7/8 { // at least one place stays empty: find relies on it
		s.grow()
	}
	s.insert(uint64(fingerprint(t))<<32 | uint64(newRef(slot, kind)))
	s.used++
}

func (x *index) remove(t api.Token, slot uint32, kind api.TokenKind) {
	s := x.shard(t)
	if len(s.entries) == 0 {
		return
	}
	want := uint64(fingerprint(t))<<32 | uint64(newRef(slot, kind))
	for i := s.home(fingerprint(t)); s.entries[i] != 0; i = s.after(i) {
		if s.entries[i] == want {
			s.closeGap(i)
			s.used--
			return
		}
	}
}

// home maps a fingerprint onto the table in order (a multiplication instead of a division).
func (s *shard) home(fp uint32) int { return int(uint64(fp) * uint64(len(s.entries)) >> 32) }

func (s *shard) after(i int) int {
	if i++; i == len(s.entries) {
		return 0
	}
	return i
}

func (s *shard) insert(e uint64) {
	i := s.home(uint32(e >> 32))
	for s.entries[i] != 0 {
		i = s.after(i)
	}
	s.entries[i] = e
}

// closeGap empties place i and moves back every later entry of the run that may stand there.
func (s *shard) closeGap(i int) {
	n := len(s.entries)
	for j := s.after(i); s.entries[j] != 0; j = s.after(j) {
		home := s.home(uint32(s.entries[j] >> 32))
		if (j-home+n)%n >= (j-i+n)%n { // its home is at or before the gap
			s.entries[i] = s.entries[j]
			i = j
		}
	}
	s.entries[i] = 0
}

// grow makes the shard a quarter larger: a load between 0.7 and 0.875.
func (s *shard) grow() {
	old := s.entries
	s.entries = make([]uint64, max(16, len(old)+len(old)/4))
	for _, e := range old {
		if e != 0 {
			s.insert(e)
		}
	}
}
