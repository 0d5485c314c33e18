package gomatrixserverlib

import (
	"strconv"

	"github.com/tidwall/gjson"
)

const maxCanonicalInteger = 1<<53 - 1

// verifyCanonicalJSON12 accepts JSON whose numbers are integers of the canonical range, without fraction, exponent
// or negative zero, as the specification's appendix on canonical JSON wants (verifyEnforcedCanonicalJSON lets
// 0.0, 0e0, -0.0 and every 1E5 pass).
func verifyCanonicalJSON12(input []byte) error {
	if !gjson.ValidBytes(input) {
		return ErrCanonicalJSON
	}
	for i := 0; i < len(input); i++ {
		switch c := input[i]; {
		case c == '"':
			i = skipString(input, i)
		case c == '-' || '0' <= c && c <= '9':
			end := i + 1
			for end < len(input) && isNumberByte(input[end]) {
				end++
			}
			if !isCanonicalInteger(string(input[i:end])) {
				return ErrCanonicalJSON
			}
			i = end - 1
		}
	}
	return nil
}

// skipString returns the position of the quote that ends the string of valid JSON that starts at i.
func skipString(input []byte, i int) int {
	for i++; input[i] != '"'; i++ {
		if input[i] == '\\' {
			i++
		}
	}
	return i
}

func isNumberByte(c byte) bool {
	return '0' <= c && c <= '9' || c == '.' || c == 'e' || c == 'E' || c == '+' || c == '-'
}

func isCanonicalInteger(s string) bool {
	n, err := strconv.ParseInt(s, 10, 64)
	return err == nil && s != "-0" && -maxCanonicalInteger <= n && n <= maxCanonicalInteger
}
