package roomv12

import (
	"net/http"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/futures/test/rig"
)

// TestServerNotices checks that notices get through in rooms of version 12.
func TestServerNotices(t *testing.T) {
	s := rig.New(t, rig.Config{Set: map[string]any{
		"room_server.default_room_version": "12", "global.server_notices.enabled": true, "global.server_notices.local_part": "_server",
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
