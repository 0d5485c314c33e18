package ledger

import (
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// Compares the index with a map. All entries are in one shard, and many share a few prints, so runs, gaps and the end of
// the shard occur all the time.
func TestIndexAgainstSlice(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var x index
		want := map[uint32]address{}
		prints := rapid.OneOf(rapid.SampledFrom([]uint16{0, 1, 1 << 12, 1<<12 + 1, 1 << 15, 1<<16 - 2, 1<<16 - 1}), rapid.Uint16())
		next := uint32(1)
		for range rapid.IntRange(0, 100).Draw(t, "gathered") {
			want[next] = address{print: prints.Draw(t, "print")}
			x.gather(want[next], next)
			next++
		}
		x.fit()
		known := func() uint32 { return rapid.SampledFrom(slices.Sorted(maps.Keys(want))).Draw(t, "which") }
		for range rapid.IntRange(1, 300).Draw(t, "steps") {
			switch action := rapid.IntRange(0, 5).Draw(t, "action"); {
			case action == 0 && len(want) > 0:
				n := known()
				x.remove(want[n], n)
				delete(want, n)
			case action == 1 && len(want) > 0:
				n := known()
				x.replace(want[n], n, next<<16) // uses the upper half of a number too
				want[next<<16] = want[n]
				delete(want, n)
				next++
			case action == 2:
				x.remove(address{print: prints.Draw(t, "print")}, next) // not in the index
			default:
				want[next] = address{print: prints.Draw(t, "print")}
				x.add(want[next], next)
				next++
			}
			compareIndex(t, &x, want)
		}
	})
}

func compareIndex(t *rapid.T, x *index, want map[uint32]address) {
	if x.len() != len(want) {
		t.Fatalf("%d entries, want %d", x.len(), len(want))
	}
	for n, a := range want {
		if got, ok := x.find(a, func(candidate uint32) bool { return candidate == n }); !ok || got != n {
			t.Fatalf("number %d is not found at %v", n, a)
		}
	}
	for _, print := range []uint16{0, 1, 5, 1 << 15, 1<<16 - 1} {
		seen := map[uint32]bool{}
		_, ok := x.find(address{print: print}, func(candidate uint32) bool {
			if want[candidate].print != print || seen[candidate] {
				t.Fatalf("number %d is at %v, but was a candidate for print %d", candidate, want[candidate], print)
			}
			seen[candidate] = true
			return false
		})
		if ok {
			t.Fatal("find returned a number that did not match")
		}
	}
}

// A shard is well filled, and a search for an unknown hash takes few steps.
func TestIndexIsFullAndQuick(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	var x index
	at := func() address { return address{print: uint16(random.Uint32())} }
	for n := uint32(1); n <= 20_000; n++ {
		switch {
		case n < 2000:
			x.gather(at(), n)
			continue
		case n == 2000:
			x.fit()
		}
		x.add(at(), n)
		s := &x.shards[0]
		if load := float64(s.used) / float64(len(s.entries)); n > 2000 && load < 0.75 {
			t.Fatalf("with %d entries the load is %.2f", n, load)
		}
	}
	s, steps := &x.shards[0], 0
	const searches = 10_000
	for range searches {
		print := uint16(random.Uint32())
		for i := s.home(print); i < len(s.entries) && s.entries[i].number() != 0 && s.entries[i].print <= print; i++ {
			steps++
		}
	}
	if steps > 20*searches {
		t.Errorf("a search takes %d steps", steps/searches)
	}
}
