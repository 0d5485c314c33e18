package roomv12

import (
	"encoding/json"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"github.com/matrix-org/dendrite/futures/test/rig"
)

func TestCreateRoom(t *testing.T) {
	onEach(t, func(t *testing.T, s *rig.Server) {
		alice := s.Register(t, "alice")
		r := create(alice, public(object{
			"room_alias_name": "hash", "visibility": "public", "name": "Hash", "topic": "of version 12",
			"creation_content": object{"room_version": "1", "creator": "@bob:localhost", "colour": "blue"},
		}))
		ok(t, "createRoom", r)
		room := r.JSON.Get("room_id").String()
		if !regexp.MustCompile(`^![A-Za-z0-9_-]{43}$`).MatchString(room) {
			t.Fatalf("the room ID is %q", room)
		}
		var created gjson.Result
		for _, event := range alice.Timeline(room) {
			if event.Get("type").Str == "m.room.create" {
				created = event
			}
			if auth := event.Get("auth_events").Raw; strings.Contains(auth, room[1:]) {
				t.Errorf("%s lists the create event: %s", event.Get("type"), auth)
			}
		}
		if id := created.Get("event_id").String(); id != "$"+room[1:] {
			t.Errorf("the create event is %s in %s", id, room)
		}
		if content := created.Get("content"); content.Get("room_version").Str != "12" || content.Get("creator").Exists() ||
			content.Get("colour").Str != "blue" {
			t.Errorf("the create event has %s", content.Raw)
		}
		levels := powerLevels(alice, room)
		if users := levels.Get("users").Raw; users != "{}" {
			t.Errorf("users of the power levels are %s", users)
		}
		if level := levels.Get(`events.m\.room\.tombstone`).Int(); level != 150 {
			t.Errorf("the level of m.room.tombstone is %d", level)
		}
		directory := alice.Do(http.MethodGet, rig.Path("directory", "room", r.JSON.Get("room_alias").String()), nil, nil)
		if id := directory.JSON.Get("room_id").String(); id != room {
			t.Errorf("the alias is of %q", id)
		}
		published := alice.Do(http.MethodGet, rig.Path("publicRooms"), nil, nil)
		if id := published.JSON.Get("chunk.0.room_id").String(); id != room {
			t.Errorf("published is %s", published.Body)
		}
		alice.Send(room, "m.room.message", object{"msgtype": "m.text", "body": "works"})
		alice.WaitFor(room, rig.HasBody("works"), 10*time.Second)
	})
}

func TestCreateRoomAtOnce(t *testing.T) {
	onEach(t, func(t *testing.T, s *rig.Server) {
		alice := s.Register(t, "alice")
		var wg sync.WaitGroup
		rooms := make([]string, 20)
		for i := range rooms {
			wg.Go(func() {
				// All have one timestamp, so all create events but the first would have the first one's ID.
				r, err := alice.Client.Do(t.Context(), http.MethodPost, rig.Path("createRoom"),
					map[string][]string{"ts": {"1700000000000"}}, object{"room_version": "12", "preset": "private_chat"})
				if err != nil || r.Status != http.StatusOK {
					t.Errorf("createRoom: %d %s %v", r.Status, r.Body, err)
				}
				rooms[i] = r.JSON.Get("room_id").String()
			})
		}
		wg.Wait()
		slices.Sort(rooms)
		if distinct := slices.Compact(slices.Clone(rooms)); len(distinct) != len(rooms) {
			t.Fatalf("%d rooms of %d are distinct: %v", len(distinct), len(rooms), rooms)
		}
		for _, room := range rooms {
			alice.Send(room, "m.room.message", object{"msgtype": "m.text", "body": "works"})
		}
	})
}

func TestCreateRoomRefused(t *testing.T) {
	s := rig.New(t, rig.Config{})
	alice := s.Register(t, "alice")
	s.Register(t, "bob")
	additional := func(value any) object { return object{"creation_content": object{"additional_creators": value}} }
	levels := func(value string) object { return object{"power_level_content_override": json.RawMessage(value)} }
	initial := func(value string) object {
		return object{"initial_state": []object{{"type": "m.room.power_levels", "state_key": "", "content": json.RawMessage(value)}}}
	}
	for name, test := range map[string]struct {
		opts    object
		errCode string
	}{
		"unknown version":         {object{"room_version": "unknown"}, "M_UNSUPPORTED_ROOM_VERSION"},
		"version is a number":     {object{"room_version": 12}, "M_BAD_JSON"},
		"creators null":           {additional(nil), "M_INVALID_PARAM"},
		"creators a string":       {additional("@bob:localhost"), "M_INVALID_PARAM"},
		"creators with a number":  {additional([]any{"@bob:localhost", 42}), "M_INVALID_PARAM"},
		"creators no user":        {additional([]any{"not-a-user-id"}), "M_INVALID_PARAM"},
		"creators bad domain":     {additional([]any{"@x:dom$ain$.com"}), "M_INVALID_PARAM"},
		"creation content float":  {object{"creation_content": object{"half": 0.5}}, "M_BAD_JSON"},
		"override names creator":  {levels(`{"users":{"@alice:localhost":100}}`), "M_INVALID_PARAM"},
		"override names nobody":   {levels(`{"users":{"bob":100}}`), "M_BAD_JSON"},
		"override users null":     {levels(`{"users":null}`), "M_BAD_JSON"},
		"override float":          {levels(`{"ban":50.0}`), "M_BAD_JSON"},
		"override too large":      {levels(`{"users":{"@bob:localhost":9007199254740992}}`), "M_BAD_JSON"},
		"override string":         {levels(`{"events":{"m.room.name":"50"}}`), "M_BAD_JSON"},
		"initial state creator":   {initial(`{"users":{"@alice:localhost":100}}`), "M_INVALID_PARAM"},
		"initial state too large": {initial(`{"users":{"@bob:localhost":9007199254740992}}`), "M_BAD_JSON"},
		"invites nobody":          {object{"invite": []string{"bob"}}, "M_INVALID_PARAM"},
		"invitee is creator and named": {object{
			"preset": "trusted_private_chat", "invite": []string{"@bob:localhost"},
			"power_level_content_override": object{"users": object{"@bob:localhost": 100}},
		}, "M_INVALID_PARAM"},
	} {
		expect(t, name, create(alice, test.opts), http.StatusBadRequest, test.errCode)
	}
	sync := alice.Do(http.MethodGet, rig.Path("sync"), nil, nil)
	if joined := sync.JSON.Get("rooms.join"); len(joined.Map()) > 0 {
		t.Errorf("there is a room: %s", joined.Raw)
	}
	if n := count(t, s, "roomserver", "roomserver_rooms"); n != 0 {
		t.Errorf("the roomserver knows %d rooms", n)
	}
}

func TestCreateRoomWithCreators(t *testing.T) {
	s := rig.New(t, rig.Config{})
	alice := s.Register(t, "alice")
	s.Register(t, "bob")
	creators := func(room string) string {
		return alice.GetState(room, "m.room.create", "").Get("additional_creators").Raw
	}
	for name, test := range map[string]struct {
		opts     object
		creators string
		users    string
	}{
		"foreign":  {object{"creation_content": object{"additional_creators": []string{"@c:example.com"}}}, `["@c:example.com"]`, `{}`},
		"none":     {object{"creation_content": object{"additional_creators": []string{}}}, `[]`, `{}`},
		"null":     {object{"creation_content": nil, "power_level_content_override": nil}, ``, `{}`},
		"override": {object{"power_level_content_override": object{"users": object{"@bob:localhost": 100}}}, ``, `{"@bob:localhost":100}`},
		"trusted": {object{
			"preset": "trusted_private_chat", "invite": []string{"@bob:localhost"},
			"creation_content": object{"additional_creators": []string{"@charlie:localhost"}},
		}, `["@charlie:localhost","@bob:localhost"]`, `{}`},
		"trusted twice": {object{
			"preset": "trusted_private_chat", "invite": []string{"@bob:localhost"},
			"creation_content": object{"additional_creators": []string{"@bob:localhost"}},
		}, `["@bob:localhost"]`, `{}`},
		"trusted alone": {object{"preset": "trusted_private_chat"}, ``, `{}`},
		"private":       {object{"preset": "private_chat", "invite": []string{"@bob:localhost"}}, ``, `{}`},
	} {
		room := mustCreate(t, alice, test.opts)
		if got := creators(room); got != test.creators {
			t.Errorf("%s: additional creators %s, want %s", name, got, test.creators)
		}
		if got := powerLevels(alice, room).Get("users").Raw; got != test.users {
			t.Errorf("%s: users %s, want %s", name, got, test.users)
		}
	}
}
