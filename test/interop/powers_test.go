package interop_test

import (
	"net/http"
	"regexp"
	"slices"
	"strings"

	"github.com/matrix-org/dendrite/futures/test/rig"
)

func powerScenarios() []scenario {
	return []scenario{
		{"power levels", every, powerLevels},
		{"creators", last, creators},
	}
}

// powerLevels: the owner makes the guest an administrator, who then uses and passes on her power.
func powerLevels(s *scene) {
	owner, guest, room := s.meet(nil)
	mute := s.register(s.home, "mute")
	mute.Join(room)
	s.wants(guest.Do(http.MethodPut, rig.Path("rooms", room, "state", "m.room.name", ""), nil, map[string]any{"name": "no"}), 403, "M_FORBIDDEN")
	id := s.setPower(owner, room, func(levels map[string]any) { levels["users"].(map[string]any)[guest.ID] = 100 })
	guest.WaitFor(room, is(id), patience)

	name := guest.SendState(room, "m.room.name", "", map[string]any{"name": "of the guest"})
	owner.WaitFor(room, is(name), patience)
	id = s.setPower(guest, room, func(levels map[string]any) { levels["users"].(map[string]any)[mute.ID] = -1 })
	owner.WaitFor(room, is(id), patience)
	r := mute.Do(http.MethodPut, rig.Path("rooms", room, "send", "m.room.message", "t"), nil, rig.Text("no"))
	s.wants(r, 403, "M_FORBIDDEN")
	s.wants(membership(guest, room, "kick", mute), 200, "")
	s.told(guest, owner, room, isMember(mute, "leave"))
	s.agree(room, owner, guest)
}

// creators: in version 12 the room's creators are above all levels, and none can act against another (MSC4289).
func creators(s *scene) {
	owner, guest, admin := s.register(s.home, "owner"), s.register(s.away, "guest"), s.register(s.home, "admin")
	room := s.create(owner, map[string]any{
		"creation_content":             map[string]any{"additional_creators": []string{guest.ID}},
		"power_level_content_override": map[string]any{"users": map[string]any{admin.ID: 100}},
	})
	s.join(guest, room, s.home)
	admin.Join(room)
	s.member(guest, room, admin, "join")
	for _, u := range []*rig.User{owner, guest} {
		users := u.GetState(room, "m.room.power_levels", "").Get("users").Map()
		if len(users) != 1 || users[admin.ID].Int() != 100 {
			s.Errorf("%s sees power levels for %v", u.ID, users)
		}
	}

	// They cannot be removed, or named in power levels.
	for what, r := range map[string]rig.Response{
		"a creator who kicks a creator":        membership(owner, room, "kick", guest),
		"an administrator who kicks a creator": membership(admin, room, "kick", guest),
		"a creator who bans a creator":         membership(guest, room, "ban", owner),
		"an administrator's upgrade":           upgrade(admin, room, "12"),
	} {
		if r.Status != http.StatusForbidden || r.ErrCode() != "M_FORBIDDEN" {
			s.Errorf("%s is answered %d %s, want 403 M_FORBIDDEN", what, r.Status, r.Body)
		}
	}
	for _, u := range []*rig.User{owner, guest} {
		levels := map[string]any{"users": map[string]any{guest.ID: 100, admin.ID: 100}}
		r := u.Do(http.MethodPut, rig.Path("rooms", room, "state", "m.room.power_levels", ""), nil, levels)
		if r.Status != http.StatusBadRequest {
			s.Errorf("power levels that name a creator are answered %d %s to %s", r.Status, r.Body, u.ID)
		}
	}

	// The guest can do everything, whatever the levels are.
	id := s.setPower(owner, room, func(levels map[string]any) { levels["events_default"], levels["state_default"] = 99, 101 })
	guest.WaitFor(room, is(id), patience)
	name := guest.SendState(room, "m.room.name", "", map[string]any{"name": "of the guest"})
	owner.WaitFor(room, is(name), patience)
	target := owner.Send(room, "m.room.message", rig.Text("a secret"))
	r := &redactions{s, owner, guest, room}
	guest.WaitFor(room, is(target), patience)
	s.wants(r.byVerb(guest, target), 200, "")
	r.gone(target, owner, guest)
	s.wants(membership(guest, room, "ban", admin), 200, "")
	s.told(guest, owner, room, isMember(admin, "ban"))
	s.agree(room, owner, guest)
}

func upgrade(u *rig.User, room, version string) rig.Response {
	return u.Do(http.MethodPost, rig.Path("rooms", room, "upgrade"), nil, map[string]any{"new_version": version})
}

// numbers matches a text that was printed as a slice of bytes.
var numbers = regexp.MustCompile(`\[\d+ \d+`)

// refusals: if the other server refuses something, the user gets a text, and never an error about the access token.
func refusals(s *scene) {
	owner, guest := s.register(s.home, "owner"), s.register(s.away, "guest")
	private := s.create(owner, map[string]any{"preset": "private_chat"})
	public := s.create(owner, nil)
	s.wants(membership(owner, public, "ban", guest), 200, "")
	elsewhere := "!nowhere:" + s.home.server
	if s.version == "12" {
		elsewhere = "!" + strings.Repeat("n", 43)
	}
	type refusal struct {
		what     string
		r        rig.Response
		statuses []int
	}
	refusals := []refusal{
		{"joining a private room", s.tryJoin(guest, private, s.home), []int{403}},
		{"joining a public room after a ban", s.tryJoin(guest, public, s.home), []int{403}},
		{"joining a room that does not exist", s.tryJoin(guest, elsewhere, s.home), []int{404, 502}}, // 502 from Synapse
		{"joining an alias that does not exist", guest.Do(http.MethodPost, rig.Path("join", "#nowhere:"+s.home.server), nil, nil), []int{404}},
		{"looking up an alias that does not exist", guest.Do(http.MethodGet, rig.Path("directory", "room", "#nowhere:"+s.home.server), nil, nil), []int{404}},
		{"the profile of nobody", guest.Do(http.MethodGet, rig.Path("profile", "@nobody:"+s.home.server), nil, nil), []int{404}},
	}
	if s.version == "12" { // such an ID names no server
		alone := guest.Do(http.MethodPost, rig.Path("join", s.create(owner, nil)), nil, map[string]any{})
		refusals = append(refusals, refusal{"joining by an ID alone", alone, []int{404}})
	}
	for _, refused := range refusals {
		text := refused.r.JSON.Get("error").String()
		if !slices.Contains(refused.statuses, refused.r.Status) || text == "" || numbers.MatchString(text) || !strings.HasPrefix(refused.r.ErrCode(), "M_") {
			s.Errorf("%s is answered %d %s, want %v and a text", refused.what, refused.r.Status, refused.r.Body, refused.statuses)
		}
	}
}
