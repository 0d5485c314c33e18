package roomv12

import (
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"github.com/matrix-org/dendrite/futures/test/rig"
)

// newScene is a scene in a room of version 12 in which only creators may send messages.
func newScene(t *testing.T, s *rig.Server, users *atomic.Int64) *rig.Scene {
	scene := rig.NewScene(t, s, users)
	scene.Room = mustCreate(t, scene.Alice, public(object{"power_level_content_override": object{"events_default": 100}}))
	scene.Bob.Join(scene.Room)
	return scene
}

// TestFutures checks that a creator's futures have a creator's power when they fire.
func TestFutures(t *testing.T) {
	onEach(t, func(t *testing.T, server *rig.Server) {
		var users atomic.Int64
		t.Run("message", func(t *testing.T) {
			s := newScene(t, server, &users)
			s.Alice.SendFuture(s.Room, "m.room.message", rig.Text("fires"), rig.Params{Timeout: 200 * time.Millisecond})
			s.Message("delayed", 200*time.Millisecond)
			s.Sees("fires")
			s.Sees("delayed")
		})
		t.Run("state over a restart", func(t *testing.T) {
			s := newScene(t, server, &users)
			id := s.State("m.room.history_visibility", "", "x", time.Second)
			s.ID(s.Alice.Delay(s.Room, "state/m.room.topic/", object{"topic": "late"}, time.Second))
			server.Stop()
			server.Start()
			s.Eventually("the topic", func() bool { return s.Alice.GetState(s.Room, "m.room.topic", "").Get("topic").Str == "late" })
			s.Finalised(id)
		})
		t.Run("power levels that name a creator", func(t *testing.T) {
			s := newScene(t, server, &users)
			before := powerLevels(s.Alice, s.Room)
			content := with(t, before, "users", object{s.Alice.ID: 100})
			id := s.ID(s.Alice.Delay(s.Room, "state/m.room.power_levels/", content, 200*time.Millisecond))
			end := s.Finalised(id)
			if code := end.Get("error.errcode").Str; code != "M_FORBIDDEN" {
				t.Errorf("it has ended with %s", end.Raw)
			}
			if now := powerLevels(s.Alice, s.Room).Raw; now != before.Raw {
				t.Errorf("the power levels are %s", now)
			}
			s.Alice.Send(s.Room, "m.room.message", rig.Text("unharmed"))
		})
		t.Run("redaction of another's message", func(t *testing.T) {
			s := newScene(t, server, &users)
			ok(t, "power levels", put(s.Alice, s.Room, "m.room.power_levels", "", with(t, powerLevels(s.Alice, s.Room), "events_default", 0)))
			target := s.Bob.Send(s.Room, "m.room.message", rig.Text("goes"))
			refused := s.Bob.Send(s.Room, "m.room.message", rig.Text("stays"))
			s.ID(s.Alice.Delay(s.Room, "send/m.room.redaction/"+s.Alice.NextTxn(), object{"redacts": target}, 200*time.Millisecond))
			body := func(id string) gjson.Result {
				return s.Bob.Do(http.MethodGet, rig.Path("rooms", s.Room, "event", id), nil, nil).JSON.Get("content.body")
			}
			s.Eventually("the redaction", func() bool { return !body(target).Exists() })
			if body(refused).Str != "stays" {
				t.Error("the other message is redacted too")
			}
		})
	})
}

// TestRedactByAdditionalCreator checks that such a creator's redaction of another's message is carried out.
func TestRedactByAdditionalCreator(t *testing.T) {
	s := rig.New(t, rig.Config{})
	alice, bob, charlie := s.Register(t, "alice"), s.Register(t, "bob"), s.Register(t, "charlie")
	room := mustCreate(t, alice, public(object{"creation_content": object{"additional_creators": []string{charlie.ID}}}))
	bob.Join(room)
	charlie.Join(room)
	target := bob.Send(room, "m.room.message", rig.Text("goes"))
	ok(t, "redact", charlie.Do(http.MethodPut, rig.Path("rooms", room, "redact", target, "1"), nil, object{}))
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		event := bob.Do(http.MethodGet, rig.Path("rooms", room, "event", target), nil, nil).JSON
		if event.Get("content").Raw == "{}" {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("the message is still %s", event.Raw)
		}
	}
}
