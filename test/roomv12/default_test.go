package roomv12

import (
	"net/http"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/futures/test/rig"
)

// TestDefaultVersion checks the version of new rooms, and what clients are told about it.
func TestDefaultVersion(t *testing.T) {
	for name, test := range map[string]struct {
		set  map[string]any
		want string
	}{
		"quick start":  {nil, "12"},
		"unspecified":  {map[string]any{"room_server": object{"database": object{"connection_string": "file:roomserver.db"}}}, "12"},
		"asks for ten": {map[string]any{"room_server.default_room_version": "10"}, "10"},
	} {
		t.Run(name, func(t *testing.T) {
			s := rig.New(t, rig.Config{Set: test.set})
			alice := s.Register(t, "alice")
			versions := alice.Do(http.MethodGet, rig.Path("capabilities"), nil, nil).JSON.Get("capabilities.m\\.room_versions")
			if versions.Get("default").Str != test.want || versions.Get("available.12").Str != "stable" || versions.Get("available.11").Str != "stable" {
				t.Errorf("the capabilities are %s", versions.Raw)
			}
			room := alice.CreateRoom(nil)
			if v := alice.GetState(room, "m.room.create", "").Get("room_version").Str; v != test.want {
				t.Errorf("the room is of version %s", v)
			}
		})
	}
}

// TestServerNotices checks that notices arrive in rooms of version 12.
func TestServerNotices(t *testing.T) {
	s := rig.New(t, rig.Config{Set: map[string]any{
		"global.server_notices.enabled": true, "global.server_notices.local_part": "_server",
	}})
	admin, bob := s.RegisterAdmin(t, "admin"), s.Register(t, "bob")
	r := admin.Do(http.MethodPost, "/_synapse/admin/v1/send_server_notice", nil, object{
		"user_id": bob.ID, "content": object{"msgtype": "m.text", "body": "notice"},
	})
	ok(t, "sending a notice", r)
	room := bob.Do(http.MethodGet, rig.Path("sync"), nil, nil).JSON.Get("rooms.invite.@keys.0").Str
	if len(room) != 44 {
		t.Fatalf("bob is invited to %q", room)
	}
	bob.Join(room)
	bob.WaitFor(room, rig.HasBody("notice"), 10*time.Second)
	if users := powerLevels(bob, room).Get("users").Raw; users != `{"@bob:localhost":-10}` {
		t.Errorf("the users are %s", users)
	}
}
