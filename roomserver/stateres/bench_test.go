package stateres_test

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/futures/roomserver/stateres"
	"github.com/matrix-org/dendrite/futures/test/model/resolution"
)

// allowAll replaces the rules, so that they cost nothing.
var allowAll = stateres.Rules{
	Allowed:  func(*Event, map[Key]*Event) error { return nil },
	Creators: stateres.CreatorsAboveAll,
}

// large is a room with long auth chains: each event cites five of the events before it. The sets agree on most of the
// state; the rest of the events are in conflict.
func large(events, conflicted, sets int) resolution.Room {
	r := resolution.Room{Version: "12", Events: make(map[string]*Event, events)}
	id := func(n int) string { return fmt.Sprintf("$%043d", n) }
	r.Create = &Event{ID: id(0), RoomID: "!r", Type: "m.room.create", Sender: "@u0:one", Content: []byte("{}")}
	r.Events[id(0)] = r.Create
	for n := 1; n < events; n++ {
		user := fmt.Sprintf("@u%d:one", n)
		e := &Event{
			ID: id(n), RoomID: "!r", Type: "m.room.member", StateKey: user, Sender: user,
			Content: []byte(`{"membership":"join","displayname":"user"}`), OriginServerTS: int64(n * 7919 % events),
		}
		switch {
		case n%50 == 1:
			e.Type, e.StateKey, e.Content = "m.room.power_levels", "", []byte(`{"users":{"@u1:one":50,"@u2:one":100}}`)
		case n%10 == 2:
			e.Sender, e.Content = "@u1:one", []byte(`{"membership":"leave"}`)
		}
		if n > 1 {
			e.AuthEvents = append(e.AuthEvents, id((n-2)/50*50+1)) // the latest power levels
		}
		for _, back := range []int{1, 2, 3, 5 + n%40} {
			if n > back {
				e.AuthEvents = append(e.AuthEvents, id(n-back))
			}
		}
		r.Events[e.ID] = e
	}
	r.Sets = largeSets(r, events, conflicted, sets, id)
	return r
}

func largeSets(r resolution.Room, events, conflicted, sets int, id func(int) string) []map[Key]string {
	all := make([]map[Key]string, sets)
	for s := range all {
		all[s] = map[Key]string{{Type: "m.room.create"}: r.Create.ID}
		for n := 1; n < events; n++ {
			e := r.Events[id(n)]
			if e.Type != "m.room.member" || n%2 != 0 && n < events-conflicted {
				continue
			}
			if n < events-conflicted || n%sets == s {
				all[s][e.Key()] = e.ID
			}
		}
	}
	return all
}

// ladder is a chain of diamonds: each one doubles the number of paths.
func ladder(diamonds int) resolution.Room {
	r := resolution.Room{Version: "12", Events: map[string]*Event{}}
	add := func(id, key string, auth ...string) {
		r.Events[id] = &Event{ID: id, RoomID: "!c", Type: "m.room.topic", StateKey: key, Sender: "@a:one", Content: []byte("{}"), AuthEvents: auth}
	}
	r.Create = &Event{ID: "$c", RoomID: "!c", Type: "m.room.create", Sender: "@a:one", Content: []byte("{}")}
	r.Events["$c"] = r.Create
	add("$0", "")
	for n := range diamonds {
		below := fmt.Sprintf("$%d", n)
		add(fmt.Sprintf("$l%d", n), "l"+below, below)
		add(fmt.Sprintf("$r%d", n), "r"+below, below)
		add(fmt.Sprintf("$%d", n+1), "", fmt.Sprintf("$l%d", n), fmt.Sprintf("$r%d", n))
	}
	top := fmt.Sprintf("$%d", diamonds)
	r.Sets = []map[Key]string{
		{{Type: "m.room.create"}: "$c", {Type: "m.room.topic"}: "$0"},
		{{Type: "m.room.create"}: "$c", {Type: "m.room.topic"}: top},
	}
	return r
}

// BenchmarkLarge has 10 000 conflicted events, auth chains of 50 000 events with five edges each, and four sets. The
// target is 250 ms and 64 MiB without rules.
func BenchmarkLarge(b *testing.B) {
	r := large(50_000, 10_000, 4)
	var trace stateres.Trace
	if _, err := stateres.Resolve(stateres.V21, allowAll, r.Create, r.Sets, r.Events, stateres.Options{Trace: &trace}); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := stateres.Resolve(stateres.V21, allowAll, r.Create, r.Sets, r.Events, stateres.Options{}); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(len(trace.Full)), "conflicted")
}

// BenchmarkLadder has 2^40 paths between its two ends.
func BenchmarkLadder(b *testing.B) {
	r := ladder(40)
	for b.Loop() {
		if _, err := stateres.Resolve(stateres.V21, allowAll, r.Create, r.Sets, r.Events, stateres.Options{}); err != nil {
			b.Fatal(err)
		}
	}
}

// The limit is far above the times of the benchmarks, because tests run on slow and busy machines with the race detector.
// An algorithm that follows every path exceeds it.
func TestLargeRoomsInTime(t *testing.T) {
	for name, r := range map[string]resolution.Room{
		"large":    large(50_000, 10_000, 4),
		"ladder":   ladder(40),
		"straight": ladder(10_000),
	} {
		start := time.Now()
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		var trace stateres.Trace
		if _, err := stateres.Resolve(stateres.V21, allowAll, r.Create, r.Sets, r.Events, stateres.Options{Trace: &trace}); err != nil {
			t.Error(name, err)
		}
		runtime.ReadMemStats(&after)
		took := time.Since(start)
		t.Logf("%s: %d events in conflict, %v, %d KiB allocated", name, len(trace.Full), took.Round(time.Microsecond), (after.TotalAlloc-before.TotalAlloc)>>10)
		if took > time.Minute {
			t.Errorf("%s took %v", name, took)
		}
	}
}
