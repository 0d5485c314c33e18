package hostile_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/tidwall/gjson"

	"github.com/matrix-org/dendrite/futures/test/rig"
)

// join joins without naming servers.
func join(u *rig.User, room string) rig.Response {
	return u.Do(http.MethodPost, rig.Path("join", room), nil, map[string]any{})
}

// TestServersToJoinThrough: a room ID of version 12 names no server. The servers come from the request, an alias, an
// invitation, or known members of the room.
func TestServersToJoinThrough(t *testing.T) {
	s, f := rig.New(t, rig.Config{Federation: true}), rig.NewFake(t)
	alice, bob := s.Register(t, "alice"), f.User("bob")
	newRoom := func() *rig.FakeRoom { return f.NewRoom("12", bob, nil) }
	speaks := func(how string, room *rig.FakeRoom) {
		t.Helper()
		id := alice.Send(room.ID, "m.room.message", rig.Text(how))
		f.WaitPDU(patience, func(pdu gjson.Result) bool { return rig.ReadEvent("12", pdu.Raw).ID == id })
	}

	room := newRoom()
	refused(t, "a join without a server", join(alice, room.ID), 404, "M_NOT_FOUND")
	alice.Join(room.ID, f.Name)
	speaks("by server_name", room)

	room = newRoom()
	if r := alice.Do(http.MethodPost, rig.Path("join", room.ID), url.Values{"via": {f.Name}}, map[string]any{}); r.Status != 200 {
		t.Errorf("a join by via: %d %s", r.Status, r.Body)
	}

	room = newRoom()
	f.AnswerWith("/query/directory", http.StatusOK, map[string]any{"room_id": room.ID, "servers": []string{f.Name}})
	if r := join(alice, "#room:"+f.Name); r.Status != http.StatusOK {
		t.Errorf("a join by alias: %d %s", r.Status, r.Body)
	}
	speaks("by alias", room)

	room = newRoom()
	invite := func(room *rig.FakeRoom) {
		t.Helper()
		if r := invite(f, s, room, alice.ID, room.Event("m.room.create", "")); r.Status != http.StatusOK {
			t.Fatalf("the invitation: %d %s", r.Status, r.Body)
		} else {
			room.Receive(r.JSON.Get("event").Raw)
		}
		invited(alice, room.ID)
	}
	invite(room)
	if r := join(alice, room.ID); r.Status != http.StatusOK {
		t.Errorf("accepting an invitation: %d %s", r.Status, r.Body)
	}
	speaks("by invitation", room)

	declined := newRoom()
	invite(declined)
	f.Answer("/make_leave/", func(r rig.FakeRequest) (int, any) {
		d := declined.Draft(alice.ID, "m.room.member", map[string]any{"membership": "leave"}, alice.ID)
		return http.StatusOK, map[string]any{"room_version": "12", "event": d.With("origin", f.Name).With("origin_server_ts", 1)}
	})
	f.AnswerWith("/send_leave/", http.StatusOK, map[string]any{})
	alice.Leave(declined.ID)
	if len(f.Requests("/send_leave/"+declined.ID)) != 1 {
		t.Error("the inviter's server was not told that the invitation is declined")
	}

	alice.Leave(room.ID)
	room.Receive(f.WaitPDU(patience, func(pdu gjson.Result) bool {
		return pdu.Get("room_id").Str == room.ID && pdu.Get("content.membership").Str == "leave"
	}).Raw)
	if r := join(alice, room.ID); r.Status != http.StatusOK {
		t.Errorf("joining again: %d %s", r.Status, r.Body)
	}
	speaks("after a return", room)
	noPanic(t, s)
}

var malformed = []string{
	"!", "!x", "x", "!:", "!:x", "!a:", "!a:b:c", "#x:y", "$x", "!" + strings.Repeat("a", 42), "!" + strings.Repeat("a", 44),
	"!" + strings.Repeat("+", 43), "!a b:c", "!\x00:x", "!" + strings.Repeat("a", 300) + ":x", "!é:x", "..",
}

// TestMalformedRoomIDs: federation requests with malformed room IDs, or IDs of unknown rooms, are refused.
func TestMalformedRoomIDs(t *testing.T) {
	c := newScene(t, "12", nil)
	ids := append([]string{"!" + strings.Repeat("a", 43), "!unknown:" + c.f.Name}, malformed...)
	for _, id := range ids {
		event := c.f.Sign("12", c.room.Draft(c.bob, "m.room.member", map[string]any{"membership": "join"}, c.bob).With("room_id", id))
		inv := c.f.Sign("12", c.room.Draft(c.bob, "m.room.member", map[string]any{"membership": "invite"}, c.alice.ID).With("room_id", id))
		bodies := map[string]any{
			"invite": map[string]any{"room_version": "12", "event": inv, "invite_room_state": []any{}},
			"get_missing_events": map[string]any{
				"earliest_events": []string{}, "latest_events": []string{event.ID}, "limit": 10,
			},
			"peek": map[string]any{"renewal_interval": 1}, "exchange_third_party_invite": event,
		}
		for _, path := range []string{
			"GET v1 state ?event_id=$x", "GET v1 state_ids ?event_id=$x", "GET v1 event_auth $x", "GET v1 backfill ?v=$x&limit=5",
			"GET v1 make_join @u ?ver=12", "GET v1 make_leave @u", "GET v1 make_knock @u ?ver=12", "GET v1 hierarchy",
			"PUT v1 send_join $x", "PUT v2 send_join $x", "PUT v1 send_leave $x", "PUT v2 send_leave $x", "PUT v1 send_knock $x",
			"PUT v1 invite $x", "PUT v2 invite $x", "PUT v3 invite @a", "POST v1 get_missing_events", "PUT v1 exchange_third_party_invite",
			"PUT v1 peek x",
		} {
			parts := strings.Fields(path)
			method, version, name := parts[0], parts[1], parts[2]
			target, query := rig.FederationPath(version, name, id), ""
			for _, part := range parts[3:] {
				if strings.HasPrefix(part, "?") {
					query = part
				} else {
					target += "/" + url.PathEscape(strings.NewReplacer("@u", c.bob, "@a", c.alice.ID, "$x", event.ID).Replace(part))
				}
			}
			var body any
			if method != http.MethodGet {
				if body = bodies[name]; body == nil {
					body = event
				}
			}
			r := c.f.Ask(c.s, method, target+strings.ReplaceAll(query, "$x", url.QueryEscape(event.ID)), body)
			if version == "v3" {
				continue // invites by pseudo IDs, which are not in use; there must be no panic
			}
			if r.Status >= 500 || r.Status < 300 && name != "event_auth" && name != "get_missing_events" {
				t.Errorf("%s of %q: %d %s", path, id, r.Status, r.Body)
			}
		}
		for _, version := range []string{"10", "12"} {
			c.f.MustSend(c.s, c.f.Sign(version, c.room.Draft(c.bob, "m.room.message", rig.Text("x")).With("room_id", id)))
		}
	}
	c.works()
}

// TestPeek: a room of version 12 can be peeked into, here and on a server that the request names. Malformed IDs are
// refused.
func TestPeek(t *testing.T) {
	s, f := rig.New(t, rig.Config{Federation: true, Set: map[string]any{"mscs.mscs": []any{"msc2753"}}}), rig.NewFake(t)
	alice, bob := s.Register(t, "alice"), s.Register(t, "bob")
	room := alice.CreateRoom(map[string]any{"room_version": "12", "initial_state": []any{map[string]any{
		"type": "m.room.history_visibility", "state_key": "", "content": map[string]any{"history_visibility": "world_readable"},
	}}})
	peek := func(room string, via ...string) rig.Response {
		return bob.Do(http.MethodPost, rig.Path("peek", room), url.Values{"server_name": via}, map[string]any{})
	}
	if r := peek(room); r.Status != http.StatusOK {
		t.Errorf("a room of ours: %d %s", r.Status, r.Body)
	}
	remote := f.NewRoom("12", f.User("carol"), nil)
	if r := peek(remote.ID, f.Name); r.Status >= 500 && len(f.Requests("/v1/peek/")) == 0 {
		t.Errorf("a room of the fake server: it was not asked: %d %s", r.Status, r.Body)
	}
	for _, id := range malformed {
		if strings.Contains(id, ":") {
			continue // it names a server, which would be asked
		}
		if r := peek(id); r.Status < 400 || r.Status >= 500 {
			t.Errorf("peek into %q: %d %s", id, r.Status, r.Body)
		}
		if r := bob.Do(http.MethodPost, rig.Path("rooms", id, "unpeek"), nil, map[string]any{}); r.Status >= 500 {
			t.Errorf("unpeek from %q: %d %s", id, r.Status, r.Body)
		}
	}
	noPanic(t, s)
}

// TestFirstEventOnTheWire: other servers get the create event without a room_id (MSC4291).
func TestFirstEventOnTheWire(t *testing.T) {
	c := newScene(t, "12", nil)
	create := "$" + c.room.ID[1:]
	last := c.alice.Send(c.room.ID, "m.room.message", rig.Text("last"))
	for path, list := range map[string]string{
		rig.FederationPath("v1", "backfill", c.room.ID) + "?limit=100&v=" + url.QueryEscape(last):           "pdus",
		rig.FederationPath("v1", "event", create):                                                           "pdus",
		rig.FederationPath("v1", "state", c.room.ID) + "?event_id=" + url.QueryEscape(c.room.Last[0]):       "pdus",
		rig.FederationPath("v1", "event_auth", c.room.ID, c.room.Last[0]):                                   "auth_chain",
		rig.FederationPath("v1", "state", c.room.ID) + "?event_id=" + url.QueryEscape(c.room.Last[0]) + "&": "auth_chain",
	} {
		r := c.f.Ask(c.s, http.MethodGet, path, nil)
		found := false
		for _, pdu := range r.JSON.Get(list).Array() {
			if pdu.Get("type").Str == "m.room.create" {
				found = true
				if id := rig.ReadEvent("12", pdu.Raw).ID; pdu.Get("room_id").Exists() || id != create {
					t.Errorf("%s: %s %s", path, id, pdu.Raw)
				}
			} else if strings.Contains(pdu.Get("auth_events").Raw, create) {
				t.Errorf("%s: the create event is listed: %s", path, pdu.Raw)
			}
		}
		if !found {
			t.Errorf("%s: no create event: %d %s", path, r.Status, r.Body)
		}
	}

	room := c.f.NewRoom("12", c.bob, nil) // the other direction: our server reads back to the first event
	for range 30 {
		room.Message(c.bob, "history")
	}
	c.alice.Join(room.ID, c.f.Name)
	c.alice.WaitFor(room.ID, func(e gjson.Result) bool { return e.Get("state_key").Str == c.alice.ID }, patience)
	from, found := "", false
	for range 20 {
		query := url.Values{"dir": {"b"}, "limit": {"10"}}
		if from != "" {
			query.Set("from", from)
		}
		r := c.alice.Do(http.MethodGet, rig.Path("rooms", room.ID, "messages"), query, nil)
		for _, e := range r.JSON.Get("chunk").Array() {
			if e.Get("type").Str == "m.room.create" {
				found = true
				if e.Get("room_id").Str != room.ID || e.Get("event_id").Str != "$"+room.ID[1:] {
					t.Errorf("alice gets %s", e.Raw)
				}
			}
		}
		if from = r.JSON.Get("end").Str; from == "" {
			break
		}
	}
	if !found {
		t.Error("alice does not get back to the first event")
	}
	noPanic(t, c.s)
}
