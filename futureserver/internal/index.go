package internal

import (
	"crypto/subtle"
	"encoding/binary"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
)

// index finds the future that a token stands for: an open-addressing hash set with linear probing, cut
// into shards so that growing one never holds the lock for long. An entry is six bytes and no pointer: 16
// bits of the token, the slot, and the token's kind. The token itself is not kept; a candidate is verified
// by deriving its token again from the future's secret.
//
// Tokens are uniformly random, so their own bits are the hash and nobody can choose a collision. A shard
// may have any size, not only powers of two, so it grows by a quarter and is never half empty.
type index struct {
	shards [256]shard
}

type shard struct {
	refs   []ref // 0 is empty: slot 0 is never used
	prints []fingerprint
	used   int
}

// ref is a slot and a kind.
type ref uint32

func newRef(slot uint32, kind api.TokenKind) ref { return ref(slot<<2 | uint32(kind)) }

func (r ref) slot() uint32        { return uint32(r >> 2) }
func (r ref) kind() api.TokenKind { return api.TokenKind(r & 3) }

// maxSlot is the highest slot a ref can hold.
const maxSlot = 1<<30 - 1

// fingerprint is the part of a token that says where its entry belongs and rules out most others.
type fingerprint uint16

func fingerprintOf(t api.Token) fingerprint { return fingerprint(binary.LittleEndian.Uint16(t[:2])) }

func (x *index) shard(t api.Token) *shard { return &x.shards[t[15]] }

// find returns the slot and kind of a live token. secretOf gives the secret of a slot in the index.
func (x *index) find(t api.Token, secretOf func(slot uint32) *api.Secret) (slot uint32, kind api.TokenKind, ok bool) {
	s, print := x.shard(t), fingerprintOf(t)
	if len(s.refs) == 0 {
		return 0, 0, false
	}
	for i := s.home(print); s.refs[i] != 0; i = s.after(i) {
		if s.prints[i] != print {
			continue
		}
		r := s.refs[i]
		want := secretOf(r.slot()).Token(r.kind())
		if subtle.ConstantTimeCompare(want[:], t[:]) == 1 {
			return r.slot(), r.kind(), true
		}
	}
	return 0, 0, false
}

func (x *index) add(t api.Token, slot uint32, kind api.TokenKind) {
	s := x.shard(t)
	if s.used+1 > len(s.refs)*7/8 { // at least one place stays empty: find relies on it
		s.grow()
	}
	s.insert(newRef(slot, kind), fingerprintOf(t))
	s.used++
}

func (x *index) remove(t api.Token, slot uint32, kind api.TokenKind) {
	s, print := x.shard(t), fingerprintOf(t)
	if len(s.refs) == 0 {
		return
	}
	for i := s.home(print); s.refs[i] != 0; i = s.after(i) {
		if s.refs[i] == newRef(slot, kind) {
			s.closeGap(i)
			s.used--
			return
		}
	}
}

// home maps a fingerprint onto the table in order (a multiplication instead of a division).
func (s *shard) home(f fingerprint) int { return int(f) * len(s.refs) >> 16 }

func (s *shard) after(i int) int {
	if i++; i == len(s.refs) {
		return 0
	}
	return i
}

func (s *shard) insert(r ref, f fingerprint) {
	i := s.home(f)
	for s.refs[i] != 0 {
		i = s.after(i)
	}
	s.refs[i], s.prints[i] = r, f
}

// closeGap empties place i and moves back every later entry of the run that may stand there.
func (s *shard) closeGap(i int) {
	n := len(s.refs)
	for j := s.after(i); s.refs[j] != 0; j = s.after(j) {
		home := s.home(s.prints[j])
		if (j-home+n)%n >= (j-i+n)%n { // its home is at or before the gap
			s.refs[i], s.prints[i] = s.refs[j], s.prints[j]
			i = j
		}
	}
	s.refs[i] = 0
}

// grow makes the shard a quarter larger: a load between 0.7 and 0.875.
func (s *shard) grow() {
	old := *s
	n := max(16, len(s.refs)+len(s.refs)/4)
	s.refs, s.prints = make([]ref, n), make([]fingerprint, n)
	for i, r := range old.refs {
		if r != 0 {
			s.insert(r, old.prints[i])
		}
	}
}
