// Package wheel finds the futures that are due at a time. It is a pure value without clock, lock or I/O; its owner
// provides these.
//
// # How it works
//
// A Wheel is a hierarchical timing wheel with ticks of one millisecond. Each level has 64 buckets, and a
// bucket of one level is as wide as the whole level below it: 1 ms, 64 ms, 4.1 s, 4.4 min, 4.7 h, 12 days and
// so on. Read a time as a number in base 64; the highest digit in which it differs from the present is its
// level, and that digit is its bucket. Eleven digits hold any time, so the wheel has no horizon and never wraps
// around: an entry's bucket always lies ahead of the present on its level.
//
// Say it is now 1:10, a time with the digits 1 and 10 (that is 1·64 + 10 = 74 ms). Five entries are added:
//
//	at 1:10  no digit differs          level 0, bucket 10: handed out by the next Advance
//	at 1:12  the last digit differs    level 0, bucket 12: an exact tick
//	at 2:05  the digit before differs  level 1, bucket  2: somewhere in 2:00 to 2:63
//	at 2:40  the same                  level 1, bucket  2
//	at 9:00  the same                  level 1, bucket  9
//
// Advance to 2:20 takes the buckets in the order of the times at which they begin. Buckets 10 and 12 of level 0 are
// handed out. Then bucket 2 of level 1 is opened. The present becomes 2:00. The times 2:05 and 2:40 now differ from it
// in the last digit only, so both move down to level 0. Bucket 5 is handed out. Bucket 40 lies beyond 2:20 and stays.
// The entry at 9:00 stays where it was added. An entry moves down at most once per level. One 64-bit word per level
// says which buckets are occupied, so Advance skips empty time at no cost, even years.
//
// # Laziness
//
// Most futures are refreshed again and again before they fire. A refresh does not touch the wheel: the caller
// changes the deadline in its own table. When the bucket with the entry is opened, the wheel asks for the deadline
// and puts the entry into the right bucket. So a future with a timeout of 8 s is moved once in 4 to 8 s, however
// often it is refreshed. A deadline may be raised at any time. If it is lowered, the entry is still handed out, but
// perhaps only at its old deadline.
//
// # Memory
//
// An entry is a slot number chosen by the caller. It takes 8 bytes, without pointers: two links that chain the entries
// of one bucket. Only the caller's table has its deadline.
package wheel

import (
	"math"
	"math/bits"
)

const (
	digit  = 6                        // bits in a digit: 64 buckets to a level
	levels = (63 + digit - 1) / digit // enough for any time
	slab   = 1 << 12                  // entries allocated at once
	first  = 1 << 31                  // set in prev: the other bits are the number of a bucket
)

// Wheel holds slots, each of which has a deadline in Unix ms. It is not safe for concurrent use. Slots are
// below 1<<31 - 1. It allocates memory for all slots up to the highest used.
type Wheel struct {
	deadline func(slot uint32) int64
	now      int64                   // the present: all earlier entries have been handed out
	used     [levels]uint64          // which buckets of a level are occupied
	heads    [levels << digit]uint32 // first entry of each bucket
	slabs    []*[slab]entry          // by slot
}

// entry is a node in the linked list of a bucket. A link is a slot + 1, so that zero means none.
type entry struct {
	next uint32
	prev uint32 // 0: not in the wheel; first|bucket: the first of that bucket
}

// New returns an empty wheel whose present is now. deadline returns when a slot in the wheel is due; it must not use
// the wheel.
func New(now int64, deadline func(slot uint32) int64) *Wheel {
	return &Wheel{deadline: deadline, now: max(now, 0)}
}

// Add adds a slot, which must not be in the wheel. If its deadline has passed, the next Advance that does not go back
// in time hands it out.
func (w *Wheel) Add(slot uint32) { w.link(slot, max(w.deadline(slot), w.now)) }

// Remove takes the slot out of the wheel. It does nothing if the slot is not in it.
func (w *Wheel) Remove(slot uint32) {
	if int(slot/slab) < len(w.slabs) && w.slabs[slot/slab] != nil && w.entry(slot).prev != 0 {
		w.unlink(slot)
	}
}

// Advance makes now the present. It removes every slot whose deadline has come and calls due for it, tick by tick, in
// any order within one tick. due may use Add and Remove.
//
// One call hands out or moves at most budget entries; done is false if there is more to do for the same
// now. If now lies before the present, nothing happens.
func (w *Wheel) Advance(now int64, budget int, due func(slot uint32)) (done bool) {
	for {
		bucket, start := w.earliest()
		if bucket < 0 || start > now {
			w.now = max(w.now, now)
			return true
		}
		w.now = start
		for w.heads[bucket] != 0 {
			if budget <= 0 {
				return false
			}
			budget--
			slot := w.heads[bucket] - 1
			w.unlink(slot)
			if at := w.deadline(slot); at > start {
				w.link(slot, at) // on a lower level, or later if its deadline was raised
			} else {
				due(slot)
			}
		}
	}
}

// Next returns when Advance should be called again. This is never later than the earliest deadline. It is often
// earlier, because only the beginning of a wide bucket is known. Each Advance to Next, budget permitting, hands
// something out or makes Next grow. Next is math.MaxInt64 if the wheel is empty.
func (w *Wheel) Next() int64 {
	_, start := w.earliest()
	return start
}

// earliest returns the bucket that begins first, and when; -1 and math.MaxInt64 if all are empty. Two buckets begin at
// the same time only if the budget ended while a wide one was being opened. Their order does not matter, because both
// are emptied before the next tick.
func (w *Wheel) earliest() (bucket int, start int64) {
	bucket, start = -1, math.MaxInt64
	for level, used := range w.used {
		if used == 0 {
			continue
		}
		shift := level * digit
		i := bits.TrailingZeros64(used)
		if t := w.now>>(shift+digit)<<(shift+digit) | int64(i)<<shift; t <= start {
			bucket, start = level<<digit|i, t
		}
	}
	return bucket, start
}

// link puts the slot into the bucket for the time at, which must not be before the present.
func (w *Wheel) link(slot uint32, at int64) {
	level := (bits.Len64(uint64(at^w.now)|1) - 1) / digit
	i := int(at>>(level*digit)) & (1<<digit - 1)
	bucket := level<<digit | i

	e := w.grow(slot)
	if e.prev != 0 {
		panic("wheel: the slot is in the wheel already")
	}
	*e = entry{next: w.heads[bucket], prev: first | uint32(bucket)}
	if e.next != 0 {
		w.entry(e.next - 1).prev = slot + 1
	}
	w.heads[bucket] = slot + 1
	w.used[level] |= 1 << i
}

// unlink takes the slot out of its bucket.
func (w *Wheel) unlink(slot uint32) {
	e := w.entry(slot)
	if e.next != 0 {
		w.entry(e.next - 1).prev = e.prev
	}
	if e.prev&first == 0 {
		w.entry(e.prev - 1).next = e.next
	} else {
		bucket := e.prev &^ first
		w.heads[bucket] = e.next
		if e.next == 0 {
			w.used[bucket>>digit] &^= 1 << (bucket & (1<<digit - 1))
		}
	}
	e.prev = 0
}

func (w *Wheel) entry(slot uint32) *entry { return &w.slabs[slot/slab][slot%slab] }

// grow returns the slot's entry. It allocates the entry if needed.
func (w *Wheel) grow(slot uint32) *entry {
	n := int(slot / slab)
	for len(w.slabs) <= n {
		w.slabs = append(w.slabs, nil)
	}
	if w.slabs[n] == nil {
		w.slabs[n] = new([slab]entry)
	}
	return &w.slabs[n][slot%slab]
}
