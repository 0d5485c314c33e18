package gomatrixserverlib

import (
	"bytes"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/tidwall/gjson"
)

const maxCanonicalInteger = 1<<53 - 1

// verifyCanonicalJSON12 accepts JSON whose numbers are integers of the canonical range, without fraction, exponent or
// negative zero, as the specification's appendix on canonical JSON requires. (verifyEnforcedCanonicalJSON accepts 0.0,
// 0e0, -0.0 and 1E5.)
func verifyCanonicalJSON12(input []byte) error {
	if !gjson.ValidBytes(input) {
		return ErrCanonicalJSON
	}
	for i := 0; i < len(input); i++ {
		switch c := input[i]; {
		case c == '"':
			end := skipString(input, i)
			if hasLoneSurrogate(input[i+1 : end]) {
				return ErrCanonicalJSON
			}
			i = end
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

// hasLoneSurrogate reports whether a string of valid JSON has an escape that is half of a surrogate pair. It has no UTF-8
// form, so the JSON has no canonical form.
func hasLoneSurrogate(s []byte) bool {
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' {
			continue
		}
		if i++; s[i] != 'u' {
			continue
		}
		c := readHexDigits(s[i+1 : i+5])
		i += 4
		if !utf16.IsSurrogate(c) {
			continue
		}
		if len(s) < i+7 || s[i+1] != '\\' || s[i+2] != 'u' ||
			utf16.DecodeRune(c, readHexDigits(s[i+3:i+7])) == utf8.RuneError {
			return true
		}
		i += 6
	}
	return false
}

// withoutDuplicates removes from the objects of valid JSON every member that another one of the same name follows. The
// last one counts, as in the decoders of Go and Python; code that finds the first one would see another event.
func withoutDuplicates(input []byte) []byte {
	value := gjson.ParseBytes(input)
	if !hasDuplicates(value) {
		return input
	}
	var output bytes.Buffer
	writeOnce(&output, value)
	return output.Bytes()
}

func hasDuplicates(value gjson.Result) (found bool) {
	if !value.IsObject() && !value.IsArray() {
		return false
	}
	names := make(map[string]struct{})
	value.ForEach(func(key, member gjson.Result) bool {
		if value.IsObject() {
			_, found = names[key.Str]
			names[key.Str] = struct{}{}
		}
		found = found || hasDuplicates(member)
		return !found
	})
	return found
}

func writeOnce(output *bytes.Buffer, value gjson.Result) {
	if !value.IsObject() && !value.IsArray() {
		output.WriteString(value.Raw)
		return
	}
	last := make(map[string]int)
	n := 0
	value.ForEach(func(key, _ gjson.Result) bool {
		last[key.Str] = n
		n++
		return true
	})
	output.WriteByte(value.Raw[0])
	written, n := false, 0
	value.ForEach(func(key, member gjson.Result) bool {
		defer func() { n++ }()
		if value.IsObject() && last[key.Str] != n {
			return true
		}
		if written {
			output.WriteByte(',')
		}
		written = true
		if value.IsObject() {
			output.WriteString(key.Raw)
			output.WriteByte(':')
		}
		writeOnce(output, member)
		return true
	})
	output.WriteByte(value.Raw[len(value.Raw)-1])
}

func isNumberByte(c byte) bool {
	return '0' <= c && c <= '9' || c == '.' || c == 'e' || c == 'E' || c == '+' || c == '-'
}

func isCanonicalInteger(s string) bool {
	n, err := strconv.ParseInt(s, 10, 64)
	return err == nil && s != "-0" && -maxCanonicalInteger <= n && n <= maxCanonicalInteger
}
