package redactions_test

import (
	"net/http"
	"net/url"
	"slices"
	"testing"

	"github.com/tidwall/gjson"

	"github.com/matrix-org/dendrite/futures/test/rig"
)

// TestRefusals: /send refuses what /redact refuses, and a refused redaction has no effect.
func TestRefusals(t *testing.T) {
	forVersions(t, func(s *scene) {
		alices := s.message(s.alice, "alice's")
		elsewhere := s.alice.Send(s.alice.CreateRoom(nil), "m.room.message", rig.Text("elsewhere"))
		create := s.stateID("m.room.create")
		for name, way := range map[string]func(*rig.User, string, url.Values) rig.Response{"redact": s.redact, "send": s.send} {
			s.wants(way(s.bob, alices, nil), 403, "M_FORBIDDEN")
			s.wants(way(s.bob, "$unknown", nil), 404, "M_NOT_FOUND")
			s.wants(way(s.alice, elsewhere, nil), 400, "M_INVALID_PARAM")
			s.wants(way(s.alice, create, nil), 403, "M_FORBIDDEN")
			if unknown := "$of_" + name; s.wants(way(s.alice, unknown, nil), 200, "").JSON.Get("event_id").Str == "" {
				s.Errorf("by %s, a moderator's redaction of an event that is still to come has no ID", name)
			}
			stranger := s.a.Register(s, "stranger"+name+s.room[1:5])
			s.wants(way(stranger, alices, nil), 403, "M_FORBIDDEN")
		}
		s.wants(s.redact(s.alice, alices, url.Values{"org.matrix.msc4140.delay": {"1000"}}), 400, "M_INVALID_PARAM")
		for _, content := range []any{map[string]any{}, map[string]any{"redacts": 1}, map[string]any{"redacts": ""}} {
			s.wants(s.alice.Do(http.MethodPut, s.at("v3", "send/m.room.redaction/"+s.alice.NextTxn()), nil, content), 400, "M_BAD_JSON")
		}
		path := s.at("v3", "redact/"+url.PathEscape(alices)+"/"+s.alice.NextTxn())
		s.wants(s.alice.Do(http.MethodPut, path, nil, map[string]any{"redacts": "$other"}), 400, "M_INVALID_PARAM")

		s.message(s.alice, "after it all")
		for _, user := range []*rig.User{s.alice, s.bob} {
			if e := s.event(user, alices); e.Get("content.body").Str != "alice's" {
				s.Errorf("%s sees %s", user.ID, e.Raw)
			}
		}
	})
}

// TestRepeats: a repeated transaction gets its first answer, even if the sender has lost the power since.
func TestRepeats(t *testing.T) {
	forVersions(t, func(s *scene) {
		target := s.message(s.bob, "bob's")
		path := s.at("v3", "redact/"+url.PathEscape(target)+"/once")
		first := s.wants(s.bob.Do(http.MethodPut, path, nil, map[string]any{}), 200, "")
		if again := s.wants(s.bob.Do(http.MethodPut, path, nil, "{"), 200, ""); string(again.Body) != string(first.Body) {
			s.Errorf("first %s, then %s", first.Body, again.Body)
		}
		s.seesRedacted(s.alice, target)
	})
}

// TestHistory: a user of a third server who joins later sees redacted events redacted in the history.
func TestHistory(t *testing.T) {
	c := rig.New(t, rig.Config{Federation: true})
	forVersions(t, func(s *scene) {
		var targets []string
		for i, by := range []*rig.User{s.alice, s.bob, s.bob} {
			target := s.message(by, "secret")
			s.wants(s.redact([]*rig.User{s.alice, s.bob, s.alice}[i], target, nil), 200, "")
			s.seesRedacted(s.alice, target)
			s.seesRedacted(s.bob, target)
			targets = append(targets, target)
		}
		s.message(s.alice, "last")
		carol := c.Register(s, "carol"+s.room[1:5])
		carol.Join(s.room, s.a.Name)
		var events []gjson.Result
		query := url.Values{"dir": {"b"}, "limit": {"100"}}
		for range 10 {
			r := s.wants(carol.Do(http.MethodGet, rig.Path("rooms", s.room, "messages"), query, nil), 200, "")
			events = append(events, r.JSON.Get("chunk").Array()...)
			if end := r.JSON.Get("end").Str; end != "" {
				query.Set("from", end)
			}
		}
		for _, target := range targets {
			at := slices.IndexFunc(events, func(e gjson.Result) bool { return e.Get("event_id").Str == target })
			if at < 0 {
				s.Errorf("carol does not find %s among %d events", target, len(events))
				continue
			}
			if e := events[at]; e.Get("content.body").Exists() || e.Get("unsigned.redacted_because.event_id").Str == "" {
				s.Errorf("carol finds %s", e.Raw)
			}
			if e := s.event(carol, target); e.Get("content.body").Exists() {
				s.Errorf("carol sees %s", e.Raw)
			}
		}
	})
}

// TestState: a redacted state event is redacted in all answers to clients.
func TestState(t *testing.T) {
	forVersions(t, func(s *scene) {
		topic := s.bob.SendState(s.room, "m.room.topic", "", map[string]any{"topic": "rude"})
		s.alice.WaitFor(s.room, func(e gjson.Result) bool { return e.Get("event_id").Str == topic }, patience)
		s.wants(s.redact(s.alice, topic, nil), 200, "")
		s.seesRedacted(s.alice, topic)
		s.seesRedacted(s.bob, topic)
		for _, user := range []*rig.User{s.alice, s.bob} {
			if content := user.GetState(s.room, "m.room.topic", ""); content.Get("topic").Exists() {
				s.Errorf("%s reads the topic %s", user.ID, content.Raw)
			}
			late := s.a.Login
			if user == s.bob {
				late = s.b.Login
			}
			filter := `{"room":{"timeline":{"limit":1}}}`
			r := s.wants(late(s, user).Do(http.MethodGet, rig.Path("sync"), url.Values{"filter": {filter}}, nil), 200, "")
			room := r.JSON.Get("rooms.join." + gjson.Escape(s.room))
			for _, e := range room.Get("state.events").Array() {
				if e.Get("type").Str == "m.room.topic" && e.Get("content.topic").Exists() {
					s.Errorf("the first sync of %s has %s", user.ID, e.Raw)
				}
			}
		}
	})
}

// stateID is the ID of a piece of state.
func (s *scene) stateID(eventType string) string {
	s.Helper()
	for _, e := range s.alice.Do(http.MethodGet, rig.Path("rooms", s.room, "state"), nil, nil).JSON.Array() {
		if e.Get("type").Str == eventType {
			return e.Get("event_id").Str
		}
	}
	s.Fatalf("the room has no %s", eventType)
	return ""
}
