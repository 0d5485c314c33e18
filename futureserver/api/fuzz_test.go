package api

import "testing"

// FuzzParseToken: a token has one spelling.
func FuzzParseToken(f *testing.F) {
	f.Add(NewSecret().Token(SendToken).String())
	f.Add("AAAAAAAAAAAAAAAAAAAAAB")
	f.Add("AAAAAAAAAAAAAAAAAAAA==")
	f.Fuzz(func(t *testing.T, s string) {
		if token, ok := ParseToken(s); ok && token.String() != s {
			t.Errorf("%q is read as %q", s, token)
		}
	})
}
