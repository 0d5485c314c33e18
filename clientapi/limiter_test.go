package clientapi

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"pgregory.net/rapid"

	fconfig "github.com/matrix-org/dendrite/futures/setup/config"
)

// size counts the buckets that are not full.
func (l *limiter[K]) size() (n int) {
	for i := range l.sets {
		for _, b := range l.sets[i].buckets {
			if b.full > time.Since(l.epoch) {
				n++
			}
		}
	}
	return n
}

func TestLimiter(t *testing.T) {
	t.Run("burst and refill", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			l := newLimiter[string](fconfig.RateLimit{PerSecond: 2, Burst: 3})
			for i := range 3 {
				if l.take("a") != 0 {
					t.Fatalf("token %d of the burst is missing", i+1)
				}
			}
			for range 2 { // a refused call takes no token
				if wait := l.take("a"); wait != time.Second/2 {
					t.Errorf("wait %v, want 500ms", wait)
				}
			}
			time.Sleep(time.Second/2 - 1)
			if l.take("a") != 1 {
				t.Error("refilled too early")
			}
			time.Sleep(time.Nanosecond)
			if l.take("a") != 0 || l.take("a") == 0 {
				t.Error("want one token after half a second")
			}
			time.Sleep(time.Hour)
			for range 3 {
				if l.take("a") != 0 {
					t.Error("not full after an hour")
				}
			}
			if l.take("a") == 0 {
				t.Error("fuller than full")
			}
		})
	})
	t.Run("no limit", func(t *testing.T) {
		l := newLimiter[string](fconfig.RateLimit{})
		for range 1000 {
			if l.take("a") != 0 {
				t.Fatal("limited")
			}
		}
		l.giveBack("a")
	})
	t.Run("what is given back was never taken", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			l := newLimiter[string](fconfig.RateLimit{PerSecond: 1, Burst: 2})
			for range 100 {
				if l.take("a") != 0 {
					t.Fatal("limited")
				}
				l.giveBack("a")
				l.giveBack("b")
			}
			if n := l.size(); n != 0 {
				t.Errorf("%d buckets", n)
			}
			if l.take("a")+l.take("a") != 0 || l.take("a") == 0 {
				t.Error("the burst is not two")
			}
		})
	})
}

// Invariant 8: a flood of keys takes bounded memory and does not shut out new keys.
func TestLimiterInAFlood(t *testing.T) {
	l := newLimiter[int](fconfig.RateLimit{PerSecond: 0.001, Burst: 5})
	for i := range 10 * limiterSets * len(bucketSet{}.buckets) {
		if l.take(i) != 0 {
			t.Fatal("the first call of somebody new is refused")
		}
	}
	if size := unsafe.Sizeof(bucketSet{}) * uintptr(len(l.sets)); size > 1<<20 {
		t.Errorf("%d bytes", size)
	}
}

// A key is never limited more than a bucket of its own would limit it, and not less as long as there are slots for all
// keys.
func TestLimiterIsExact(t *testing.T) {
	type call struct {
		pause time.Duration
		key   int
	}
	const places = len(bucketSet{}.buckets)
	for _, keys := range []int{places, 3 * places} {
		calls := rapid.SliceOf(rapid.Custom(func(t *rapid.T) call {
			return call{time.Duration(rapid.IntRange(0, 60).Draw(t, "ms")) * time.Millisecond, rapid.IntRange(1, keys).Draw(t, "key")}
		}))
		check := func(program []call) error {
			l := newLimiter[int](fconfig.RateLimit{PerSecond: 10, Burst: 4})
			l.sets = l.sets[:1]
			full := map[int]time.Duration{} // the time at which the bucket is full again
			for i, c := range program {
				time.Sleep(c.pause)
				now := time.Since(l.epoch)
				next := max(full[c.key], now) + l.interval
				want, got := max(0, next-now-l.capacity), l.take(c.key)
				if got > want || got < want && keys == places {
					return fmt.Errorf("call %d: wait %v, want %v", i, got, want)
				}
				if got == 0 {
					full[c.key] = next
				}
			}
			return nil
		}
		t.Run(fmt.Sprint(keys), func(t *testing.T) {
			rapid.Check(t, func(rt *rapid.T) {
				program := calls.Draw(rt, "calls")
				var err error
				synctest.Test(t, func(*testing.T) { err = check(program) })
				if err != nil {
					rt.Fatal(err)
				}
			})
		})
	}
}

// With as many clients as one server is meant for, no heartbeat is refused, and a client that calls too often is still
// limited.
func TestLimiterOfAMillion(t *testing.T) {
	const clients, every, turns = 1_000_000, 5 * time.Second, 2
	synctest.Test(t, func(t *testing.T) {
		rate := fconfig.RateLimit{PerSecond: 5, Burst: 20}
		l := newLimiter[int](rate)
		passed := 0
		const atOnce = 1000
		for i := range turns * clients {
			if l.take(i%clients) != 0 {
				t.Fatal("a heartbeat is refused")
			}
			if i%atOnce == 0 {
				time.Sleep(every * atOnce / clients)
				if l.take(-1) == 0 { // two hundred calls a second
					passed++
				}
			}
		}
		if most := rate.Burst + int(rate.PerSecond*(turns*every).Seconds()); passed > most {
			t.Errorf("%d calls of one token passed, want %d", passed, most)
		}
	})
}

func BenchmarkLimiter(b *testing.B) {
	for _, keys := range []int{1, 1 << 16} {
		b.Run(fmt.Sprint(keys), func(b *testing.B) {
			l := newLimiter[int](fconfig.RateLimit{PerSecond: 1e6, Burst: 1e6})
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				l.take(i % keys)
			}
		})
	}
}
