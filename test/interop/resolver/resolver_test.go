package resolver

import (
	"flag"
	"maps"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/futures/roomserver/stateres"
	"github.com/matrix-org/dendrite/futures/test/model/resolution"
)

var (
	histories = flag.Int("histories", 1000, "how many random rooms to resolve")
	firstSeed = flag.Uint64("seed", 1, "the seed of the first of them")
	thorough  = flag.Uint64("thorough", 1, "every how many rooms both algorithms and both of Synapse's ways are taken")
)

func synapse(t *testing.T) *Synapse { return synapseBy(t, Start) }

func synapseBy(t *testing.T, start func(python string) (*Synapse, error)) *Synapse {
	t.Helper()
	python := os.Getenv(Python)
	if python == "" {
		if os.Getenv("FUTURES_TEST_INTEROP") == "required" {
			t.Fatalf("Synapse is required, and %s does not name a Python that has it", Python)
		}
		t.Skipf("not compared with Synapse: %s does not name a Python that has it", Python)
	}
	s, err := start(python)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

var algorithms = []stateres.Algorithm{stateres.V2, stateres.V21}

func ours(r resolution.Room, alg stateres.Algorithm, trace *stateres.Trace) (map[stateres.Key]string, error) {
	_, rules, err := stateres.ForRoomVersion(r.Version, resolution.Allowed(r.Version))
	if err != nil {
		return nil, err
	}
	return stateres.Resolve(alg, rules, r.Create, r.Sets, r.Events, stateres.Options{Trace: trace})
}

func TestVectors(t *testing.T) {
	s := synapse(t)
	for _, v := range resolution.Vectors() {
		for _, alg := range algorithms {
			for _, version := range []string{"11", "12"} {
				r := v.Room(version)
				if err := s.Send(r, alg); err != nil {
					t.Fatal(err)
				}
				answer, err := s.Receive()
				if want := v.Want(alg, r); err != nil || !maps.Equal(answer.State, want) {
					t.Errorf("%s, algorithm %d, room version %s: Synapse says %v, %v; the vector %v", v.Name, alg, version, answer.State, err, want)
				}
			}
		}
	}
}

// Random rooms are resolved by Synapse, by the slow model and by us: with both algorithms or, to test more rooms, only
// with that of the room version.
func TestHistories(t *testing.T) {
	s := synapse(t)
	type job struct {
		h   *resolution.History
		alg stateres.Algorithm
	}
	jobs := make(chan job, 200)
	go func() {
		defer close(jobs)
		for seed := *firstSeed; seed < *firstSeed+uint64(*histories); seed++ {
			h := resolution.Generate(seed)
			once := seed%*thorough != 0
			for _, alg := range algorithms {
				if once && alg != h.Algorithm() {
					continue
				}
				if s.SendHistory(h, alg, once) != nil {
					return // Receive returns the error
				}
				jobs <- job{h, alg}
			}
		}
	}()
	start := time.Now()
	var n, conflicts, both int
	for j := range jobs {
		answer, err := s.Receive()
		if err != nil {
			t.Fatalf("seed %d, algorithm %d: %v", j.h.Seed, j.alg, err)
		}
		n++
		both += answer.Paths - 1
		if compare(t, j.h, j.alg, answer.State) {
			conflicts++
		}
		if n%20000 == 0 {
			t.Logf("%d resolutions after %v", n, time.Since(start).Round(time.Second))
		}
	}
	t.Logf("%d rooms, %d resolutions, %d with conflicts, %d done in both of Synapse's ways, in %v",
		*histories, n, conflicts, both, time.Since(start).Round(time.Millisecond))
}

// compare compares the three results and reports whether there was a conflict.
func compare(t *testing.T, h *resolution.History, alg stateres.Algorithm, synapse map[stateres.Key]string) bool {
	t.Helper()
	var trace stateres.Trace
	got, err := ours(h.Room, alg, &trace)
	if err != nil {
		t.Fatalf("seed %d, algorithm %d: %v", h.Seed, alg, err)
	}
	if model := h.Model(alg, stateres.Options{}).Resolve(); !maps.Equal(got, model) {
		t.Errorf("seed %d, algorithm %d: ours is\n%v, the model's\n%v", h.Seed, alg, got, model)
	}
	if !maps.Equal(got, synapse) {
		t.Errorf("seed %d, algorithm %d: ours is\n%v, Synapse's\n%v", h.Seed, alg, got, synapse)
	}
	for k, id := range trace.Unconflicted {
		if got[k] != id {
			t.Errorf("seed %d, algorithm %d: %v was reset, though all sets agree on it", h.Seed, alg, k)
		}
	}
	for k, id := range got {
		if _, agreed := trace.Unconflicted[k]; !agreed && (!slices.Contains(trace.Full, id) || !slices.Contains(trace.Admitted, id)) {
			t.Errorf("seed %d, algorithm %d: %s is in the result and was not admitted", h.Seed, alg, id)
		}
	}
	if t.Failed() {
		t.Fatalf("repeat it with -seed %d -histories 1", h.Seed)
	}
	return len(trace.Full) > 0
}
