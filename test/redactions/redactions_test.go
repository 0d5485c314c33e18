// Package redactions tests that a redaction has the same effect on every server of a room, in rooms of all versions and
// for all ways to send it. Since version 11 the ID of the redacted event is in the content of the redaction; before it
// was beside the content. Clients see it in both places, servers only in the right one.
package redactions_test

import (
	"net/http"
	"net/url"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"github.com/matrix-org/dendrite/futures/test/rig"
)

func TestMain(m *testing.M) { rig.Main(m) }

const patience = 30 * time.Second

// versions are the room versions to test: the last one with the old form, and those with the new one.
var versions = []string{"10", "11", "12"}

// A scene is a room of alice on server A that bob on server B has joined.
type scene struct {
	*testing.T
	a, b       *rig.Server
	alice, bob *rig.User
	room       string
}

// forVersions runs the test in a room of each version, on the same two servers.
func forVersions(t *testing.T, f func(*scene)) {
	a, b := rig.New(t, rig.Config{Federation: true}), rig.New(t, rig.Config{Federation: true})
	for _, version := range versions {
		t.Run("version "+version, func(t *testing.T) {
			s := &scene{T: t, a: a, b: b, alice: a.Register(t, "alice"+version), bob: b.Register(t, "bob"+version)}
			s.room = s.alice.CreateRoom(map[string]any{
				"preset": "public_chat", "room_version": version,
				// Every member can change the name, so that bob has state of his own.
				"power_level_content_override": map[string]any{"events": map[string]any{"m.room.topic": 0}},
			})
			s.bob.Join(s.room, a.Name)
			f(s)
		})
	}
}

// message sends a message and returns when both have seen it.
func (s *scene) message(by *rig.User, body string) (id string) {
	s.Helper()
	id = by.Send(s.room, "m.room.message", rig.Text(body))
	for _, user := range []*rig.User{s.alice, s.bob} {
		user.WaitFor(s.room, rig.HasBody(body), patience)
	}
	return id
}

func (s *scene) at(version, rest string) string {
	return "/_matrix/client/" + version + "/rooms/" + url.PathEscape(s.room) + "/" + rest
}

func (s *scene) redact(by *rig.User, target string, query url.Values) rig.Response {
	s.Helper()
	path := s.at("v3", "redact/"+url.PathEscape(target)+"/"+by.NextTxn())
	return by.Do(http.MethodPut, path, query, map[string]any{"reason": "because"})
}

func (s *scene) send(by *rig.User, target string, query url.Values) rig.Response {
	s.Helper()
	return by.Do(http.MethodPut, s.at("v3", "send/m.room.redaction/"+by.NextTxn()), query, redaction(target))
}

func redaction(target string) map[string]any {
	return map[string]any{"redacts": target, "reason": "because"}
}

func (s *scene) wants(r rig.Response, status int, errcode string) rig.Response {
	s.Helper()
	if r.Status != status || r.ErrCode() != errcode {
		s.Errorf("got %d %s, want %d %s", r.Status, r.Body, status, errcode)
	}
	return r
}

// event returns an event as the user sees it now.
func (s *scene) event(user *rig.User, id string) gjson.Result {
	s.Helper()
	r := user.Do(http.MethodGet, rig.Path("rooms", s.room, "event", id), nil, nil)
	if r.Status != http.StatusOK {
		s.Fatalf("%s gets event %s: %d %s", user.ID, id, r.Status, r.Body)
	}
	return r.JSON
}

// seesRedacted waits until the user sees the redaction of an event, and checks the event in the stream, as a single
// event, and in the history.
func (s *scene) seesRedacted(user *rig.User, target string) {
	s.Helper()
	redaction := user.WaitFor(s.room, func(e gjson.Result) bool {
		return e.Get("type").Str == "m.room.redaction" && e.Get("content.redacts").Str == target
	}, patience)
	if top := redaction.Get("redacts").Str; top != target {
		s.Errorf("%s sees a redaction of %q beside the content: %s", user.ID, top, redaction.Raw)
	}
	for _, e := range user.Timeline(s.room) {
		if e.Get("event_id").Str == target {
			s.checkRedacted(user, "history", e, redaction)
		}
	}
	s.checkRedacted(user, "/event", s.event(user, target), redaction)
}

func (s *scene) checkRedacted(user *rig.User, where string, target, redaction gjson.Result) {
	s.Helper()
	because := target.Get("unsigned.redacted_because")
	if target.Get("content.body").Exists() || because.Get("event_id").Str != redaction.Get("event_id").Str {
		s.Errorf("by %s, %s sees %s", where, user.ID, target.Raw)
		return
	}
	id := target.Get("event_id").Str
	if because.Get("redacts").Str != id || because.Get("content.redacts").Str != id {
		s.Errorf("by %s, %s sees a redaction of another event: %s", where, user.ID, because.Raw)
	}
}

// TestRedactions: all ways to send a redaction, by its target's sender and by a user with the power, and what users of
// both servers see.
func TestRedactions(t *testing.T) {
	delayed := func(s *scene, by *rig.User, target string) rig.Response {
		return by.Delay(s.room, "send/m.room.redaction/"+by.NextTxn(), redaction(target), 300*time.Millisecond)
	}
	ways := map[string]func(*scene, *rig.User, string) rig.Response{
		"redact":       func(s *scene, by *rig.User, target string) rig.Response { return s.redact(by, target, nil) },
		"send":         func(s *scene, by *rig.User, target string) rig.Response { return s.send(by, target, nil) },
		"generation 1": delayed,
		"generation 2": func(s *scene, by *rig.User, target string) rig.Response {
			return by.Do(http.MethodPut, s.at("v3", "delayed_event/m.room.redaction/"+by.NextTxn()), nil,
				map[string]any{"delay_ms": 300, "content": redaction(target)})
		},
		"generation 0": func(s *scene, by *rig.User, target string) rig.Response {
			return by.Do(http.MethodPut, s.at("v3", "send_future/m.room.redaction/"+by.NextTxn()),
				rig.Params{Timeout: 300 * time.Millisecond}.Query(), redaction(target))
		},
	}
	forVersions(t, func(s *scene) {
		for name, way := range ways {
			own, others := s.message(s.bob, name+": own"), s.message(s.bob, name+": others'")
			s.wants(way(s, s.bob, own), 200, "")
			s.wants(way(s, s.alice, others), 200, "")
			for _, user := range []*rig.User{s.alice, s.bob} {
				s.seesRedacted(user, own)
				s.seesRedacted(user, others)
			}
		}
	})
}
