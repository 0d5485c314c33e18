package hostile_test

import (
	"net/http"
	"testing"

	"github.com/matrix-org/dendrite/futures/test/rig"
)

// TestInvitesHaveWholeEvents: our invites contain whole events of the room, in all versions, so that the other server
// can check them (MSC4311). In version 12 the room's ID is the create event's.
func TestInvitesHaveWholeEvents(t *testing.T) {
	s, f := rig.New(t, rig.Config{Federation: true}), rig.NewFake(t)
	alice := s.Register(t, "alice")
	f.Answer("/v2/invite/", func(r rig.FakeRequest) (int, any) {
		return http.StatusOK, map[string]any{"event": f.CoSign(r.Body.Get("room_version").Str, r.Body.Get("event").Raw)}
	})
	for _, version := range []string{"10", "11", "12"} {
		later := alice.CreateRoom(map[string]any{"room_version": version, "name": "a room"})
		alice.Invite(later, f.User("carol"))
		atOnce := alice.CreateRoom(map[string]any{"room_version": version, "name": "a room", "invite": []string{f.User("bob")}})
		for how, room := range map[string]string{"by /invite": later, "by createRoom": atOnce} {
			body := f.WaitRequest("/v2/invite/"+room, patience, nil).Body
			types := map[string]bool{}
			for _, entry := range body.Get("invite_room_state").Array() {
				types[entry.Get("type").Str] = true
				for _, field := range []string{
					"origin_server_ts", "signatures", "hashes", "auth_events", "prev_events", "depth", "content", "sender", "state_key",
				} {
					if !entry.Get(field).Exists() {
						t.Errorf("version %s, %s: no %s in %s", version, how, field, entry.Raw)
					}
				}
				create := entry.Get("type").Str == "m.room.create"
				if version == "12" && create {
					if id := f.CoSign(version, entry.Raw).ID; id[1:] != room[1:] || entry.Get("room_id").Exists() {
						t.Errorf("%s: the create event of %s is %s: %s", how, room, id, entry.Raw)
					}
				} else if entry.Get("room_id").Str != room {
					t.Errorf("version %s, %s: not of room %s: %s", version, how, room, entry.Raw)
				}
			}
			for _, wanted := range []string{"m.room.create", "m.room.join_rules", "m.room.name"} {
				if !types[wanted] {
					t.Errorf("version %s, %s: no %s in %s", version, how, wanted, body.Raw)
				}
			}
		}
	}
}
