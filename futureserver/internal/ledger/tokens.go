package ledger

import (
	"crypto/subtle"
	"encoding/binary"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
)

// The token index holds every valid token. It does not store the tokens: a candidate is verified by deriving its token
// from the future's secret again.

// ref is an entry of the token index: a slot and a kind of token.
type ref uint32

func newRef(slot uint32, kind api.TokenKind) ref { return ref(slot<<2 | uint32(kind)) }

func (r ref) slot() uint32        { return uint32(r >> 2) }
func (r ref) kind() api.TokenKind { return api.TokenKind(r & 3) }

// maxSlot is the highest slot a ref can hold.
const maxSlot = 1<<30 - 1

func tokenAddress(t api.Token) address {
	return address{shard: t[15], print: binary.LittleEndian.Uint16(t[:2])}
}

// kinds lists the tokens that a record has.
func (r *record) kinds() []api.TokenKind {
	switch {
	case r.flags&managed != 0:
		return []api.TokenKind{api.GroupToken}
	case r.timeout == 0:
		return []api.TokenKind{api.SendToken, api.CancelToken}
	}
	return []api.TokenKind{api.SendToken, api.CancelToken, api.RefreshToken}
}

// findToken returns the slot and kind of a live token.
func (t *table) findToken(token api.Token) (slot uint32, kind api.TokenKind, ok bool) {
	n, ok := t.tokens.find(tokenAddress(token), func(n uint32) bool {
		want := t.at(ref(n).slot()).secret.Token(ref(n).kind())
		return subtle.ConstantTimeCompare(want[:], token[:]) == 1
	})
	return ref(n).slot(), ref(n).kind(), ok
}

// addTokens adds a record's tokens to the index by add, which is index.add or index.gather.
func (t *table) addTokens(slot uint32, r *record, add func(a address, number uint32)) {
	for _, k := range r.kinds() {
		add(tokenAddress(r.secret.Token(k)), uint32(newRef(slot, k)))
	}
}

func (t *table) removeTokens(slot uint32, r *record) {
	for _, k := range r.kinds() {
		t.tokens.remove(tokenAddress(r.secret.Token(k)), uint32(newRef(slot, k)))
	}
}
