package rig_test

import (
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"github.com/matrix-org/dendrite/futures/test/rig"
)

func TestMain(m *testing.M) { rig.Main(m) }

// TestLives runs a server several times: each run knows what happened in the earlier ones.
func TestLives(t *testing.T) {
	s := rig.New(t, rig.Config{})
	alice, bob := s.Register(t, "alice"), s.Register(t, "bob")
	room := alice.CreateRoom(nil)
	bob.Join(room)
	first := alice.Send(room, "m.room.message", map[string]any{"msgtype": "m.text", "body": "one"})
	if seen := bob.WaitFor(room, rig.HasBody("one"), 10*time.Second); seen.Get("event_id").String() != first {
		t.Errorf("bob saw %s", seen.Raw)
	}

	s.Kill()
	if s.Running() {
		t.Error("the server runs on after it was killed")
	}
	s.Start()
	alice.SendState(room, "m.room.topic", "", map[string]any{"topic": "two"})
	if topic := bob.GetState(room, "m.room.topic", "").Get("topic").String(); topic != "two" {
		t.Errorf("the topic is %q", topic)
	}
	if bob.GetState(room, "m.room.avatar", "").Exists() {
		t.Error("a piece of state nobody has set exists")
	}

	if code, took := s.Stop(); code != 0 || took > 15*time.Second {
		t.Errorf("the server stopped with exit code %d after %s", code, took)
	}
	s.Start()
	var last gjson.Result
	timeline := bob.Timeline(room)
	for _, event := range timeline {
		last = event
	}
	if last.Get("content.topic").String() != "two" || timeline[0].Get("type").String() != "m.room.create" {
		t.Errorf("the timeline ends with %s", last.Raw)
	}
}

// TestTwoServers runs two servers in parallel, on different ports and folders.
func TestTwoServers(t *testing.T) {
	one, two := rig.New(t, rig.Config{Federation: true}), rig.New(t, rig.Config{Federation: true})
	if one.Name == two.Name || one.URL == two.URL {
		t.Fatalf("both are called %s at %s", one.Name, one.URL)
	}
	alice, bob := one.Register(t, "alice"), two.Register(t, "bob")
	room := alice.CreateRoom(nil)
	bob.Join(room, one.Name)
	alice.Send(room, "m.room.message", map[string]any{"msgtype": "m.text", "body": "across"})
	bob.WaitFor(room, rig.HasBody("across"), 20*time.Second)
}

func TestPostgres(t *testing.T) {
	s := rig.New(t, rig.Config{Postgres: true})
	alice := s.Register(t, "alice")
	room := alice.CreateRoom(nil)
	s.Kill()
	s.Start()
	alice.Send(room, "m.room.message", map[string]any{"msgtype": "m.text", "body": "one"})
	alice.WaitFor(room, rig.HasBody("one"), 10*time.Second)
}
