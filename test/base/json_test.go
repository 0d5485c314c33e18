package base

import (
	"fmt"
	"math/rand/v2"
	"strings"
)

// generator creates random inputs. They follow from the seed.
type generator struct{ *rand.Rand }

func newGenerator(seed uint64) generator {
	return generator{rand.New(rand.NewPCG(seed, 11))}
}

// one reports true once in n times.
func (g generator) one(n int) bool { return g.IntN(n) == 0 }

func pick[T any](g generator, from ...T) T { return from[g.IntN(len(from))] }

var oddPieces = []string{
	"", "a", "b", "Z", "0", " ", "é", "😀", "\u2028", "\u2029", "\u007f", "\ufffd", "<", ">", "&", "'", "%", ".", "*", "#", "|", ":", "@", "!",
	`\"`, `\\`, `\/`, `\b`, `\f`, `\n`, `\r`, `\t`, `\u0000`, `\u0001`, `\u001f`, `\u0008`, `\u0020`, `\u0022`, `\u005c`, `\u005C`, `\u002f`,
	`\u0041`, `\u00e9`, `\u2028`, `\ud83d\ude00`, `\uD83D\uDE00`, `\ud800`, `\udc00`, `\ud800\u0041`, `\ud800x`, `\udc00\ud800`, `\uffff`, `\u007f`,
}

// string creates the JSON of a string. Rarely it is invalid: control characters, bad escapes, bytes that are no UTF-8.
func (g generator) string() string {
	var b strings.Builder
	b.WriteByte('"')
	for range g.IntN(5) {
		b.WriteString(pick(g, oddPieces...))
	}
	if g.one(60) {
		b.WriteString(pick(g, "\x01", "\x00", "\n", "\xff", "\xed\xa0\x80", `\x`, `\u12`, `\`))
	}
	b.WriteByte('"')
	return b.String()
}

var oddNumbers = []string{
	"0", "-0", "0.0", "-0.0", "0e0", "0E5", "1", "-1", "1.0", "1.5", "-1.5", "1e3", "1E3", "1e-3", "1e+3", "100", "50", "1e300", "-1e300", "1e400",
	"9007199254740991", "9007199254740992", "9007199254740993", "-9007199254740991", "-9007199254740992", "9223372036854775807",
	"9223372036854775808", "-9223372036854775808", "18446744073709551616", "123456789012345678901234567890", "01", "-01", "+1", "1.", ".5", "0x1", "NaN",
}

func (g generator) number() string {
	if g.one(3) {
		return fmt.Sprint(g.IntN(200) - 50)
	}
	return pick(g, oddNumbers...)
}

func (g generator) space() string {
	if g.one(8) {
		return pick(g, " ", "\n", "\t", "\r\n", "  ")
	}
	return ""
}

// value creates the JSON of any value.
func (g generator) value(depth int) string {
	if depth > 0 && g.one(2) {
		if g.one(2) {
			return g.object(depth)
		}
		var items []string
		for range g.IntN(4) {
			items = append(items, g.space()+g.value(depth-1))
		}
		return "[" + strings.Join(items, ",") + g.space() + "]"
	}
	switch g.IntN(8) {
	case 0:
		return "null"
	case 1:
		return "true"
	case 2:
		return "false"
	case 3, 4:
		return g.number()
	}
	return g.string()
}

// object creates the JSON of an object. Keys may be equal, as they are written or after unescaping.
func (g generator) object(depth int) string {
	var b strings.Builder
	b.WriteByte('{')
	n := g.IntN(5)
	for i := range n {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(g.space() + g.string() + g.space() + ":" + g.space() + g.value(depth-1))
	}
	b.WriteByte('}')
	return b.String()
}

// damaged changes a few bytes of the JSON, so that it is probably invalid.
func (g generator) damaged(raw string) string {
	b := []byte(raw)
	for range 1 + g.IntN(3) {
		if len(b) == 0 {
			break
		}
		at := g.IntN(len(b))
		switch g.IntN(3) {
		case 0:
			b[at] = byte(g.IntN(256))
		case 1:
			b = append(b[:at], b[at+1:]...)
		case 2:
			b = append(b[:at], append([]byte(pick(g, `"`, `\`, "{", "}", "[", "]", ",", ":", "-", "0", "e", " ")), b[at:]...)...)
		}
	}
	return string(b)
}

func (g generator) deep() string {
	n := 50 + g.IntN(1000)
	if g.one(2) {
		return strings.Repeat("[", n) + g.value(1) + strings.Repeat("]", n)
	}
	return strings.Repeat(`{"b":1,"a":`, n) + g.value(1) + strings.Repeat("}", n)
}

// json creates JSON of any kind, some of it invalid.
func (g generator) json() string {
	raw := g.object(4)
	switch {
	case g.one(8):
		raw = g.value(5)
	case g.one(150):
		raw = g.deep()
	}
	if g.one(10) {
		raw = g.damaged(raw)
	}
	return raw
}

var idPieces = []string{
	"@", "!", "$", "#", "+", ":", "a", "alice", "A", "_", "-", ".", "/", "=", "+", "é", "😀", " ", "\x00", "\xff", "one", "example.org", "8448", "0", "65536",
	"[::1]", "[", "]", "127.0.0.1", "xn--nxasmq6b", strings.Repeat("x", 43), strings.Repeat("Y-_0", 11)[:43], strings.Repeat("z", 255),
}

// id creates a text that resembles an ID.
func (g generator) id() string {
	switch g.IntN(6) {
	case 0:
		return pick(g, "@", "!", "$", "#") + pick(g, idPieces...) + ":" + pick(g, idPieces...)
	case 1:
		return pick(g, "@", "!") + pick(g, idPieces...) + ":" + pick(g, "one", "example.org", "127.0.0.1", "[::1]") + ":" + fmt.Sprint(g.IntN(70000))
	case 2:
		return "!" + g.hash() + pick(g, "", "", "", "=", "a", ":one")
	}
	var b strings.Builder
	for range g.IntN(6) {
		b.WriteString(pick(g, idPieces...))
	}
	return b.String()
}

// hash creates 43 characters of URL-safe base64; rarely one is of the other alphabet.
func (g generator) hash() string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	b := make([]byte, 43)
	for i := range b {
		b[i] = alphabet[g.IntN(len(alphabet))]
	}
	if g.one(6) {
		b[g.IntN(len(b))] = pick(g, byte('+'), byte('/'), byte('='), byte('.'))
	}
	return string(b)
}
