package stateres_test

import (
	"flag"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/futures/roomserver/stateres"
	"github.com/matrix-org/dendrite/futures/test/model/resolution"
)

var (
	histories = flag.Int("histories", 300, "how many random rooms to resolve")
	firstSeed = flag.Uint64("seed", 1, "the seed of the first of them")
)

// Compares Resolve with the model on random rooms, under both algorithms and both definitions of the auth chain. The
// result keeps what all sets agree on, and has no event that was not authorised.
func TestHistories(t *testing.T) {
	var conflicts, resets int
	start := time.Now()
	for seed := *firstSeed; seed < *firstSeed+uint64(*histories); seed++ {
		h := resolution.Generate(seed)
		for _, alg := range algorithms {
			for _, opts := range []stateres.Options{{}, {ChainExcludesSelf: true}, {AdmitRejected: true}} {
				got, trace := resolve(t, alg, h.Room, opts)
				checkResult(t, h.Room, got, trace)
				if alg == h.Algorithm() && opts == (stateres.Options{}) && len(trace.Full) > 0 {
					conflicts++
					if got[Key{Type: "m.room.power_levels"}] == "" && h.Sets[0][Key{Type: "m.room.power_levels"}] != "" {
						resets++
					}
				}
			}
		}
		if t.Failed() {
			t.Fatalf("seed %d; repeat it with -seed %d -histories 1", seed, seed)
		}
	}
	t.Logf("%d rooms, %d with conflicts, %d lost their power levels, in %v", *histories, conflicts, resets, time.Since(start).Round(time.Millisecond))
}

// checkResult checks what holds for every result of both algorithms.
func checkResult(t *testing.T, r resolution.Room, got map[Key]string, trace stateres.Trace) {
	t.Helper()
	for k, id := range trace.Unconflicted {
		if got[k] != id {
			t.Errorf("%v is %s in all sets and %q in the result", k, id, got[k])
		}
	}
	for k, id := range got {
		if r.Events[id].Key() != k {
			t.Errorf("%s is not of the key %v", id, k)
		}
		if trace.Unconflicted[k] == id {
			continue
		}
		if !slices.Contains(trace.Full, id) || !slices.Contains(trace.Admitted, id) {
			t.Errorf("%s is in the result, but was not admitted", id)
		}
	}
	both := slices.Concat(trace.PowerOrder, trace.MainlineOrder)
	if !slices.Equal(slices.Sorted(slices.Values(both)), slices.Sorted(slices.Values(trace.Full))) {
		t.Error("the two passes do not have each event of the full conflicted set exactly once")
	}
	at := map[string]int{}
	for n, id := range trace.PowerOrder {
		at[id] = n
	}
	for id, n := range at {
		for _, a := range r.Events[id].AuthEvents {
			if before, ok := at[a]; ok && before >= n {
				t.Errorf("%s comes before %s, which it cites", id, a)
			}
		}
	}
}

// The same seed always gives the same room.
func TestGenerateIsDeterministic(t *testing.T) {
	for seed := range uint64(20) {
		a, b := resolution.Generate(seed), resolution.Generate(seed)
		if !slices.EqualFunc(a.PDUs, b.PDUs, slices.Equal) || !slices.EqualFunc(a.Sets, b.Sets, maps.Equal) {
			t.Errorf("seed %d made two rooms", seed)
		}
	}
}
