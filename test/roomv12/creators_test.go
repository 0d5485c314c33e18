package roomv12

import (
	"encoding/json"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"github.com/matrix-org/dendrite/futures/test/rig"
)

const maxLevel = 1<<53 - 1

// TestCreatorsPower tests what creators, an admin of the highest level and others may do.
func TestCreatorsPower(t *testing.T) {
	onEach(t, func(t *testing.T, s *rig.Server) {
		alice, bob := s.Register(t, "alice"), s.Register(t, "bob")
		charlie, dave := s.Register(t, "charlie"), s.Register(t, "dave")
		room := mustCreate(t, alice, public(object{"creation_content": object{"additional_creators": []string{charlie.ID}}}))
		for _, u := range []*rig.User{bob, charlie, dave} {
			u.Join(room)
		}
		levels := func(users object) object { return with(t, powerLevels(alice, room), "users", users) }
		before := powerLevels(alice, room).Raw
		refused := func(what string, u *rig.User, content any, errCode string) {
			t.Helper()
			expect(t, what, put(u, room, "m.room.power_levels", "", content), http.StatusBadRequest, errCode)
			if now := powerLevels(alice, room).Raw; now != before {
				t.Fatalf("%s: the power levels are now %s", what, now)
			}
		}
		refused("creator names herself", alice, levels(object{alice.ID: 100}), "M_INVALID_PARAM")
		refused("creator names another", alice, levels(object{charlie.ID: 100}), "M_INVALID_PARAM")
		refused("user is no user ID", alice, levels(object{"bob": 100}), "M_BAD_JSON")
		refused("a level above the largest", alice, levels(object{bob.ID: maxLevel + 1}), "M_BAD_JSON")
		refused("a level that is a float", alice, json.RawMessage(`{"users":{},"ban":50.0}`), "M_BAD_JSON")
		refused("a level that is a string", alice, json.RawMessage(`{"users":{},"events":{"m.room.name":"50"}}`), "M_BAD_JSON")
		refused("users that are no object", alice, json.RawMessage(`{"users":null}`), "M_BAD_JSON")

		ok(t, "creator promotes", put(alice, room, "m.room.power_levels", "", levels(object{bob.ID: maxLevel, dave.ID: 100})))
		before = powerLevels(alice, room).Raw
		refused("admin names a creator", bob, levels(object{bob.ID: maxLevel, charlie.ID: 0}), "M_INVALID_PARAM")
		for _, how := range []string{"kick", "ban"} {
			expect(t, "admin against creator: "+how, change(bob, room, how, alice.ID), http.StatusForbidden, "M_FORBIDDEN")
			expect(t, "admin against additional creator: "+how, change(bob, room, how, charlie.ID), http.StatusForbidden, "M_FORBIDDEN")
			expect(t, "creator against creator: "+how, change(alice, room, how, charlie.ID), http.StatusForbidden, "M_FORBIDDEN")
			expect(t, "additional creator against creator: "+how, change(charlie, room, how, alice.ID), http.StatusForbidden, "M_FORBIDDEN")
		}
		expect(t, "admin bans creator by state", put(bob, room, "m.room.member", alice.ID, object{"membership": "ban"}), http.StatusForbidden, "M_FORBIDDEN")
		ok(t, "admin removes an admin", put(bob, room, "m.room.power_levels", "", levels(object{bob.ID: maxLevel})))
		ok(t, "additional creator kicks", change(charlie, room, "kick", dave.ID))
		dave.Join(room)
		ok(t, "additional creator bans", change(charlie, room, "ban", dave.ID))
		ok(t, "creator unbans", change(alice, room, "unban", dave.ID))
		ok(t, "creator kicks the admin", change(alice, room, "kick", bob.ID))
		bob.Join(room)
		ok(t, "creator demotes the admin", put(charlie, room, "m.room.power_levels", "", levels(object{})))
		ok(t, "additional creator names the room", put(charlie, room, "m.room.name", "", object{"name": "Charlie's"}))
	})
}

// TestCreatorsAreNotLockedOut checks that power levels never keep a creator from sending, but do keep others.
func TestCreatorsAreNotLockedOut(t *testing.T) {
	s := rig.New(t, rig.Config{})
	alice, bob := s.Register(t, "alice"), s.Register(t, "bob")
	room := mustCreate(t, alice, public(nil))
	bob.Join(room)
	ok(t, "power levels", put(alice, room, "m.room.power_levels", "", object{
		"users": object{}, "events_default": 100, "state_default": maxLevel, "users_default": 0, "redact": maxLevel,
	}))
	alice.Send(room, "m.room.message", object{"msgtype": "m.text", "body": "still here"})
	alice.SendState(room, "m.room.topic", "", object{"topic": "still here"})
	r := bob.Do(http.MethodPut, rig.Path("rooms", room, "send", "m.room.message", "1"), nil, object{"msgtype": "m.text", "body": "no"})
	expect(t, "others", r, http.StatusForbidden, "M_FORBIDDEN")
}

// TestDirectory checks the power over the directory and over aliases, which the auth rules do not cover.
func TestDirectory(t *testing.T) {
	s := rig.New(t, rig.Config{})
	alice, bob := s.Register(t, "alice"), s.Register(t, "bob")
	room := mustCreate(t, alice, public(nil))
	bob.Join(room)
	visible := func(u *rig.User) rig.Response {
		return u.Do(http.MethodPut, rig.Path("directory", "list", "room", room), nil, object{"visibility": "public"})
	}
	expect(t, "a member publishes", visible(bob), http.StatusForbidden, "M_FORBIDDEN")
	ok(t, "the creator publishes", visible(alice))
	const alias = "#bobs:localhost"
	ok(t, "a member makes an alias", bob.Do(http.MethodPut, rig.Path("directory", "room", alias), nil, object{"room_id": room}))
	ok(t, "the creator removes it", alice.Do(http.MethodDelete, rig.Path("directory", "room", alias), nil, nil))
}

// TestRoomNotification checks that a creator's "@room" notifies, and that of a member without power does not.
func TestRoomNotification(t *testing.T) {
	s := rig.New(t, rig.Config{})
	alice, bob, carol := s.Register(t, "alice"), s.Register(t, "bob"), s.Register(t, "carol")
	room := mustCreate(t, alice, public(nil))
	bob.Join(room)
	carol.Join(room)
	highlights := func() (found []string) {
		r := bob.Do(http.MethodGet, rig.Path("notifications"), nil, nil)
		for _, n := range r.JSON.Get(`notifications.#(actions.#(set_tweak=="highlight"))#`).Array() {
			found = append(found, n.Get("event.content.body").Str)
		}
		return found
	}
	says := func(u *rig.User, text string) {
		u.Send(room, "m.room.message", object{"msgtype": "m.text", "body": text})
		u.WaitFor(room, rig.HasBody(text), 10*time.Second)
	}
	says(carol, "@room without power")
	says(alice, "@room with power")
	want := []string{"@room with power"}
	for end := time.Now().Add(10 * time.Second); !slices.Equal(highlights(), want); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("bob is notified of %q", highlights())
		}
	}
}

// TestCreatorLeaves checks that a creator who has left can only come back as others can.
func TestCreatorLeaves(t *testing.T) {
	s := rig.New(t, rig.Config{})
	alice := s.Register(t, "alice")
	room := mustCreate(t, alice, object{"preset": "private_chat"})
	alice.Leave(room)
	r := alice.Do(http.MethodPost, rig.Path("join", room), nil, object{})
	expect(t, "joining an invite-only room again", r, http.StatusForbidden, "M_FORBIDDEN")
}

// TestSecondCreate checks that no room gets a second create event, in any version.
func TestSecondCreate(t *testing.T) {
	s := rig.New(t, rig.Config{})
	alice := s.Register(t, "alice")
	for _, version := range []string{"6", "11", "12"} {
		room := mustCreate(t, alice, public(object{"room_version": version}))
		content := alice.GetState(room, "m.room.create", "")
		for name, body := range map[string]any{"another": object{"room_version": version, "x": "y"}, "the same": content.Value()} {
			expect(t, version+": "+name, put(alice, room, "m.room.create", "", body), http.StatusBadRequest, "M_INVALID_PARAM")
		}
	}
}

// TestCreateEventRoomID checks that clients see the room ID of the create event wherever they see that of other events.
func TestCreateEventRoomID(t *testing.T) {
	s := rig.New(t, rig.Config{})
	alice := s.Register(t, "alice")
	room := mustCreate(t, alice, public(nil))
	event := "$" + room[1:]
	later := alice.Send(room, "m.room.message", object{"msgtype": "m.text", "body": "later"})
	get := func(path string, query map[string][]string) gjson.Result {
		r := alice.Do(http.MethodGet, path, query, nil)
		ok(t, path, r)
		return r.JSON
	}
	for name, found := range map[string]gjson.Result{
		"state":            get(rig.Path("rooms", room, "state"), nil).Get(`#(type=="m.room.create")`),
		"format":           get(rig.Path("rooms", room, "state", "m.room.create", ""), map[string][]string{"format": {"event"}}),
		"messages":         get(rig.Path("rooms", room, "messages"), map[string][]string{"dir": {"b"}, "limit": {"100"}}).Get(`chunk.#(type=="m.room.create")`),
		"event":            get(rig.Path("rooms", room, "event", event), nil),
		"context":          get(rig.Path("rooms", room, "context", event), nil).Get("event"),
		"state of context": get(rig.Path("rooms", room, "context", later), nil).Get(`state.#(type=="m.room.create")`),
		"before":           get(rig.Path("rooms", room, "context", later), map[string][]string{"limit": {"40"}}).Get(`events_before.#(type=="m.room.create")`),
	} {
		if found.Get("type").Str != "m.room.create" || found.Get("room_id").Str != room || found.Get("event_id").Str != event {
			t.Errorf("%s: %s", name, found.Raw)
		}
	}
	sync := get(rig.Path("sync"), nil).Get("rooms.join." + gjson.Escape(room) + `.timeline.events.#(type=="m.room.create")`)
	if !sync.Exists() || sync.Get("room_id").Exists() {
		t.Errorf("sync: %s", sync.Raw)
	}
}

// TestRestart checks that a room of version 12 is unchanged after a restart of the server.
func TestRestart(t *testing.T) {
	onEach(t, func(t *testing.T, s *rig.Server) {
		alice, bob := s.Register(t, "alice"), s.Register(t, "bob")
		room := mustCreate(t, alice, public(nil))
		bob.Join(room)
		s.Stop()
		s.Start()
		ok(t, "kick", change(alice, room, "kick", bob.ID))
		bob.Join(room)
		bob.Send(room, "m.room.message", object{"msgtype": "m.text", "body": "after"})
		created := alice.Do(http.MethodGet, rig.Path("rooms", room, "event", "$"+room[1:]), nil, nil)
		if created.JSON.Get("room_id").Str != room {
			t.Errorf("the create event is %s", created.Body)
		}
	})
}
