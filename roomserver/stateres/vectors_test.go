package stateres_test

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/matrix-org/dendrite/futures/roomserver/stateres"
	"github.com/matrix-org/dendrite/futures/test/model/resolution"
)

// V1, V2, … are small rooms (test/model/resolution), each of which tests one rule of the algorithm.

type (
	Key   = stateres.Key
	Event = stateres.Event
)

func rulesOf(version string) stateres.Rules {
	_, rules, err := stateres.ForRoomVersion(version, resolution.Allowed(version))
	if err != nil {
		panic(err)
	}
	return rules
}

// resolve resolves the room's sets and checks that the model gives the same result.
func resolve(t *testing.T, alg stateres.Algorithm, r resolution.Room, opts stateres.Options) (map[Key]string, stateres.Trace) {
	t.Helper()
	var trace stateres.Trace
	opts.Trace = &trace
	got, err := stateres.Resolve(alg, rulesOf(r.Version), r.Create, r.Sets, r.Events, opts)
	if err != nil {
		t.Fatal(err)
	}
	model := modelOf(alg, r, opts)
	if want := model.Resolve(); !maps.Equal(got, want) {
		t.Errorf("the model differs:%s", difference(got, want))
	}
	return got, trace
}

func modelOf(alg stateres.Algorithm, r resolution.Room, opts stateres.Options) *resolution.Model {
	return &resolution.Model{
		Version: r.Version, V21: alg == stateres.V21, Create: r.Create, Events: r.Events, Sets: r.Sets,
		Options: opts, Allowed: resolution.Allowed(r.Version),
	}
}

func difference(got, want map[Key]string) string {
	var b strings.Builder
	for k, id := range got {
		if want[k] != id {
			b.WriteString("\n got " + k.Type + " " + k.StateKey + " = " + id + ", want " + want[k])
		}
	}
	for k, id := range want {
		if _, ok := got[k]; !ok {
			b.WriteString("\n got no " + k.Type + " " + k.StateKey + ", want " + id)
		}
	}
	return b.String()
}

var algorithms = map[string]stateres.Algorithm{"2": stateres.V2, "2.1": stateres.V21}

func TestVectors(t *testing.T) {
	for _, v := range resolution.Vectors() {
		for name, alg := range algorithms {
			for _, version := range []string{"11", "12"} {
				t.Run(v.Name+", algorithm "+name+", room version "+version, func(t *testing.T) {
					r := v.Room(version)
					got, _ := resolve(t, alg, r, stateres.Options{})
					if want := v.Want(alg, r); !maps.Equal(got, want) {
						t.Error("wrong state:", difference(got, want))
					}
				})
			}
		}
	}
}

// By the text, the events of a set are not part of its auth chain. Only V21 shows the difference.
func TestVectorsByTheLetter(t *testing.T) {
	for _, v := range resolution.Vectors() {
		for name, alg := range algorithms {
			t.Run(v.Name+", algorithm "+name, func(t *testing.T) {
				r := v.Room("12")
				got, _ := resolve(t, alg, r, stateres.Options{ChainExcludesSelf: true})
				want := v.Want(alg, r)
				if strings.HasPrefix(v.Name, "V21") {
					want = r.State("c ma mb mc p2 j1 t2")
				}
				if !maps.Equal(got, want) {
					t.Error("wrong state:", difference(got, want))
				}
			})
		}
	}
}

func vector(name string) resolution.Vector {
	for _, v := range resolution.Vectors() {
		if strings.HasPrefix(v.Name, name+" ") {
			return v
		}
	}
	panic("no vector " + name)
}

func names(ids []string) string {
	short := make([]string, len(ids))
	for i, id := range ids {
		short[i] = strings.TrimPrefix(id, "$")
	}
	return strings.Join(short, " ")
}

func sorted(ids []string) string {
	return names(slices.Sorted(slices.Values(ids)))
}

func without(ids []string, others ...[]string) []string {
	return slices.DeleteFunc(slices.Clone(ids), func(id string) bool {
		return slices.ContainsFunc(others, func(o []string) bool { return slices.Contains(o, id) })
	})
}

func TestIntermediateValues(t *testing.T) {
	check := func(what, got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("%s: %q, want %q", what, got, want)
		}
	}
	trace := func(name string, alg stateres.Algorithm) stateres.Trace {
		_, tr := resolve(t, alg, vector(name).Room("12"), stateres.Options{})
		return tr
	}
	v5 := trace("V5", stateres.V21)
	check("V5: C", sorted(v5.Conflicted), "e2 mz p1 p3")
	check("V5: A without C", sorted(without(v5.AuthDifference, v5.Conflicted)), "e1")
	check("V5: G adds", sorted(without(v5.Subgraph, v5.AuthDifference, v5.Conflicted)), "j1 mb p2")
	check("V5: L1", names(v5.PowerOrder), "p1 j1 p2 mb p3")
	check("V5: L2", names(v5.MainlineOrder), "e2 e1 mz")
	v5 = trace("V5", stateres.V2)
	check("V5, version 2: L1", names(v5.PowerOrder), "p1 p3")
	check("V5, version 2: L2", names(v5.MainlineOrder), "e1 e2 mz")
	if slices.Contains(v5.Admitted, "$p3") {
		t.Error("V5, version 2: p3 was admitted")
	}
	v6 := trace("V6", stateres.V21)
	check("V6: G adds", sorted(without(v6.Subgraph, v6.AuthDifference, v6.Conflicted)), "j1 mb mc p2 p3")
	v7 := trace("V7", stateres.V21)
	check("V7: G adds", sorted(without(v7.Subgraph, v7.AuthDifference, v7.Conflicted)), "i2")
	check("V7: L2", names(v7.MainlineOrder), "l1 i2 d2")
	for _, name := range []string{"V1", "V2", "V3", "V4"} {
		tr := trace(name, stateres.V21)
		check(name+": A and G without C", sorted(without(append(tr.AuthDifference, tr.Subgraph...), tr.Conflicted)), "")
	}
	v3 := trace("V3", stateres.V21)
	check("V3: L1", names(v3.PowerOrder), "mc bc")
	v8 := trace("V8", stateres.V21)
	check("V8: L1", names(v8.PowerOrder), "pa mb bb pb")
	if slices.Contains(v8.Admitted, "$pb") {
		t.Error("V8: pb was admitted")
	}
	check("V11: L2", names(trace("V11", stateres.V21).MainlineOrder), "t4 t3")
	check("V15: L2", names(trace("V15", stateres.V21).MainlineOrder), "t2 t1")
	check("V15, version 2: L2", names(trace("V15", stateres.V2).MainlineOrder), "t1 t2")
}

// V17 by the text: an event that was rejected before is admitted if it passes now.
func TestAdmitRejected(t *testing.T) {
	r := vector("V17").Room("12")
	for name, alg := range algorithms {
		got, _ := resolve(t, alg, r, stateres.Options{AdmitRejected: true})
		if want := r.State("c ma mb mc p1 jx"); !maps.Equal(got, want) {
			t.Errorf("algorithm %s: %s", name, difference(got, want))
		}
	}
}

// V20: without a conflict the rules are not called.
func TestNoConflict(t *testing.T) {
	r := vector("V20").Room("12")
	rules := stateres.Rules{Allowed: func(*Event, map[Key]*Event) error {
		t.Error("the rules were called")
		return nil
	}}
	for n := range 4 {
		got, err := stateres.Resolve(stateres.V21, rules, r.Create, slices.Repeat(r.Sets[:1], n), nil, stateres.Options{})
		want := r.Sets[0]
		if n == 0 {
			want = map[Key]string{}
		}
		if err != nil || !maps.Equal(got, want) {
			t.Errorf("%d times: %v, %v", n, got, err)
		}
	}
}

// V22: events that cite each other are an error.
func TestCycle(t *testing.T) {
	for name, alg := range algorithms {
		r := vector("V1").Room("12")
		r.Events["$j1"].AuthEvents = append(r.Events["$j1"].AuthEvents, "$j2")
		r.Events["$j2"].AuthEvents = append(r.Events["$j2"].AuthEvents, "$j1")
		_, err := stateres.Resolve(alg, rulesOf("12"), r.Create, r.Sets, r.Events, stateres.Options{})
		if !errors.Is(err, stateres.ErrAuthCycle) {
			t.Errorf("algorithm %s: %v", name, err)
		}
	}
	r := vector("V1").Room("12")
	r.Events["$j1"].AuthEvents = []string{"$j1"}
	if _, err := stateres.Resolve(stateres.V21, rulesOf("12"), r.Create, r.Sets, r.Events, stateres.Options{}); !errors.Is(err, stateres.ErrAuthCycle) {
		t.Error("an event that cites itself:", err)
	}
}

// V23: a missing event of the auth chains is an error, unless Lenient is set.
func TestMissing(t *testing.T) {
	for name, alg := range algorithms {
		r := vector("V5").Room("12")
		delete(r.Events, "$p2")
		_, err := stateres.Resolve(alg, rulesOf("12"), r.Create, r.Sets, r.Events, stateres.Options{})
		var missing *stateres.MissingError
		if !errors.As(err, &missing) || !slices.Equal(missing.IDs, []string{"$p2"}) {
			t.Errorf("algorithm %s: %v", name, err)
		}
		got, err := stateres.Resolve(alg, rulesOf("12"), r.Create, r.Sets, r.Events, stateres.Options{Lenient: true})
		if err != nil || got[Key{Type: "m.room.power_levels"}] != "$p1" || got[Key{Type: "m.room.member", StateKey: "@e:one"}] != "$e2" {
			t.Errorf("algorithm %s, lenient: %v, %v", name, got, err)
		}
	}
	r := vector("V5").Room("12")
	delete(r.Events, "$p3")
	delete(r.Events, "$e1")
	_, err := stateres.Resolve(stateres.V21, rulesOf("12"), r.Create, r.Sets, r.Events, stateres.Options{})
	var missing *stateres.MissingError
	if !errors.As(err, &missing) || !slices.Equal(missing.IDs, []string{"$e1", "$p3"}) {
		t.Errorf("two missing: %v", err)
	}
}
