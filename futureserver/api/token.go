package api

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
)

// Token is a bearer credential of 128 bits. On the wire it is 22 characters of unpadded base64url
// (generation 0, 2.4.4); nothing in it tells what it stands for.
type Token [16]byte

// String returns the token as it stands on the wire. It must never reach a log.
func (t Token) String() string { return base64.RawURLEncoding.EncodeToString(t[:]) }

// ParseToken reads a token from the wire. It accepts exactly what String returns and does not allocate.
func ParseToken(s string) (t Token, ok bool) {
	if len(s) != 22 {
		return t, false
	}
	var buf [18]byte // the decoder wants room for whole groups
	var src [22]byte
	copy(src[:], s)
	n, err := strictBase64.Decode(buf[:], src[:])
	if err != nil || n != len(t) {
		return t, false
	}
	return Token(buf[:len(t)]), true
}

var strictBase64 = base64.RawURLEncoding.Strict()

// TokenKind is what a token stands for.
type TokenKind uint8

const (
	SendToken TokenKind = iota
	CancelToken
	RefreshToken
	GroupToken // the group ID of a future that named none: no credential, but of a managed future it is the ID
)

// Secret is the one value of a future that nobody can guess. Its tokens are SHA-256(secret ‖ kind), cut to 128 bits:
// without the secret no token can be guessed or computed from another, and one value in memory and on
// disk stands for all of them.
type Secret [16]byte

// TransactionSecret returns the secret of the future that a transaction makes, a pseudo-random function (HMAC-SHA256,
// cut to 128 bits) of the user and the transaction under a key that nobody else knows. So a repeat has the same secret,
// and is recognised by it.
func TransactionSecret(key []byte, userID string, txnKey []byte) Secret {
	mac := hmac.New(sha256.New, key)
	mac.Write(binary.AppendUvarint(nil, uint64(len(userID)))) // where one ends and the other begins
	mac.Write([]byte(userID))
	mac.Write(txnKey)
	return Secret(mac.Sum(nil)[:len(Secret{})])
}

// NewSecret returns a fresh secret from the operating system's generator.
func NewSecret() (s Secret) {
	rand.Read(s[:]) // never fails: crypto/rand aborts the program instead
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
