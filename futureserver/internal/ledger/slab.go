package ledger

// slab holds items by number, beginning with 1. Items never move: a slab grows without copying them.
type slab[T any] struct {
	chunks [][]T
	free   []uint32
	last   uint32 // the highest number handed out
}

const chunkBits = 10

// at returns the item with that number.
func (s *slab[T]) at(n uint32) *T { return &s.chunks[n>>chunkBits][n&(1<<chunkBits-1)] }

// len returns the number of items.
func (s *slab[T]) len() int { return int(s.last) - len(s.free) }

// add stores an item and returns its number.
func (s *slab[T]) add(item T) uint32 {
	n := s.last + 1
	if last := len(s.free) - 1; last >= 0 {
		n, s.free = s.free[last], s.free[:last]
	} else {
		s.last = n
	}
	if int(n>>chunkBits) >= len(s.chunks) {
		s.chunks = append(s.chunks, make([]T, 1<<chunkBits))
	}
	*s.at(n) = item
	return n
}

// drop removes an item. Its number will be reused.
func (s *slab[T]) drop(n uint32) {
	var none T
	*s.at(n) = none
	s.free = append(s.free, n)
}
