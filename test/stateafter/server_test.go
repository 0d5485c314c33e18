package stateafter

import (
	"net/http"
	"net/url"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"github.com/matrix-org/dendrite/futures/test/rig"
)

func TestMain(m *testing.M) { rig.Main(m) }

// follow requests /sync with state_after, by its unstable name, until the room satisfies pred.
func follow(u *rig.User, room string, query url.Values, pred func(room gjson.Result) bool) (since string, err string) {
	query.Set("org.matrix.msc4222.use_state_after", "true")
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); query.Set("timeout", "2000") {
		r := u.Do(http.MethodGet, rig.Path("sync"), query, nil)
		if r.Status != http.StatusOK {
			return "", string(r.Body)
		}
		query.Set("since", r.JSON.Get("next_batch").String())
		shown := r.JSON.Get("rooms.join." + gjson.Escape(room))
		if shown.Get("state").Exists() {
			return "", "state is shown: " + shown.Raw
		}
		if pred(shown.Get(`org\.matrix\.msc4222\.state_after.events`)) {
			return query.Get("since"), ""
		}
	}
	return "", "it did not come"
}

// anything is a predicate for follow: any answer.
func anything(gjson.Result) bool { return true }

// has is a predicate for follow: state of that type and with that value.
func has(eventType, value string) func(gjson.Result) bool {
	return func(events gjson.Result) bool {
		return events.Get(`#(type=="`+eventType+`").content.v`).String() == value
	}
}

// A state future that fires is in state_after, although the timeline hides it and the filter is a stored one with a *.
func TestFutureInStateAfter(t *testing.T) {
	configs := map[string]rig.Config{"sqlite": {}}
	if rig.HasPostgres() {
		configs["postgres"] = rig.Config{Postgres: true}
	}
	for name, cfg := range configs {
		t.Run(name, func(t *testing.T) {
			alice := rig.New(t, cfg).Register(t, "alice")
			room := alice.CreateRoom(nil)
			filter := map[string]any{"room": map[string]any{
				"state": map[string]any{"types": []string{"org.example.*"}}, "timeline": map[string]any{"types": []string{}, "not_types": []string{"*"}},
			}}
			stored := alice.Do(http.MethodPost, rig.Path("user", alice.ID, "filter"), nil, filter).JSON.Get("filter_id").String()
			query := url.Values{"filter": {stored}}
			if _, err := follow(alice, room, query, anything); err != "" {
				t.Fatal(err)
			}
			alice.SendState(room, "m.room.topic", "", map[string]any{"topic": "filtered"})
			alice.StateFuture(room, "org.example.state", "", body("fired"), rig.Params{Timeout: time.Second})
			if _, err := follow(alice, room, query, has("org.example.state", "fired")); err != "" {
				t.Error(err)
			}
		})
	}
}

// State from federation, first the whole state of a join, is in state_after like local state.
func TestFederation(t *testing.T) {
	a, b := rig.New(t, rig.Config{Federation: true}), rig.New(t, rig.Config{Federation: true})
	alice, bob := a.Register(t, "alice"), b.Register(t, "bob")
	room := alice.CreateRoom(map[string]any{
		"preset":                       "public_chat",
		"power_level_content_override": map[string]any{"events": map[string]any{"org.example.state": 0}},
	})
	alice.SendState(room, "org.example.before", "", body("old"))
	queries := map[*rig.User]url.Values{alice: {}, bob: {}}
	if _, err := follow(bob, room, queries[bob], anything); err != "" {
		t.Fatal(err)
	}
	bob.Join(room, a.Name)
	if _, err := follow(bob, room, queries[bob], has("org.example.before", "old")); err != "" {
		t.Fatal(err)
	}
	if _, err := follow(alice, room, queries[alice], has("org.example.before", "old")); err != "" {
		t.Fatal(err)
	}
	bob.SendState(room, "org.example.state", "", body("bob's"))
	for _, u := range []*rig.User{alice, bob} {
		if _, err := follow(u, room, queries[u], has("org.example.state", "bob's")); err != "" {
			t.Errorf("%s: %s", u.ID, err)
		}
	}
}
