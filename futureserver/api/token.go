package api

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
)

// Token is a bearer credential of 128 bits. On the wire it is 22 characters of unpadded base64url
// (generation 0, 2.4.4). A token reveals neither its kind nor its future.
type Token [16]byte

// String returns the token in its wire form. It must never be logged.
func (t Token) String() string { return base64.RawURLEncoding.EncodeToString(t[:]) }

// ParseToken parses the wire form of a token. It accepts exactly what String returns. It does not allocate.
func ParseToken(s string) (t Token, ok bool) {
	if len(s) != 22 {
		return t, false
	}
	var buf [18]byte // the decoder needs space for whole groups of three bytes
	var src [22]byte
	copy(src[:], s)
	n, err := strictBase64.Decode(buf[:], src[:])
	if err != nil || n != len(t) {
		return t, false
	}
	return Token(buf[:len(t)]), true
}

var strictBase64 = base64.RawURLEncoding.Strict()

// TokenKind is what a token allows its holder to do.
type TokenKind uint8

const (
	SendToken TokenKind = iota
	CancelToken
	RefreshToken
	GroupToken // the group ID of a future that named none; not a credential, but the ID of a managed future
)

// Secret is the unguessable value from which all tokens of a future are derived: SHA-256(secret ‖ kind), cut to 128
// bits. Nobody can guess a token, or compute it from another token, without the secret. Memory and disk hold one value
// instead of several tokens.
type Secret [16]byte

// TransactionSecret returns the secret of the future that a transaction creates: HMAC-SHA256 of the user and the
// transaction under the database's key, cut to 128 bits. A repeat has the same secret, which is how it is recognised.
func TransactionSecret(key []byte, userID string, txnKey []byte) Secret {
	mac := hmac.New(sha256.New, key)
	mac.Write(binary.AppendUvarint(nil, uint64(len(userID)))) // separates the user from the transaction
	mac.Write([]byte(userID))
	mac.Write(txnKey)
	return Secret(mac.Sum(nil)[:len(Secret{})])
}

// NewSecret returns a fresh secret from the operating system's generator.
func NewSecret() (s Secret) {
	rand.Read(s[:]) // returns no error: crypto/rand aborts the program instead
	return s
}

// Token derives the token of that kind.
func (s Secret) Token(k TokenKind) Token {
	var in [len(s) + 1]byte
	copy(in[:], s[:])
	in[len(s)] = byte(k)
	sum := sha256.Sum256(in[:])
	return Token(sum[:len(Token{})])
}
