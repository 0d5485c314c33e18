package interop_test

import (
	"net/http"
	"net/url"
	"slices"

	"github.com/tidwall/gjson"

	"github.com/matrix-org/dendrite/futures/test/rig"
)

// Rooms that refer to other rooms.
func linkedRoomScenarios() []scenario {
	return []scenario{
		{"restricted join", late, restrictedJoin},
		{"space", late, space},
		{"upgrade by the owner", []string{"10", "11"}, func(s *scene) { upgradeRoom(s, false) }},
		{"upgrade by the guest", []string{"10", "11"}, func(s *scene) { upgradeRoom(s, true) }},
	}
}

// restrictedJoin: members of one room may join another.
func restrictedJoin(s *scene) {
	owner, guest, club := s.meet(nil)
	stranger := s.register(s.away, "stranger")
	room := s.create(owner, map[string]any{
		"preset": "private_chat",
		"initial_state": []any{map[string]any{"type": "m.room.join_rules", "state_key": "", "content": map[string]any{
			"join_rule": "restricted",
			"allow":     []any{map[string]any{"type": "m.room_membership", "room_id": club}},
		}}},
	})
	if r := s.tryJoin(stranger, room, s.home); r.Status != http.StatusForbidden {
		s.Errorf("a stranger who joins is answered %d %s", r.Status, r.Body)
	}
	s.join(guest, room, s.home)
	s.member(owner, room, guest, "join")
	by := s.stateEvent(owner, room, isMember(guest, "join")).Get("content.join_authorised_via_users_server").String()
	if by != owner.ID {
		s.Errorf("the join is authorised by %q, want %s", by, owner.ID)
	}

	// Now that the guest's server is in the room, the stranger can join the club and then the room.
	s.join(stranger, club, s.home)
	s.member(owner, club, stranger, "join")
	s.join(stranger, room, s.home)
	s.member(owner, room, stranger, "join")
	s.agree(room, owner, guest, stranger)
}

// space: the guest browses the owner's space and joins its rooms by what the space says.
func space(s *scene) {
	owner, guest, room := s.meet(map[string]any{"creation_content": map[string]any{"type": "m.space"}, "name": "the space"})
	child := s.create(owner, map[string]any{"name": "the child"})
	id := owner.SendState(room, "m.space.child", child, map[string]any{"via": []string{s.home.server}})
	owner.SendState(child, "m.space.parent", room, map[string]any{"via": []string{s.home.server}})
	guest.WaitFor(room, is(id), patience)

	var entry gjson.Result
	eventually(s, "the child in the space's hierarchy", func() bool {
		path := "/_matrix/client/v1/rooms/" + url.PathEscape(room) + "/hierarchy"
		rooms := s.wants(guest.Do(http.MethodGet, path, nil, nil), 200, "").JSON.Get("rooms").Array()
		i := slices.IndexFunc(rooms, func(r gjson.Result) bool { return r.Get("room_id").String() == child })
		if i >= 0 {
			entry = rooms[i]
		}
		return i >= 0
	})
	if got := entry.Get("name").String(); got != "the child" {
		s.Errorf("the hierarchy shows the child as %s", entry.Raw)
	}
	link := s.stateEvent(guest, room, isType("m.space.child"))
	via := side{server: link.Get("content.via.0").String()}
	s.join(guest, link.Get("state_key").String(), via)
	s.member(owner, child, guest, "join")
	s.agree(room, owner, guest)
	s.agree(child, owner, guest)
}

// upgradeRoom upgrades from the scene's version to 12, by the owner or by the guest, who is an administrator. All
// others follow the tombstone.
func upgradeRoom(s *scene, byGuest bool) {
	owner, guest, old := s.meet(map[string]any{"name": "the room"})
	s.setPower(owner, old, func(levels map[string]any) { levels["users"].(map[string]any)[guest.ID] = 100 })
	second, third := s.register(s.home, "second"), s.register(s.away, "third")
	s.join(second, old, s.home)
	s.join(third, old, s.home)
	s.agree(old, owner, guest, second, third)

	by, via, followers := owner, s.home, []*rig.User{guest, second, third}
	if byGuest {
		by, via, followers = guest, s.away, []*rig.User{owner, third, second}
	}
	room := s.wants(upgrade(by, old, "12"), 200, "").JSON.Get("replacement_room").String()
	for _, u := range followers {
		tombstone := u.WaitFor(old, isType("m.room.tombstone"), patience)
		if got := tombstone.Get("content.replacement_room").String(); got != room || tombstone.Get("sender").String() != by.ID {
			s.Fatalf("the tombstone leads to %q, want %s: %s", got, room, tombstone.Raw)
		}
		s.join(u, room, via)
		s.member(by, room, u, "join")
	}
	create := s.stateEvent(followers[0], room, isType("m.room.create"))
	if got := "!" + create.Get("event_id").String()[1:]; got != room || create.Get("content.room_version").String() != "12" {
		s.Errorf("the room %s has the create event %s", room, create.Raw)
	}
	if got := create.Get("content.predecessor.room_id").String(); got != old {
		s.Errorf("the new room comes after %q, want %s", got, old)
	}
	if got := followers[0].GetState(room, "m.room.name", "").Get("name").String(); got != "the room" {
		s.Errorf("the new room's name is %q", got)
	}
	powers := by.GetState(room, "m.room.power_levels", "").Get("users").Map()
	if _, named := powers[by.ID]; named || powers[followers[0].ID].Int() != 100 {
		s.Errorf("%s made the room, %s is an administrator; its power levels name %v", by.ID, followers[0].ID, powers)
	}
	s.agree(room, owner, guest, second, third)
}
