package api

import (
	"strings"
	"testing"
)

func TestTokens(t *testing.T) {
	s := NewSecret()
	seen := map[string]bool{}
	for k := range GroupToken + 1 {
		text := s.Token(k).String()
		if len(text) != 22 || strings.ContainsAny(text, "+/=") {
			t.Errorf("kind %d: %q is not 128 bits of unpadded base64url", k, text)
		}
		back, ok := ParseToken(text)
		if !ok || back != s.Token(k) {
			t.Errorf("kind %d does not survive the wire", k)
		}
		seen[text] = true
	}
	if len(seen) != 4 {
		t.Errorf("%d different tokens, want 4", len(seen))
	}
	if NewSecret() == s {
		t.Error("NewSecret returned the same secret twice")
	}
}

// A transaction always has the same secret, and no two transactions share one, even if user and transaction together
// spell the same text.
func TestTransactionSecret(t *testing.T) {
	made := map[Secret]bool{}
	for _, key := range []string{"key", "other key"} {
		for _, user := range []string{"", "@a:test", "@a:tes", "@b:test"} {
			for _, transaction := range []string{"", "t", "tt"} {
				s := TransactionSecret([]byte(key), user, []byte(transaction))
				if s != TransactionSecret([]byte(key), user, []byte(transaction)) {
					t.Errorf("%s, %s: two secrets of one transaction", user, transaction)
				}
				made[s] = true
			}
		}
	}
	if len(made) != 2*4*3 {
		t.Errorf("%d different secrets, want 24", len(made))
	}
}

func TestParseTokenRefuses(t *testing.T) {
	good := Token{1, 2, 3}.String()
	for _, bad := range []string{
		"", "x", good + "A", good[:21], good[:21] + "=", good[:21] + "!", strings.Repeat("é", 11),
		good[:21] + "B", // not canonical: the last character carries four unused bits
	} {
		if _, ok := ParseToken(bad); ok {
			t.Errorf("%q was accepted as a token", bad)
		}
	}
	if n := testing.AllocsPerRun(100, func() { ParseToken(good) }); n != 0 {
		t.Errorf("parsing allocates %v times", n)
	}
}
