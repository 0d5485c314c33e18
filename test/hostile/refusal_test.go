package hostile_test

import (
	"encoding/json"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"github.com/matrix-org/dendrite/futures/test/rig"
)

// refused checks the status and the error code.
func refused(t testing.TB, what string, r rig.Response, status int, code string) {
	t.Helper()
	if r.Status != status || r.ErrCode() != code || r.JSON.Get("error").Str == "" {
		t.Errorf("%s: %d %s, wanted %d %s", what, r.Status, r.Body, status, code)
	}
}

// invite invites alice to a room of the fake server, in bob's name.
func invite(f *rig.Fake, s *rig.Server, room *rig.FakeRoom, user string, state ...any) rig.Response {
	e := f.Sign(room.Version, room.Draft(f.User("bob"), "m.room.member", map[string]any{"membership": "invite"}, user))
	return f.Ask(s, http.MethodPut, rig.FederationPath("v2", "invite", room.ID, e.ID), map[string]any{
		"room_version": room.Version, "event": e, "invite_room_state": append([]any{}, state...),
	})
}

func stripped(e rig.FakeEvent) map[string]any {
	return map[string]any{
		"type": e.Get("type").Str, "state_key": e.Get("state_key").Str, "sender": e.Get("sender").Str,
		"content": json.RawMessage(e.Get("content").Raw),
	}
}

// TestInvitesThatLie: an invite to a room of version 12 is refused if its events are not of that room.
func TestInvitesThatLie(t *testing.T) {
	s, f := rig.New(t, rig.Config{Federation: true}), rig.NewFake(t)
	alice := s.Register(t, "alice")
	newRoom := func() *rig.FakeRoom { return f.NewRoom("12", f.User("bob"), nil) }
	room, other := newRoom(), newRoom()
	create, rules := room.Event("m.room.create", ""), room.Event("m.room.join_rules", "")

	var forged map[string]any
	if err := json.Unmarshal(create.Raw, &forged); err != nil {
		t.Fatal(err)
	}
	forged["signatures"] = json.RawMessage(rules.Get("signatures").Raw)
	withRoomID := f.Sign("12", room.Draft(f.User("bob"), "m.room.create", map[string]any{"room_version": "12"}, "").With("room_id", room.ID))
	for what, state := range map[string][]any{
		"the create event of another room":     {other.Event("m.room.create", "")},
		"a create event with a bad signature":  {forged},
		"an event of another room":             {create, other.Event("m.room.join_rules", "")},
		"a create event that names its room":   {create, withRoomID, other.Event("m.room.create", "")},
		"the right one and that of another":    {create, other.Event("m.room.create", "")},
		"a stripped event with another's room": {create, map[string]any{"type": "m.room.name", "state_key": "", "sender": f.User("bob"), "content": map[string]any{}, "room_id": other.ID}},
	} {
		refused(t, what, invite(f, s, room, alice.ID, state...), 400, "M_INVALID_PARAM")
	}
	if r := alice.Do(http.MethodGet, rig.Path("sync"), nil, nil); r.JSON.Get("rooms.invite." + gjson.Escape(room.ID)).Exists() {
		t.Errorf("alice is invited: %s", r.Body)
	}
	for what, give := range map[string]func(r *rig.FakeRoom) []any{
		"whole events": func(r *rig.FakeRoom) []any {
			return []any{r.Event("m.room.create", ""), r.Event("m.room.join_rules", "")}
		},
		"a create event, stripped": func(r *rig.FakeRoom) []any { return []any{stripped(r.Event("m.room.create", ""))} },
		"nothing":                  func(*rig.FakeRoom) []any { return nil },
	} {
		room := newRoom()
		if r := invite(f, s, room, alice.ID, give(room)...); r.Status != http.StatusOK {
			t.Errorf("an invite with %s: %d %s", what, r.Status, r.Body)
		}
		state := invited(alice, room.ID)
		if has := state.Get(`#(type=="m.room.create").origin_server_ts`).Exists(); has != (what == "whole events") {
			t.Errorf("an invite with %s: alice sees %s", what, state.Raw)
		}
	}
	noPanic(t, s)
}

// invited waits for an invitation and returns its state.
func invited(u *rig.User, room string) (state gjson.Result) {
	for end := time.Now().Add(patience); time.Now().Before(end) && !state.Exists(); time.Sleep(20 * time.Millisecond) {
		r := u.Do(http.MethodGet, rig.Path("sync"), nil, nil)
		state = r.JSON.Get("rooms.invite." + gjson.Escape(room) + ".invite_state.events")
	}
	return state
}

// TestNobodyMayLetIn: a restricted join is refused with the reason if no user here may let others in.
func TestNobodyMayLetIn(t *testing.T) {
	c := newScene(t, "12", nil) // the room whose members may join
	carol := c.s.Register(t, "carol")
	room := c.alice.CreateRoom(map[string]any{
		"room_version": "12", "preset": "private_chat", "power_level_content_override": map[string]any{"invite": 50},
		"initial_state": []any{map[string]any{"type": "m.room.join_rules", "state_key": "", "content": map[string]any{
			"join_rule": "restricted", "allow": []any{map[string]any{"type": "m.room_membership", "room_id": c.room.ID}},
		}}},
	})
	c.alice.Invite(room, carol.ID)
	carol.Join(room)
	ask := func() rig.Response {
		return c.f.Ask(c.s, http.MethodGet, rig.FederationPath("v1", "make_join", room, c.bob)+"?ver=12", nil)
	}
	if r := ask(); r.JSON.Get("event.content.join_authorised_via_users_server").Str != c.alice.ID {
		t.Errorf("with the creator: %d %s", r.Status, r.Body)
	}
	c.alice.Leave(room)
	refused(t, "without", ask(), 400, "M_UNABLE_TO_GRANT_JOIN")
}

// TestIncompatibleVersion: a server that does not know the room's version is told the version.
func TestIncompatibleVersion(t *testing.T) {
	c := newScene(t, "12", nil)
	for _, query := range []string{"?ver=11", "?ver=1&ver=11", ""} {
		r := c.f.Ask(c.s, http.MethodGet, rig.FederationPath("v1", "make_join", c.room.ID, c.f.User("carol"))+query, nil)
		refused(t, "make_join"+query, r, 400, "M_INCOMPATIBLE_ROOM_VERSION")
		if r.JSON.Get("room_version").Str != "12" {
			t.Errorf("make_join%s: %s", query, r.Body)
		}
	}
}

// TestWrongCreateEvent: a join through a server that does not return the room's own create event fails and leaves
// nothing of the room, and the next server is tried.
func TestWrongCreateEvent(t *testing.T) {
	s, good, bad := rig.New(t, rig.Config{Federation: true}), rig.NewFake(t), rig.NewFake(t)
	alice := s.Register(t, "alice")
	bob := good.User("bob")
	for what, change := range map[string]func(create, other rig.FakeEvent, room *rig.FakeRoom) []rig.FakeEvent{
		"with a room_id": func(_, _ rig.FakeEvent, room *rig.FakeRoom) []rig.FakeEvent {
			d := rig.Draft{"type": "m.room.create", "state_key": "", "sender": bob, "content": map[string]any{"room_version": "12"}}
			d["depth"], d["prev_events"], d["auth_events"], d["room_id"] = 1, []any{}, []any{}, room.ID
			return []rig.FakeEvent{good.Sign("12", d)}
		},
		"of another room": func(_, other rig.FakeEvent, _ *rig.FakeRoom) []rig.FakeEvent { return []rig.FakeEvent{other} },
		"of both": func(create, other rig.FakeEvent, _ *rig.FakeRoom) []rig.FakeEvent {
			return []rig.FakeEvent{create, other}
		},
		"missing": func(_, _ rig.FakeEvent, _ *rig.FakeRoom) []rig.FakeEvent { return nil },
	} {
		room := good.NewRoom("12", bob, nil)
		create, other := room.Event("m.room.create", ""), good.NewRoom("12", bob, map[string]any{"x": what}).Event("m.room.create", "")
		bad.Answer("/make_join/"+room.ID, good.Standard)
		bad.Answer("/send_join/"+room.ID, func(r rig.FakeRequest) (int, any) {
			state := slices.DeleteFunc(room.StateEvents(), func(e rig.FakeEvent) bool { return e.ID == create.ID })
			creates := change(create, other, room)
			return http.StatusOK, room.SendJoin(append(state, creates...), append(creates, state...), r)
		})
		r := alice.Do(http.MethodPost, rig.Path("join", room.ID), map[string][]string{"server_name": {bad.Name}}, map[string]any{})
		if r.Status == http.StatusOK || r.Status == http.StatusUnauthorized || r.JSON.Get("error").Str == "" {
			t.Errorf("a create event %s: %d %s", what, r.Status, r.Body)
		}
		t.Logf("a create event %s: %d %s", what, r.Status, r.Body)
		if r := alice.Do(http.MethodGet, rig.Path("joined_rooms"), nil, nil); len(r.JSON.Get("joined_rooms").Array()) > 0 &&
			slices.ContainsFunc(r.JSON.Get("joined_rooms").Array(), func(id gjson.Result) bool { return id.Str == room.ID }) {
			t.Errorf("a create event %s: alice is in the room", what)
		}
		if r := alice.Do(http.MethodGet, rig.Path("rooms", room.ID, "state"), nil, nil); r.Status == http.StatusOK {
			t.Errorf("a create event %s: there is half a room: %s", what, r.Body)
		}
		alice.Join(room.ID, bad.Name, good.Name)
		if got := alice.GetState(room.ID, "m.room.create", "").Get("x").Str; got != "" {
			t.Errorf("a create event %s: the room has the create event of another", what)
		}
	}
	noPanic(t, s)
}
