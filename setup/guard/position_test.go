package guard

import (
	"encoding/binary"
	"testing"
)

// No proper prefix of a position passes as complete.
func TestIsPosition(t *testing.T) {
	for name, numbers := range map[string][]uint64{
		"nothing in hand":   {300, 4000, 301, 4001, 0, 0},
		"two in hand":       {300, 4000, 302, 4002, 2, 1 << 40, 1, 1, 0, 2, 2, 5, 0},
		"delivered again":   {300, 4000, 302, 4002, 1, 1 << 40, 2, 2, 5, 2, 1, 2, 2, 700},
		"nothing delivered": {0, 0, 0, 0, 0, 0},
	} {
		whole := []byte{22, 2}
		for _, n := range numbers {
			whole = binary.AppendUvarint(whole, n)
		}
		for size := range len(whole) + 1 {
			if got := isPosition(whole[:size]); got != (size == len(whole)) {
				t.Errorf("%s, %d of %d bytes: %v", name, size, len(whole), got)
			}
		}
		if isPosition(make([]byte, len(whole))) {
			t.Errorf("%s: zeros pass", name)
		}
	}
}
