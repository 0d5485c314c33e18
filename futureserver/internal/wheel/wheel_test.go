package wheel_test

import (
	"cmp"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/matrix-org/dendrite/futures/futureserver/internal/wheel"
)

const (
	second = int64(1000)
	day    = 24 * 3600 * second
	year   = 365 * day
)

// model is the simplest wheel: a slice of slots, sorted by deadline.
type model struct {
	now      int64
	slots    []uint32
	deadline map[uint32]int64
}

func (m *model) sort() {
	slices.SortFunc(m.slots, func(a, b uint32) int { return cmp.Compare(m.deadline[a], m.deadline[b]) })
}

func (m *model) add(slot uint32, deadline int64) {
	m.deadline[slot] = deadline
	m.slots = append(m.slots, slot)
	m.sort()
}

// remove reports whether the slot was there.
func (m *model) remove(slot uint32) bool {
	i := slices.Index(m.slots, slot)
	if i < 0 {
		return false
	}
	m.slots = slices.Delete(m.slots, i, i+1)
	return true
}

// next returns when the first slot is handed out. A slot whose deadline has passed is handed out now.
func (m *model) next() int64 {
	if len(m.slots) == 0 {
		return math.MaxInt64
	}
	return max(m.deadline[m.slots[0]], m.now)
}

// advance does one step of both and compares. Every entry that the wheel hands out must be one of those
// that the model would hand out now. Due puts back what has a number in again.
func (m *model) advance(t *rapid.T, w *wheel.Wheel, now int64, budget int, again map[uint32]int64) {
	handed, rounds := 0, 0
	for done := false; !done; rounds++ {
		handed = 0
		done = w.Advance(now, budget, func(slot uint32) {
			handed++
			at := m.next()
			if max(m.deadline[slot], m.now) != at || at > now || now < m.now || !m.remove(slot) {
				t.Fatalf("at %d slot %d was handed out: its deadline is %d, the earliest is %d", now, slot, m.deadline[slot], at)
			}
			m.now = max(m.now, at)
			if later, ok := again[slot]; ok {
				delete(again, slot)
				m.add(slot, at+later)
				w.Add(slot)
			}
		})
		if handed > budget {
			t.Fatalf("%d entries were handed out on a budget of %d", handed, budget)
		}
		if rounds > 1_000_000 {
			t.Fatal("the wheel does not finish")
		}
	}
	if now >= m.now && m.next() <= now {
		t.Fatalf("at %d the wheel is done, but an entry due at %d was not handed out", now, m.next())
	}
	m.now = max(m.now, now)
}

func (m *model) check(t *rapid.T, w *wheel.Wheel) {
	next, want := w.Next(), m.next()
	if next > want {
		t.Fatalf("Next() = %d, later than the earliest entry, %d", next, want)
	}
	if (next == math.MaxInt64) != (want == math.MaxInt64) {
		t.Fatalf("Next() = %d, the earliest entry is at %d", next, want)
	}
}

// span draws a distance in time: every order of magnitude is as likely, and so are the edges of buckets.
func span(t *rapid.T, label string) int64 {
	if rapid.Bool().Draw(t, label+" at an edge") {
		exponent := rapid.IntRange(0, 40).Draw(t, label+" exponent")
		return max(0, 1<<exponent+rapid.Int64Range(-2, 2).Draw(t, label+" offset"))
	}
	limit := rapid.SampledFrom([]int64{1, 70, 5 * second, 300 * second, day, 30 * day, 3 * year, 40 * year}).Draw(t, label+" limit")
	return rapid.Int64Range(0, limit).Draw(t, label)
}

func TestWheelBehavesLikeASortedSlice(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		now := rapid.SampledFrom([]int64{0, 1<<36 - 5, 1<<42 - 5, 1_795_000_000_000}).Draw(t, "start")
		m := &model{now: now, deadline: map[uint32]int64{}}
		w := wheel.New(now, func(slot uint32) int64 { return m.deadline[slot] })
		slot := rapid.Custom(func(t *rapid.T) uint32 {
			return rapid.SampledFrom([]uint32{0, 1, 2, 3, 5, 8, 4095, 4096, 70_000, 1<<24 + 1}).Draw(t, "slot")
		})
		t.Repeat(map[string]func(*rapid.T){
			"": func(t *rapid.T) { m.check(t, w) },
			"add": func(t *rapid.T) {
				s := slot.Draw(t, "slot")
				if m.remove(s) {
					w.Remove(s)
				}
				m.add(s, now+span(t, "timeout")-rapid.Int64Range(0, 100).Draw(t, "overdue"))
				w.Add(s)
			},
			"remove": func(t *rapid.T) {
				s := slot.Draw(t, "slot")
				m.remove(s)
				w.Remove(s)
			},
			"refresh": func(t *rapid.T) {
				s := slot.Draw(t, "slot")
				m.deadline[s] = max(m.deadline[s], now+span(t, "timeout"))
				m.sort()
			},
			"advance": func(t *rapid.T) {
				now += span(t, "step")
				again := map[uint32]int64{}
				if rapid.Bool().Draw(t, "periodic") {
					again[slot.Draw(t, "slot")] = span(t, "period")
				}
				m.advance(t, w, now, rapid.IntRange(1, 5).Draw(t, "budget"), again)
			},
			"go back": func(t *rapid.T) {
				now = max(0, now-span(t, "back"))
				m.advance(t, w, now, 3, nil)
			},
			"advance to next": func(t *rapid.T) {
				next := w.Next()
				if next == math.MaxInt64 || next < now {
					return
				}
				now = next
				before := len(m.slots)
				moved := m.next() <= now
				m.advance(t, w, now, 100, nil)
				if !moved && w.Next() <= next {
					t.Fatalf("no progress: Next() stays %d with %d entries", next, before)
				}
			},
		})
	})
}

// TestMovedBack: an entry must not be lost when its deadline is lowered.
func TestMovedBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		first, second := span(t, "first"), span(t, "second")
		deadline := first
		w := wheel.New(0, func(uint32) int64 { return deadline })
		w.Add(0)
		deadline = second
		n := 0
		w.Advance(max(first, second), 1000, func(uint32) { n++ })
		if n != 1 || w.Next() != math.MaxInt64 {
			t.Errorf("the entry was handed out %d times", n)
		}
	})
}

// TestStopsAnywhere interrupts the opening of a bucket and adds earlier and later entries before it continues.
func TestStopsAnywhere(t *testing.T) {
	w := wheel.New(1, func(slot uint32) int64 {
		if slot >= 10 {
			return 54 + int64(slot)
		}
		return 64 + int64(slot)%3
	})
	for slot := range uint32(10) {
		w.Add(slot)
	}
	var out []uint32
	due := func(slot uint32) { out = append(out, slot) }
	if w.Advance(64, 4, due) {
		t.Fatal("done, although more than four entries had to move")
	}
	w.Add(10)
	w.Add(11)
	w.Remove(1)
	for !w.Advance(100, 1, due) {
	}
	ticks := make([]uint32, len(out))
	for i, slot := range out {
		ticks[i] = slot % 3
		if slot >= 10 {
			ticks[i] = slot - 10
		}
	}
	if len(out) != 11 || !slices.IsSorted(ticks) {
		t.Errorf("handed out %v, in ticks %v", out, ticks)
	}
}

// TestLongerThanALap: in other timing wheels a timeout of more than one lap fired up to twice too late.
func TestLongerThanALap(t *testing.T) {
	for _, timeout := range []int64{64, 65, 4095, 4096, 4097, 1 << 18, 7 * day, 30 * day, 50 * day, 100 * day, 140 * year} {
		const start = 1_795_000_000_123
		w := wheel.New(start, func(uint32) int64 { return start + timeout })
		w.Add(0)
		wakes, fired := 0, int64(0)
		for now := w.Next(); now != math.MaxInt64; now = w.Next() {
			w.Advance(now, 1, func(uint32) { fired = now })
			if wakes++; wakes > 10_000 {
				t.Fatalf("timeout %d: Next makes its owner wake up for ever", timeout)
			}
		}
		if fired != start+timeout {
			t.Errorf("timeout %d: fired %d ms late", timeout, fired-start-timeout)
		}
	}
}

// TestRearm: in other designs an owner that slept until Next missed an earlier entry that was added meanwhile, or every
// refresh postponed its alarm, so that nothing fired.
func TestRearm(t *testing.T) {
	deadlines, asked := []int64{10 * second, 5 * second}, 0
	w := wheel.New(0, func(slot uint32) int64 { asked++; return deadlines[slot] })
	w.Add(0)
	w.Add(1)
	if next := w.Next(); next > 5*second {
		t.Errorf("an earlier entry was added, yet Next() = %d", next)
	}
	w.Remove(1)
	asked = 0
	due := func(uint32) { t.Error("the entry fired although it was refreshed") }
	for now := int64(0); now < 60*second; now += 100 {
		deadlines[0] = now + 8*second // refreshed ten times a second
		w.Advance(now, 10, due)
	}
	if asked < 6 || asked > 15 {
		t.Errorf("in a minute of refreshes the wheel asked for the deadline %d times", asked)
	}
}

// TestRemoveFromWithin: due may remove other slots, as a future that fires removes its whole group.
func TestRemoveFromWithin(t *testing.T) {
	w := wheel.New(0, func(uint32) int64 { return 500 })
	for slot := range uint32(100) {
		w.Add(slot)
	}
	calls := 0
	w.Advance(500, 1000, func(slot uint32) {
		calls++
		for other := range uint32(100) {
			w.Remove(other)
		}
	})
	if calls != 1 || w.Next() != math.MaxInt64 {
		t.Errorf("%d of a group fired, Next() = %d", calls, w.Next())
	}
}

func TestAddTwicePanics(t *testing.T) {
	deadline := int64(5)
	w := wheel.New(0, func(uint32) int64 { return deadline })
	w.Add(7)
	defer func() {
		if recover() == nil {
			t.Error("a slot was added twice")
		}
	}()
	deadline = 6
	w.Add(7)
}

// TestJumpOverYears: Advance must skip a century without entries at once.
func TestJumpOverYears(t *testing.T) {
	w := wheel.New(0, func(uint32) int64 { return 99 * year })
	w.Add(1)
	n := 0
	if !w.Advance(100*year, 10_000, func(uint32) { n++ }) || n != 1 {
		t.Errorf("%d entries were handed out", n)
	}
}

const million = 1 << 20

// full returns a wheel with a million entries whose deadlines lie within a minute.
func full() (*wheel.Wheel, []int64) {
	deadlines := make([]int64, million)
	w := wheel.New(0, func(slot uint32) int64 { return deadlines[slot] })
	random := rand.New(rand.NewPCG(1, 2))
	for slot := range deadlines {
		deadlines[slot] = random.Int64N(60 * second)
		w.Add(uint32(slot))
	}
	return w, deadlines
}

func BenchmarkAdd(b *testing.B) {
	_, deadlines := full()
	for b.Loop() {
		w := wheel.New(0, func(slot uint32) int64 { return deadlines[slot] })
		for slot := range deadlines {
			w.Add(uint32(slot))
		}
	}
	perEntry(b)
}

func BenchmarkRemove(b *testing.B) {
	order := rand.Perm(million)
	for b.Loop() {
		b.StopTimer()
		w, _ := full()
		b.StartTimer()
		for _, slot := range order {
			w.Remove(uint32(slot))
		}
	}
	perEntry(b)
}

// BenchmarkFire hands out all entries, in the steps of a run loop.
func BenchmarkFire(b *testing.B) {
	for b.Loop() {
		b.StopTimer()
		w, _ := full()
		b.StartTimer()
		drain(w, 0, func(uint32) {})
	}
	perEntry(b)
}

// BenchmarkRefresh measures what the wheel does in a minute of heartbeats: each entry was refreshed often but is moved
// once.
func BenchmarkRefresh(b *testing.B) {
	for b.Loop() {
		b.StopTimer()
		w, deadlines := full()
		for slot := range deadlines {
			deadlines[slot] += 60 * second
		}
		b.StartTimer()
		for now := int64(0); now < 60*second; now++ {
			w.Advance(now, million, func(uint32) {})
		}
	}
	perEntry(b)
}

func drain(w *wheel.Wheel, now int64, due func(uint32)) {
	for ; w.Next() != math.MaxInt64; now++ {
		for !w.Advance(now, 256, due) {
		}
	}
}

func perEntry(b *testing.B) {
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/million, "ns/entry")
}
