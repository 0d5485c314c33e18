package internal

import (
	"testing"
	"time"
)

// TestTurnStaysInside: a turn holds its room's gate until the room has confirmed the event, over all attempts.
func TestTurnStaysInside(t *testing.T) {
	for mode, attempts := range map[roomMode]int64{working: 1, stranding: 2} {
		inBubble(t, func(b *bench) {
			b.rooms.setMode(mode)
			b.create(message(time.Second))
			b.after(time.Minute, 1)
			if n := b.rooms.submittedInside.Load(); n != attempts {
				b.Errorf("%d of %d attempts were made inside", n, attempts)
			}
			if n := b.rooms.inside.Load(); n != 0 {
				b.Errorf("%d turns are still inside", n)
			}
		})
	}
}
