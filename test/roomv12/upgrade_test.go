package roomv12

import (
	"encoding/json"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/tidwall/gjson"

	"github.com/matrix-org/dendrite/futures/test/rig"
)

// upgrade asks for an upgrade; more has further keys of the request.
func upgrade(u *rig.User, room, version string, more object) rig.Response {
	body := object{"new_version": version}
	for key, value := range more {
		body[key] = value
	}
	return u.Do(http.MethodPost, rig.Path("rooms", room, "upgrade"), nil, body)
}

func mustUpgrade(t *testing.T, u *rig.User, room, version string, more object) string {
	t.Helper()
	r := upgrade(u, room, version, more)
	if r.Status != http.StatusOK {
		t.Fatalf("upgrade to %s: %d %s", version, r.Status, r.Body)
	}
	return r.JSON.Get("replacement_room").String()
}

// TestUpgrade checks what the new room has from the old one.
func TestUpgrade(t *testing.T) {
	onEach(t, func(t *testing.T, s *rig.Server) {
		alice, bob, evil := s.Register(t, "alice"), s.Register(t, "bob"), s.Register(t, "evil")
		for _, from := range []string{"10", "11", "12"} {
			content := object{"type": "m.space", "m.federate": false}
			if from == "12" {
				content["additional_creators"] = []string{"@gone:localhost"}
			}
			old := mustCreate(t, alice, public(object{
				"room_version": from, "name": "Old", "room_alias_name": "alias" + from, "creation_content": content, "visibility": "public",
			}))
			bob.Join(old)
			alice.SendState(old, "m.room.topic", "", object{"topic": "kept"})
			ok(t, "ban", change(alice, old, "ban", evil.ID))
			room := mustUpgrade(t, alice, old, "12", nil)
			if len(room) != 44 || strings.Contains(room, ":") {
				t.Errorf("from %s: the new room is %s", from, room)
			}
			checkReplacement(t, alice, from, old, room)
			if m := alice.GetState(room, "m.room.member", evil.ID).Get("membership").Str; m != "ban" {
				t.Errorf("from %s: evil's membership is %q", from, m)
			}
			bob.Join(room)
			expect(t, "bob speaks in the old room", put(bob, old, "m.room.name", "", object{"name": "x"}), http.StatusForbidden, "M_FORBIDDEN")
			alias := alice.Do(http.MethodGet, rig.Path("directory", "room", "#alias"+from+":localhost"), nil, nil)
			if id := alias.JSON.Get("room_id").Str; id != room {
				t.Errorf("from %s: the alias leads to %s", from, alias.Body)
			}
		}
	})
}

func checkReplacement(t *testing.T, u *rig.User, from, old, room string) {
	t.Helper()
	if to := u.GetState(old, "m.room.tombstone", "").Get("replacement_room").Str; to != room {
		t.Errorf("from %s: the tombstone leads to %q", from, to)
	}
	created := u.GetState(room, "m.room.create", "")
	if p := created.Get("predecessor").Raw; p != `{"room_id":"`+old+`"}` {
		t.Errorf("from %s: the predecessor is %s", from, p)
	}
	if created.Get("creator").Exists() || created.Get("additional_creators").Exists() ||
		created.Get("type").Str != "m.space" || created.Get(`m\.federate`).Raw != "false" {
		t.Errorf("from %s: the create event has %s", from, created.Raw)
	}
	if users := powerLevels(u, room).Get("users").Raw; users != "{}" {
		t.Errorf("from %s: users are %s", from, users)
	}
	if topic := u.GetState(room, "m.room.topic", "").Get("topic").Str; topic != "kept" {
		t.Errorf("from %s: the topic is %q", from, topic)
	}
	restricted := powerLevels(u, old)
	if restricted.Get("events_default").Int() != 50 || restricted.Get("invite").Int() != 50 {
		t.Errorf("from %s: the old room's power levels are %s", from, restricted.Raw)
	}
}

// TestUpgradePowerLevels checks which users are in the new room's power levels.
func TestUpgradePowerLevels(t *testing.T) {
	s := rig.New(t, rig.Config{})
	alice, bob, charlie := s.Register(t, "alice"), s.Register(t, "bob"), s.Register(t, "charlie")
	make := func(version string, levels object) string {
		users := object{bob.ID: 150, charlie.ID: 100}
		if version != "12" {
			users[alice.ID] = 200
		}
		room := mustCreate(t, alice, public(object{"room_version": version, "power_level_content_override": object{"users": users}}))
		bob.Join(room)
		charlie.Join(room)
		return room
	}
	for name, test := range map[string]struct {
		from, to string
		by       *rig.User
		more     object
		users    string
		creators string
	}{
		"creator, 11 to 12":      {"11", "12", alice, nil, `{"@bob:localhost":150,"@charlie:localhost":100}`, ``},
		"another, 11 to 12":      {"11", "12", bob, nil, `{"@alice:localhost":200,"@charlie:localhost":100}`, ``},
		"another, 12 to 12":      {"12", "12", bob, nil, `{"@charlie:localhost":100}`, ``},
		"creator, 12 to 11":      {"12", "11", alice, nil, `{"@alice:localhost":150,"@bob:localhost":150,"@charlie:localhost":100}`, ``},
		"creator, 12 to 10":      {"12", "10", alice, nil, `{"@alice:localhost":150,"@bob:localhost":150,"@charlie:localhost":100}`, ``},
		"another, 12 to 11":      {"12", "11", bob, nil, `{"@bob:localhost":150,"@charlie:localhost":100}`, ``},
		"with creators":          {"11", "12", alice, object{"additional_creators": []string{charlie.ID}}, `{"@bob:localhost":150}`, `["@charlie:localhost"]`},
		"with none":              {"12", "12", alice, object{"additional_creators": []string{}}, `{"@bob:localhost":150,"@charlie:localhost":100}`, `[]`},
		"to 11 with creators":    {"12", "11", alice, object{"additional_creators": []string{charlie.ID}}, `{"@alice:localhost":150,"@bob:localhost":150,"@charlie:localhost":100}`, ``},
		"to 11 with nonsense":    {"11", "11", alice, object{"additional_creators": 42}, `{"@alice:localhost":200,"@bob:localhost":150,"@charlie:localhost":100}`, ``},
		"by a banned one's side": {"12", "12", alice, object{"additional_creators": []string{bob.ID, bob.ID, alice.ID}}, `{"@charlie:localhost":100}`, `["@bob:localhost","@bob:localhost","@alice:localhost"]`},
	} {
		room := mustUpgrade(t, test.by, make(test.from, nil), test.to, test.more)
		if users := sorted(powerLevels(test.by, room).Get("users")); users != test.users {
			t.Errorf("%s: users are %s, want %s", name, users, test.users)
		}
		created := test.by.GetState(room, "m.room.create", "")
		if creators := created.Get("additional_creators").Raw; creators != test.creators {
			t.Errorf("%s: additional creators are %s, want %s", name, creators, test.creators)
		}
		ok(t, name+": the upgrader has power", put(test.by, room, "m.room.history_visibility", "", object{"history_visibility": "joined"}))
	}
}

// sorted is the JSON of an object with sorted keys.
func sorted(object gjson.Result) string {
	data, err := json.Marshal(object.Value())
	if err != nil {
		return err.Error()
	}
	return string(data)
}

func TestUpgradeRefused(t *testing.T) {
	s := rig.New(t, rig.Config{})
	alice, bob, dave := s.Register(t, "alice"), s.Register(t, "bob"), s.Register(t, "dave")
	room := mustCreate(t, alice, public(object{"power_level_content_override": object{"users": object{bob.ID: 100}}}))
	bob.Join(room)
	before := count(t, s, "roomserver", "roomserver_rooms")
	for name, test := range map[string]struct {
		by      *rig.User
		room    string
		body    object
		status  int
		errCode string
	}{
		"no version":       {alice, room, object{}, 400, "M_MISSING_PARAM"},
		"unknown version":  {alice, room, object{"new_version": "unknown"}, 400, "M_UNSUPPORTED_ROOM_VERSION"},
		"creators null":    {alice, room, object{"new_version": "12", "additional_creators": nil}, 400, "M_INVALID_PARAM"},
		"creators a text":  {alice, room, object{"new_version": "12", "additional_creators": bob.ID}, 400, "M_INVALID_PARAM"},
		"creators no user": {alice, room, object{"new_version": "12", "additional_creators": []string{"bob"}}, 400, "M_INVALID_PARAM"},
		"admin":            {bob, room, object{"new_version": "12"}, 403, "M_FORBIDDEN"},
		"not there":        {dave, room, object{"new_version": "12"}, 403, "M_FORBIDDEN"},
		"no room":          {alice, "!" + strings.Repeat("a", 43), object{"new_version": "12"}, 404, "M_NOT_FOUND"},
	} {
		r := test.by.Do(http.MethodPost, rig.Path("rooms", test.room, "upgrade"), nil, test.body)
		expect(t, name, r, test.status, test.errCode)
	}
	if after := count(t, s, "roomserver", "roomserver_rooms"); after != before {
		t.Errorf("%d rooms have become %d", before, after)
	}
	if end := alice.GetState(room, "m.room.tombstone", ""); end.Exists() {
		t.Errorf("there is a tombstone %s", end.Raw)
	}
	ok(t, "more power", put(alice, room, "m.room.power_levels", "", with(t, powerLevels(alice, room), "users", object{bob.ID: 150})))
	mustUpgrade(t, bob, room, "12", nil)
}

// TestUpgradeWithoutPowerLevels checks that a room without power levels gets the defaults.
func TestUpgradeWithoutPowerLevels(t *testing.T) {
	s := rig.New(t, rig.Config{})
	alice := s.Register(t, "alice")
	room := mustCreate(t, alice, public(object{
		"initial_state": []object{{"type": "m.room.power_levels", "state_key": "", "content": object{}}},
	}))
	next := mustUpgrade(t, alice, room, "12", nil)
	if users := powerLevels(alice, next).Get("users").Raw; users != "{}" {
		t.Errorf("users are %s", users)
	}
}

// TestUpgradeAtOnce checks that simultaneous requests of a user create one new room, and that another user does not
// create a second one.
func TestUpgradeAtOnce(t *testing.T) {
	s := rig.New(t, rig.Config{})
	alice, bob := s.Register(t, "alice"), s.Register(t, "bob")
	together := func() (byAlice []string, bobs rig.Response) {
		room := mustCreate(t, alice, public(object{"power_level_content_override": object{"users": object{bob.ID: 150}}}))
		bob.Join(room)
		var wg sync.WaitGroup
		byAlice = make([]string, 3)
		for i := range byAlice {
			wg.Go(func() { byAlice[i] = upgrade(alice, room, "12", nil).JSON.Get("replacement_room").Str })
		}
		wg.Go(func() { bobs = upgrade(bob, room, "12", nil) })
		wg.Wait()
		return byAlice, bobs
	}
	// The order of the requests is random.
	for range 20 {
		rooms, bobs := together()
		if bobs.Status == http.StatusBadRequest && rooms[0] != "" && rooms[0] == rooms[1] && rooms[0] == rooms[2] {
			return
		}
	}
	t.Error("upgrades at once never are one")
}
