package stateres_test

import (
	"bytes"
	"fmt"
	"go/parser"
	"go/token"
	"maps"
	"math/rand/v2"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/matrix-org/dendrite/futures/roomserver/stateres"
	"github.com/matrix-org/dendrite/futures/test/model/resolution"
	"pgregory.net/rapid"
)

// drawGraph draws an invalid room: events of all kinds that cite any earlier events, and sets of any events. It has
// shapes that no valid room has.
func drawGraph(t *rapid.T, maxEvents, maxSets int) resolution.Room {
	r := resolution.Room{Version: rapid.SampledFrom([]string{"11", "12"}).Draw(t, "version"), Events: map[string]*Event{}}
	users := []string{"@a:one", "@b:one", "@c:two", "@d:two"}
	r.Create = &Event{ID: "$c", RoomID: "!c", Type: "m.room.create", Sender: "@a:one", Content: []byte(`{"additional_creators":["@b:one"]}`)}
	r.Events["$c"] = r.Create
	ids := []string{}
	for n := range rapid.IntRange(4, maxEvents).Draw(t, "events") {
		e := &Event{ID: fmt.Sprintf("$%02d", n), RoomID: "!c", Sender: rapid.SampledFrom(users).Draw(t, "sender")}
		e.OriginServerTS = rapid.Int64Range(0, 9).Draw(t, "time")
		e.Rejected = rapid.IntRange(0, 9).Draw(t, "rejected") == 0
		var content string
		switch rapid.IntRange(0, 4).Draw(t, "type") {
		case 0:
			e.Type, content = "m.room.power_levels", rapid.SampledFrom([]string{"{}", `{"users":{"@c:two":50}}`, `{"users_default":50}`}).Draw(t, "levels")
		case 1:
			e.Type, content = "m.room.join_rules", rapid.SampledFrom([]string{`{"join_rule":"public"}`, `{"join_rule":"invite"}`}).Draw(t, "rule")
		case 2, 3:
			e.Type, e.StateKey = "m.room.member", rapid.SampledFrom(users).Draw(t, "member")
			content = fmt.Sprintf(`{"membership":%q}`, rapid.SampledFrom([]string{"join", "join", "leave", "ban", "invite"}).Draw(t, "membership"))
		default:
			e.Type, content = "m.room.topic", "{}"
		}
		e.Content = []byte(content)
		if len(ids) > 0 {
			e.AuthEvents = rapid.SliceOfNDistinct(rapid.SampledFrom(ids), 0, min(4, len(ids)), rapid.ID).Draw(t, "auth")
		}
		if r.Version == "11" {
			e.AuthEvents = append(e.AuthEvents, "$c")
		}
		ids = append(ids, e.ID)
		r.Events[e.ID] = e
	}
	for range rapid.IntRange(2, maxSets).Draw(t, "sets") {
		set := map[Key]string{{Type: "m.room.create"}: "$c"}
		for _, id := range rapid.SliceOfN(rapid.SampledFrom(ids), 1, 8).Draw(t, "set") {
			set[r.Events[id].Key()] = id
		}
		r.Sets = append(r.Sets, set)
	}
	return r
}

// drawRoom draws a valid room or an invalid one.
func drawRoom(t *rapid.T) resolution.Room {
	if rapid.Bool().Draw(t, "sense") {
		return resolution.Generate(rapid.Uint64().Draw(t, "seed")).Room
	}
	return drawGraph(t, 40, 5)
}

func mustResolve(t *rapid.T, alg stateres.Algorithm, r resolution.Room) (map[Key]string, stateres.Trace) {
	var trace stateres.Trace
	got, err := stateres.Resolve(alg, rulesOf(r.Version), r.Create, r.Sets, r.Events, stateres.Options{Trace: &trace})
	if err != nil {
		t.Fatal(err)
	}
	return got, trace
}

func drawAlgorithm(t *rapid.T) stateres.Algorithm {
	return rapid.SampledFrom([]stateres.Algorithm{stateres.V2, stateres.V21}).Draw(t, "algorithm")
}

// Compares Resolve with the model on invalid rooms.
func TestModelAgreesOnAnyGraph(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		r, alg := drawGraph(rt, 40, 5), drawAlgorithm(rt)
		got, trace := mustResolve(rt, alg, r)
		if want := modelOf(alg, r, stateres.Options{}).Resolve(); !maps.Equal(got, want) {
			rt.Error("the model differs:", difference(got, want))
		}
		checkResult(t, r, got, trace)
	})
}

// 9.1: the order of the sets and repeated sets do not matter. A result is resolved to itself.
func TestOrderIsIrrelevant(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		r, alg := drawRoom(rt), drawAlgorithm(rt)
		want, _ := mustResolve(rt, alg, r)
		other := r.Clone()
		other.Sets = append(other.Sets, other.Sets[rapid.IntRange(0, len(r.Sets)-1).Draw(rt, "twice")])
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "order"), 0))
		rng.Shuffle(len(other.Sets), func(i, j int) { other.Sets[i], other.Sets[j] = other.Sets[j], other.Sets[i] })
		if got, _ := mustResolve(rt, alg, other); !maps.Equal(got, want) {
			rt.Error("another order gives another result:", difference(got, want))
		}
		for n := 1; n <= 2; n++ {
			other.Sets = slices.Repeat([]map[Key]string{want}, n)
			if got, _ := mustResolve(rt, alg, other); !maps.Equal(got, want) {
				rt.Errorf("the result given %d times is resolved to another: %s", n, difference(got, want))
			}
		}
	})
}

// 9.4: version 2.1 replays at least what version 2 replays.
func TestVersion21ReplaysMore(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		r := drawRoom(rt)
		_, v2 := mustResolve(rt, stateres.V2, r)
		_, v21 := mustResolve(rt, stateres.V21, r)
		if lost := without(v2.Full, v21.Full); len(lost) > 0 {
			rt.Error("not in conflict under version 2.1:", lost)
		}
	})
}

// 9.4: if both versions replay the same events and read the same state for each, they give the same result.
func TestVersionsDifferForAReason(t *testing.T) {
	same := 0
	rapid.Check(t, func(rt *rapid.T) {
		r := drawRoom(rt)
		var results []map[Key]string
		var reads []string
		for _, alg := range []stateres.Algorithm{stateres.V2, stateres.V21} {
			var read []string
			rules := rulesOf(r.Version)
			allowed := rules.Allowed
			rules.Allowed = func(e *Event, state map[Key]*Event) error {
				for _, k := range slices.SortedFunc(maps.Keys(state), func(a, b Key) int {
					return strings.Compare(a.Type+a.StateKey, b.Type+b.StateKey)
				}) {
					read = append(read, state[k].ID)
				}
				read = append(read, "for", e.ID)
				return allowed(e, state)
			}
			got, err := stateres.Resolve(alg, rules, r.Create, r.Sets, r.Events, stateres.Options{})
			if err != nil {
				rt.Fatal(err)
			}
			results, reads = append(results, got), append(reads, strings.Join(read, " "))
		}
		if reads[0] != reads[1] {
			return
		}
		same++
		if !maps.Equal(results[0], results[1]) {
			rt.Error("both versions read the same, but the results differ:", difference(results[0], results[1]))
		}
	})
	if same == 0 {
		t.Error("both versions never read the same")
	}
}

// 9.5: the subgraph equals the result of a search along all paths. The auth difference equals that of plain sets, even
// for more sets than a machine word has bits.
func TestGraphAgainstNaiveSets(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		r := drawGraph(rt, 12, rapid.SampledFrom([]int{2, 5, 70}).Draw(rt, "most sets"))
		for _, opts := range []stateres.Options{{}, {ChainExcludesSelf: true}} {
			var trace stateres.Trace
			opts.Trace = &trace
			if _, err := stateres.Resolve(stateres.V21, rulesOf(r.Version), r.Create, r.Sets, r.Events, opts); err != nil {
				rt.Fatal(err)
			}
			if len(trace.Conflicted) == 0 {
				return
			}
			model := modelOf(stateres.V21, r, opts)
			for what, pair := range map[string][2]string{
				"conflicted set":   {sorted(trace.Conflicted), sorted(slices.Collect(maps.Keys(model.Conflicted())))},
				"auth difference":  {sorted(trace.AuthDifference), sorted(slices.Collect(maps.Keys(model.AuthDifference())))},
				"subgraph":         {sorted(trace.Subgraph), sorted(slices.Collect(maps.Keys(model.Subgraph())))},
				"subgraph, search": {sorted(trace.Subgraph), sorted(allPaths(r, trace.Conflicted))},
			} {
				if pair[0] != pair[1] {
					rt.Errorf("%s is %q, want %q", what, pair[0], pair[1])
				}
			}
		}
	})
}

// allPaths follows every path from every conflicted event, and returns the events on paths that end in a conflicted event.
func allPaths(r resolution.Room, conflicted []string) []string {
	on := map[string]bool{}
	var follow func(path []string)
	follow = func(path []string) {
		last := path[len(path)-1]
		if slices.Contains(conflicted, last) {
			for _, id := range path {
				on[id] = true
			}
		}
		for _, a := range r.Events[last].AuthEvents {
			follow(append(slices.Clone(path), a))
		}
	}
	for _, id := range conflicted {
		follow([]string{id})
	}
	return slices.Collect(maps.Keys(on))
}

// 9.7: if users and events are renamed and keep their order, the result is the same with the new names.
func TestRenaming(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		r, alg := drawRoom(rt), drawAlgorithm(rt)
		want, _ := mustResolve(rt, alg, r)
		renameUser := strings.NewReplacer(":one", ":eins", ":two", ":zwei", ":three", ":drei").Replace
		renameID := func(id string) string { return "$new" + id[1:] }
		renameAll := func(state map[Key]string) map[Key]string {
			other := map[Key]string{}
			for k, id := range state {
				other[Key{Type: k.Type, StateKey: renameUser(k.StateKey)}] = renameID(id)
			}
			return other
		}
		other := resolution.Room{Version: r.Version, Events: map[string]*Event{}}
		for id, e := range r.Events {
			n := *e
			n.ID, n.Sender, n.StateKey, n.Value = renameID(id), renameUser(e.Sender), renameUser(e.StateKey), nil
			n.Content = []byte(renameUser(string(e.Content)))
			n.AuthEvents, n.PrevEvents = nil, nil
			for _, a := range e.AuthEvents {
				n.AuthEvents = append(n.AuthEvents, renameID(a))
			}
			for _, p := range e.PrevEvents {
				n.PrevEvents = append(n.PrevEvents, renameID(p))
			}
			other.Events[n.ID] = &n
		}
		other.Create = other.Events[renameID(r.Create.ID)]
		for _, set := range r.Sets {
			other.Sets = append(other.Sets, renameAll(set))
		}
		if got, _ := mustResolve(rt, alg, other); !maps.Equal(got, renameAll(want)) {
			rt.Error("other names give another result:", difference(got, renameAll(want)))
		}
	})
}

// Concurrent calls share nothing and do not change their arguments. The race detector finds what the comparison misses.
func TestCallsShareNothing(t *testing.T) {
	r := resolution.Generate(7).Room
	before := r.Clone()
	want, err := stateres.Resolve(stateres.V21, rulesOf(r.Version), r.Create, r.Sets, r.Events, stateres.Options{})
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			got, err := stateres.Resolve(stateres.V21, rulesOf(r.Version), r.Create, r.Sets, r.Events, stateres.Options{})
			if err != nil || !maps.Equal(got, want) {
				t.Error("a concurrent call has another result:", err)
			}
			clear(got)
		})
	}
	all.Wait()
	if !reflect.DeepEqual(r, before) {
		t.Error("the arguments were changed")
	}
}

// The package reads only its arguments: it imports no package that could read anything else.
func TestImportsAreHarmless(t *testing.T) {
	harmless := []string{"bytes", "cmp", "container/heap", "encoding/json", "errors", "fmt", "maps", "math", "math/bits", "slices", "strconv", "strings"}
	files, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if !strings.HasSuffix(f.Name(), ".go") || strings.HasSuffix(f.Name(), "_test.go") {
			continue
		}
		source, err := os.ReadFile(f.Name())
		if err != nil {
			t.Fatal(err)
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), f.Name(), source, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range parsed.Imports {
			if !slices.Contains(harmless, strings.Trim(i.Path.Value, `"`)) {
				t.Errorf("%s imports %s", f.Name(), i.Path.Value)
			}
		}
		if bytes.Contains(source, []byte("panic(")) || bytes.Contains(source, []byte("go func")) {
			t.Errorf("%s panics or starts goroutines", f.Name())
		}
	}
}
