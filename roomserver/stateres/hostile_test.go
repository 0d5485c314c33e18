package stateres_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/matrix-org/dendrite/futures/roomserver/stateres"
	"github.com/matrix-org/dendrite/futures/test/model/resolution"
)

func TestErrors(t *testing.T) {
	for name, c := range map[string]struct {
		change func(r *resolution.Room)
		want   error
	}{
		"no create event":       {func(r *resolution.Room) { r.Create = nil }, stateres.ErrBadInput},
		"another create event":  {func(r *resolution.Room) { r.Create = r.Events["$ma"] }, stateres.ErrBadInput},
		"rejected create event": {func(r *resolution.Room) { r.Create.Rejected = true }, stateres.ErrBadInput},
		"event under another key": {func(r *resolution.Room) {
			r.Sets[0][Key{Type: "m.room.topic"}] = "$j1"
		}, stateres.ErrBadInput},
		"event under another ID": {func(r *resolution.Room) { r.Events["$j1"].ID = "$j7" }, stateres.ErrBadInput},
		"foreign event in a set": {func(r *resolution.Room) { r.Events["$j2"].RoomID = "!d" }, stateres.ErrForeignEvent},
		"foreign event in a chain": {func(r *resolution.Room) {
			r.Events["$x"] = &Event{ID: "$x", RoomID: "!d"}
			r.Events["$mb"].AuthEvents = append(r.Events["$mb"].AuthEvents, "$x")
		}, stateres.ErrForeignEvent},
	} {
		for _, alg := range algorithms {
			r := vector("V1").Room("12")
			c.change(&r)
			got, err := stateres.Resolve(alg, rulesOf("12"), r.Create, r.Sets, r.Events, stateres.Options{})
			if !errors.Is(err, c.want) || got != nil {
				t.Errorf("%s: %v, %v", name, got, err)
			}
		}
	}
	r := vector("V1").Room("12")
	if _, err := stateres.Resolve(3, rulesOf("12"), r.Create, r.Sets, r.Events, stateres.Options{}); !errors.Is(err, stateres.ErrBadInput) {
		t.Error("algorithm 3:", err)
	}
	if _, err := stateres.Resolve(stateres.V2, stateres.Rules{}, r.Create, r.Sets, r.Events, stateres.Options{}); !errors.Is(err, stateres.ErrBadInput) {
		t.Error("no rules:", err)
	}
}

func TestForRoomVersion(t *testing.T) {
	for version, want := range map[string]struct {
		alg        stateres.Algorithm
		creators   stateres.Creators
		restricted bool
	}{
		"2":  {stateres.V2, stateres.CreatorInContent, false},
		"7":  {stateres.V2, stateres.CreatorInContent, false},
		"8":  {stateres.V2, stateres.CreatorInContent, true},
		"10": {stateres.V2, stateres.CreatorInContent, true},
		"11": {stateres.V2, stateres.CreatorIsSender, true},
		"12": {stateres.V21, stateres.CreatorsAboveAll, true},
	} {
		alg, rules, err := stateres.ForRoomVersion(version, nil)
		if err != nil || alg != want.alg || rules.Creators != want.creators || rules.RestrictedJoins != want.restricted {
			t.Errorf("room version %s: %v, %+v, %v", version, alg, rules, err)
		}
	}
	for _, version := range []string{"", "1", "13", "012", "org.matrix.hydra.11", "12.0"} {
		if _, _, err := stateres.ForRoomVersion(version, nil); !errors.Is(err, stateres.ErrBadInput) {
			t.Errorf("room version %q: %v", version, err)
		}
	}
}

// Checks the order of power events by two concurrent changes of the join rules: the last one wins.
func TestPowerThroughLevels(t *testing.T) {
	for name, c := range map[string]struct {
		creators stateres.Creators
		create   string
		levels   string
		bobFirst bool // Bob's power is above 10, Carol's
	}{
		"integer":                  {stateres.CreatorIsSender, `{}`, `{"users":{"@b:one":11,"@c:one":10}}`, true},
		"string":                   {stateres.CreatorInContent, `{}`, `{"users":{"@b:one":" +11 ","@c:one":10}}`, true},
		"fraction":                 {stateres.CreatorIsSender, `{}`, `{"users":{"@b:one":11.9,"@c:one":10}}`, true},
		"null is the default":      {stateres.CreatorIsSender, `{}`, `{"users_default":11,"users":{"@b:one":null,"@c:one":10}}`, true},
		"nonsense is zero":         {stateres.CreatorIsSender, `{}`, `{"users_default":11,"users":{"@b:one":{},"@c:one":10}}`, false},
		"too large is zero":        {stateres.CreatorIsSender, `{}`, `{"users":{"@b:one":1e400,"@c:one":10}}`, false},
		"case matters":             {stateres.CreatorIsSender, `{}`, `{"Users":{"@b:one":11},"users":{"@c:one":10}}`, false},
		"no object":                {stateres.CreatorIsSender, `{}`, `[]`, false},
		"additional creator":       {stateres.CreatorsAboveAll, `{"additional_creators":[7,"@b:one"]}`, `{"users":{"@c:one":9007199254740991}}`, true},
		"no additional creators":   {stateres.CreatorsAboveAll, `{"additional_creators":"@b:one"}`, `{"users":{"@c:one":10}}`, false},
		"no levels":                {stateres.CreatorInContent, `{"creator":"@b:one"}`, ``, true},
		"no levels, other creator": {stateres.CreatorIsSender, `{"creator":"@b:one"}`, ``, false},
	} {
		r := resolution.Room{Events: map[string]*Event{}}
		add := func(e Event) {
			e.RoomID = "!c"
			r.Events[e.ID] = &e
		}
		add(Event{ID: "$c", Type: "m.room.create", Sender: "@a:one", Content: []byte(c.create)})
		r.Create = r.Events["$c"]
		auth := []string{"$c"}
		if c.levels != "" {
			add(Event{ID: "$p", Type: "m.room.power_levels", Sender: "@a:one", Content: []byte(c.levels), AuthEvents: auth})
			auth = append(auth, "$p")
		}
		// Bob's event is younger, so it comes first only if he has more power.
		add(Event{ID: "$jb", Type: "m.room.join_rules", Sender: "@b:one", AuthEvents: auth, OriginServerTS: 2})
		add(Event{ID: "$jc", Type: "m.room.join_rules", Sender: "@c:one", AuthEvents: auth, OriginServerTS: 1})
		r.Sets = []map[Key]string{r.State("c jb"), r.State("c jc")}
		var trace stateres.Trace
		rules := allowAll
		rules.Creators = c.creators
		if _, err := stateres.Resolve(stateres.V2, rules, r.Create, r.Sets, r.Events, stateres.Options{Trace: &trace}); err != nil {
			t.Fatal(name, err)
		}
		if got := trace.PowerOrder[len(trace.PowerOrder)-2] == "$jb"; got != c.bobFirst {
			t.Errorf("%s: the order is %v", name, trace.PowerOrder)
		}
	}
}

// FuzzHostile resolves a room with an event that the fuzzer chooses: any content, any auth events, even itself or missing
// ones. Resolve must return a result or an error.
func FuzzHostile(f *testing.F) {
	for _, content := range []string{
		``, `null`, `[]`, `{"users":null}`, `{"users":{"@a:one":1e999,"@b:one":"x"},"users_default":{}}`, `{"membership":7}`,
		`{"membership":"invite","third_party_invite":{"signed":{"token":[]}}}`, `{"membership":"join","join_authorised_via_users_server":{}}`,
		`{"membership":"join","membership":"ban"}`, `{"users":{"@a:one":123456789012345678901234567890}}`, `{"additional_creators":[null,1]}`,
	} {
		f.Add("m.room.member", "@b:one", content, "j1 p1", int64(5), false)
		f.Add("m.room.power_levels", "", content, "x ma", int64(-1), true)
		f.Add("m.room.create", "", content, "nowhere j2", int64(1)<<62, false)
		f.Add("m.room.join_rules", "", content, "j2 al", int64(0), true)
	}
	f.Fuzz(func(t *testing.T, eventType, stateKey, content, auth string, ts int64, lenient bool) {
		for _, version := range []string{"11", "12"} {
			r := vector("V1").Room(version)
			x := &Event{ID: "$x", RoomID: "!c", Type: eventType, StateKey: stateKey, Sender: "@b:one", Content: []byte(content), OriginServerTS: ts}
			for name := range strings.FieldsSeq(auth) {
				x.AuthEvents = append(x.AuthEvents, "$"+name)
			}
			r.Events["$x"] = x
			r.Events["$j2"].AuthEvents = append(r.Events["$j2"].AuthEvents, "$x")
			r.Sets[0][x.Key()] = "$x"
			if eventType == "m.room.create" {
				r.Create.Content = []byte(content)
			}
			for _, alg := range algorithms {
				for _, rules := range []stateres.Rules{rulesOf(version), allowAll} {
					got, err := stateres.Resolve(alg, rules, r.Create, r.Sets, r.Events, stateres.Options{Lenient: lenient})
					if (got == nil) == (err == nil) {
						t.Error("neither a result nor an error, or both:", got, err)
					}
				}
			}
		}
	})
}

// Resolves a chain of 100 000 power levels, which must be walked once and without recursion.
func TestLongMainline(t *testing.T) {
	r := resolution.Room{Events: map[string]*Event{}}
	r.Create = &Event{ID: "$c", RoomID: "!c", Type: "m.room.create", Sender: "@a:one"}
	r.Events["$c"] = r.Create
	previous := "$c"
	const length = 100_000
	for n := range length {
		id := fmt.Sprintf("$p%d", n)
		r.Events[id] = &Event{ID: id, RoomID: "!c", Type: "m.room.power_levels", Sender: "@a:one", AuthEvents: []string{previous}}
		r.Events["$t"+id] = &Event{ID: "$t" + id, RoomID: "!c", Type: "m.room.topic", StateKey: id, Sender: "@a:one", AuthEvents: []string{id}}
		previous = id
	}
	a, b := map[Key]string{{Type: "m.room.create"}: "$c"}, map[Key]string{{Type: "m.room.create"}: "$c"}
	a[Key{Type: "m.room.power_levels"}], b[Key{Type: "m.room.power_levels"}] = "$p0", "$p10"
	for n := range length {
		id := fmt.Sprintf("$p%d", n)
		a[Key{Type: "m.room.topic", StateKey: id}] = "$t" + id
	}
	for _, alg := range algorithms {
		got, err := stateres.Resolve(alg, allowAll, r.Create, []map[Key]string{a, b}, r.Events, stateres.Options{})
		if err != nil || len(got) != length+2 {
			t.Error(len(got), err)
		}
	}
}
