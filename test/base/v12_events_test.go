package base

import (
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
)

var v12 = gomatrixserverlib.MustGetRoomVersion("12")

// The vectors were computed by a separate program, whose hashes agree with Synapse's.
const (
	createVector = `{"auth_events":[],"content":{"additional_creators":["@bob:hs2"],"room_version":"12"},"depth":1,"hashes":{"sha256":"5ua1Ls/Y/toWzrVS94Kh2RDMaw2eSwBuq4c0PNOYU7U"},"origin_server_ts":1700000000000,"prev_events":[],"sender":"@alice:hs1","state_key":"","type":"m.room.create"}`
	roomVector   = "!14tuVj_Z3aAGzWmQdYkJaxUNaPx_Q5rPUaS6xRy1iNw"
	createID     = "$14tuVj_Z3aAGzWmQdYkJaxUNaPx_Q5rPUaS6xRy1iNw"

	originVector     = `{"auth_events":[],"content":{"additional_creators":["@bob:hs2"],"room_version":"12"},"depth":1,"hashes":{"sha256":"UBLDiPkM4spu+d7m3rm8RsbFQ+sOneaN45Zgt6SWQBM"},"origin":"hs1","origin_server_ts":1700000000000,"prev_events":[],"sender":"@alice:hs1","state_key":"","type":"m.room.create"}`
	originRoomVector = "!DnbruCXdoxfsuXIiPAViI-YECusYQYtXOK4fzMCo9IA"

	joinVector = `{"auth_events":[],"content":{"displayname":"Alice","membership":"join"},"depth":2,"hashes":{"sha256":"pZ7TVeE5ZG8SRqvipjGOqrELDPsqGNyfFNQwaeOZ2kU"},"origin_server_ts":1700000000001,"prev_events":["$14tuVj_Z3aAGzWmQdYkJaxUNaPx_Q5rPUaS6xRy1iNw"],"room_id":"!14tuVj_Z3aAGzWmQdYkJaxUNaPx_Q5rPUaS6xRy1iNw","sender":"@alice:hs1","state_key":"@alice:hs1","type":"m.room.member"}`
	joinID     = "$_SFdWlfzJgCOGv_X1UXBfx7HO8baPJjLWBGcgbZ1IjI"

	inviteVector = `{"auth_events":["$_SFdWlfzJgCOGv_X1UXBfx7HO8baPJjLWBGcgbZ1IjI"],"content":{"membership":"invite","third_party_invite":{"display_name":"carol","signed":{"mxid":"@carol:hs2","signatures":{"id.example":{"ed25519:0":"c2ln"}},"token":"abc"}}},"depth":3,"hashes":{"sha256":"XqvizG0oZ8IqDF6XuhTlP0pCCrNRl6Fai6GnQyu3qaY"},"origin_server_ts":1700000000002,"prev_events":["$_SFdWlfzJgCOGv_X1UXBfx7HO8baPJjLWBGcgbZ1IjI"],"room_id":"!14tuVj_Z3aAGzWmQdYkJaxUNaPx_Q5rPUaS6xRy1iNw","sender":"@alice:hs1","state_key":"@carol:hs2","type":"m.room.member"}`
	inviteID     = "$t8zOvmsh_Cyj_Bu9xF6Dur_EVBaTnOFALxT5I3z_Hjo"
)

func received(t *testing.T, raw string) gomatrixserverlib.PDU {
	t.Helper()
	pdu, err := v12.NewEventFromUntrustedJSON([]byte(raw))
	if err != nil {
		t.Fatalf("%v: %s", err, raw)
	}
	return pdu
}

func TestVectorsOfVersion12(t *testing.T) {
	for _, v := range []struct{ name, raw, id, room string }{
		{"create", createVector, createID, roomVector},
		{"create with origin", originVector, "$" + originRoomVector[1:], originRoomVector},
		{"join", joinVector, joinID, roomVector},
		{"third party invite", inviteVector, inviteID, roomVector},
	} {
		t.Run(v.name, func(t *testing.T) {
			pdu := received(t, v.raw)
			if pdu.Redacted() || string(pdu.JSON()) != v.raw {
				t.Errorf("received as %s", pdu.JSON())
			}
			check := func(what string, pdu gomatrixserverlib.PDU) {
				t.Helper()
				if id, room := pdu.EventID(), pdu.RoomID(); id != v.id || room.String() != v.room {
					t.Errorf("%s: ID %s of room %s", what, id, room.String())
				}
			}
			check("received", pdu)
			stored, err := v12.NewEventFromTrustedJSON(pdu.JSON(), false)
			if err != nil {
				t.Fatal(err)
			}
			check("stored", stored)
			unsigned, err := pdu.SetUnsigned(map[string]int{"age": 1})
			if err != nil {
				t.Fatal(err)
			}
			check("with an unsigned part", unsigned)
			check("signed", pdu.Sign("hs1", "ed25519:1", inviteSigner))
			pdu.Redact()
			check("redacted", pdu)
			if again := received(t, string(pdu.JSON())); again.EventID() != v.id || again.Redacted() == (v.name == "create") {
				t.Error("a redacted event has another ID, or is not seen to be redacted")
			}
		})
	}
}

// A redacted third party invite keeps the signed part, also in version 11.
func TestRedactedThirdPartyInvite(t *testing.T) {
	for _, version := range []gomatrixserverlib.RoomVersion{"11", "12"} {
		for content, want := range map[string]string{
			`{"membership":"invite","third_party_invite":{"display_name":"x","signed":{"a":1}}}`: `{"membership":"invite","third_party_invite":{"signed":{"a":1}}}`,
			`{"membership":"invite","third_party_invite":{"display_name":"x"}}`:                  `{"membership":"invite","third_party_invite":{}}`,
			`{"membership":"invite","third_party_invite":"x"}`:                                   `{"membership":"invite"}`,
			`{"membership":"invite","third_party_invite":null}`:                                  `{"membership":"invite"}`,
		} {
			raw := fields{{"type", `"m.room.member"`}, {"content", content}}
			redacted, err := gomatrixserverlib.MustGetRoomVersion(version).RedactEventJSON([]byte(raw.String()))
			if err != nil {
				t.Fatal(err)
			}
			var got struct{ Content json.RawMessage }
			if err := json.Unmarshal(redacted, &got); err != nil {
				t.Fatal(err)
			}
			if canonical, err := gomatrixserverlib.CanonicalJSON(got.Content); err != nil || string(canonical) != want {
				t.Errorf("version %s: %s becomes %s, %v", version, content, canonical, err)
			}
		}
	}
}

// event12 is an event in the room of the vectors.
func event12(eventType, stateKey, sender, content string, auth ...string) fields {
	return fields{
		{"type", quote(eventType)}, {"state_key", quote(stateKey)}, {"sender", quote(sender)}, {"content", content}, {"room_id", quote(roomVector)},
		{"origin_server_ts", "1700000000003"}, {"depth", "4"}, {"prev_events", references("12", []string{joinID})}, {"auth_events", references("12", auth)},
	}
}

func TestParsingOfVersion12(t *testing.T) {
	name := event12("m.room.name", "", "@alice:hs1", `{"name":"x"}`, joinID)
	create := fields{
		{"type", `"m.room.create"`}, {"state_key", `""`}, {"sender", `"@alice:hs1"`}, {"content", `{"room_version":"12"}`},
		{"origin_server_ts", "1"}, {"depth", "1"}, {"prev_events", "[]"}, {"auth_events", "[]"},
	}
	for what, f := range map[string]fields{"an event": name, "a create event": create, "one with odd keys": name.set("<&>", `"\u2028"`).set("\u017fender", "1")} {
		if pdu, err := v12.NewEventFromUntrustedJSON([]byte(f.hashed().String())); err != nil || pdu.Redacted() {
			t.Errorf("%s: %v", what, err)
		}
	}
	ten := slices.Repeat([]string{joinID}, 11)
	for what, f := range map[string]fields{
		"create with room_id":          create.set("room_id", quote(roomVector)),
		"create with empty room_id":    create.set("room_id", `""`),
		"create with null room_id":     create.set("room_id", "null"),
		"create of another state key":  create.set("state_key", `"x"`),
		"create as a message":          create.set("state_key", ""),
		"no room_id":                   name.set("room_id", ""),
		"room_id with a domain":        name.set("room_id", `"!room:hs1"`),
		"hash with a domain":           name.set("room_id", quote(roomVector+":hs1")),
		"room_id too short":            name.set("room_id", quote(roomVector[:43])),
		"room_id of another alphabet":  name.set("room_id", quote(strings.Replace(roomVector, "_", "/", 1))),
		"create listed":                name.set("auth_events", references("12", []string{joinID, createID})),
		"no auth_events":               name.set("auth_events", ""),
		"no prev_events":               name.set("prev_events", ""),
		"auth_events as references":    name.set("auth_events", references("1", []string{joinID})),
		"eleven auth_events":           name.set("auth_events", references("12", ten)),
		"twenty-one prev_events":       name.set("prev_events", references("12", slices.Repeat(ten, 2))),
		"a headered event":             name.set("_room_version", `"12"`),
		"content that is a list":       name.set("content", "[]"),
		"content that is null":         name.set("content", "null"),
		"no content":                   name.set("content", ""),
		"sender without sigil":         name.set("sender", `"alice:hs1"`),
		"a long state key":             name.set("state_key", quote(strings.Repeat("x", 256))),
		"a float":                      name.set("content", `{"n":1.0}`),
		"a float of zero":              name.set("content", `{"n":0.0}`),
		"an exponent":                  name.set("content", `{"n":1e3}`),
		"an exponent in upper case":    name.set("content", `{"n":[0E0]}`),
		"negative zero":                name.set("content", `{"n":-0}`),
		"2^53":                         name.set("content", `{"n":9007199254740992}`),
		"-2^53":                        name.set("content", `{"n":-9007199254740992}`),
		"half a surrogate pair":        name.set("content", `{"n":"\ud800"}`),
		"the other half":               name.set("content", `{"n":"\udc00"}`),
		"half a pair and a letter":     name.set("content", `{"n":"\ud83dx\ude00"}`),
		"half a pair in a key":         name.set("content", `{"\ud83d\u0041":1}`),
		"no JSON":                      {{"x", "01"}},
		"an event of more than 64 KiB": name.set("content", `{"n":"`+strings.Repeat("x", 65536)+`"}`),
	} {
		if pdu, err := v12.NewEventFromUntrustedJSON([]byte(f.hashed().String())); err == nil {
			t.Errorf("%s: accepted as %s", what, pdu.JSON())
		}
	}
	for what, content := range map[string]string{
		"the largest numbers": `{"a":9007199254740991,"b":-9007199254740991,"c":0}`, "numbers in strings": `{"n":"1.5e3 -0"}`,
		"quotes": `{"n":"\"1.5\\"}`, "a surrogate pair": `{"n":"\ud83d\ude00"}`, "a backslash before u": `{"n":"\\ud800"}`,
	} {
		if _, err := v12.NewEventFromUntrustedJSON([]byte(name.set("content", content).hashed().String())); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// Of two members with the same name the last one counts, for the hash as for everything else.
func TestDuplicateKeys(t *testing.T) {
	last := event12("m.room.member", "@bob:hs2", "@bob:hs2", `{"a":[{"x":2}],"membership":"leave"}`, joinID).hashed()
	twice := last.set("content", `{"membership":"join","a":[{"x":1,"x":2}],"m\u0065mbership":"leave"}`)
	a, b := received(t, last.String()), received(t, twice.String())
	if b.Redacted() || a.EventID() != b.EventID() || string(a.JSON()) != string(b.JSON()) {
		t.Errorf("%s is read as %s", twice, b.JSON())
	}
	forged := twice.hashed() // as if both counted
	if pdu := received(t, forged.String()); pdu.StateKey() == nil {
		t.Error("no state key")
	} else if m, err := pdu.Membership(); err != nil || m != "leave" {
		t.Errorf("membership %s, %v", m, err)
	}
}

// A name that differs from a field's name only in case is not that field.
func TestLookalikes(t *testing.T) {
	plain := event12("m.room.name", "", "@alice:hs1", `{}`, joinID)
	f := append(plain, field{"\u017fender", `"@bob:hs2"`}, field{"state_\u212aey", `"x"`}, field{"Type", `"m.room.topic"`}, field{"ROOM_ID", "1"}).hashed()
	pdu := received(t, f.String())
	if pdu.SenderID() != "@alice:hs1" || !pdu.StateKeyEquals("") || pdu.Type() != "m.room.name" || pdu.Redacted() {
		t.Errorf("read as of %s, %s", pdu.SenderID(), pdu.Type())
	}
	if !strings.Contains(string(pdu.JSON()), "\u017fender") {
		t.Error("they are not kept")
	}
	want := received(t, plain.set("hashes", f.get("hashes")).String()) // redacted, so it has the same ID
	if pdu.EventID() != want.EventID() {
		t.Errorf("ID %s, without them %s", pdu.EventID(), want.EventID())
	}
}

func TestMembershipByItsName(t *testing.T) {
	for content, want := range map[string]string{
		`{"membership":"leave","Membership":"ban","member\u017fhip":"join"}`: "leave", `{"member\u017fhip":"join"}`: "", `{}`: "",
	} {
		pdu := received(t, event12("m.room.member", "@bob:hs2", "@bob:hs2", content).hashed().String())
		if m, err := pdu.Membership(); err != nil || m != want || pdu.Redacted() {
			t.Errorf("%s: %q, %v", content, m, err)
		}
	}
	for _, f := range []fields{event12("m.room.member", "@bob:hs2", "@bob:hs2", `{"membership":1}`), event12("m.room.name", "", "@bob:hs2", join).set("state_key", "")} {
		if m, err := received(t, f.hashed().String()).Membership(); err == nil {
			t.Errorf("%s: %q", f, m)
		}
	}
}

func TestBadContentHashRedacts(t *testing.T) {
	pdu := received(t, strings.Replace(inviteVector, `"display_name":"carol"`, `"display_name":"mallory"`, 1))
	if !pdu.Redacted() || pdu.EventID() != inviteID || strings.Contains(string(pdu.JSON()), "mallory") {
		t.Errorf("received as %s", pdu.JSON())
	}
}

func TestAuthEventsOfVersion12(t *testing.T) {
	if ids := received(t, createVector).AuthEventIDs(); len(ids) != 0 {
		t.Errorf("create: %v", ids)
	}
	if ids := received(t, joinVector).AuthEventIDs(); !slices.Equal(ids, []string{createID}) {
		t.Errorf("join: %v", ids)
	}
	if ids := received(t, inviteVector).AuthEventIDs(); !slices.Equal(ids, []string{createID, joinID}) {
		t.Errorf("invite: %v", ids)
	}
	if ids := gomatrixserverlib.ListedAuthEvents("12", roomVector, []string{createID, joinID}); !slices.Equal(ids, []string{joinID}) {
		t.Errorf("listed: %v", ids)
	}
	if ids := gomatrixserverlib.ListedAuthEvents("11", "!x:one", []string{createID}); !slices.Equal(ids, []string{createID}) {
		t.Errorf("listed in version 11: %v", ids)
	}
}

func TestBuildingOfVersion12(t *testing.T) {
	build := func(proto *gomatrixserverlib.ProtoEvent, state ...gomatrixserverlib.PDU) (gomatrixserverlib.PDU, map[string]any) {
		t.Helper()
		eb := v12.NewEventBuilderFromProtoEvent(proto)
		auth := gomatrixserverlib.NewAuthEvents(state)
		if err := eb.AddAuthEvents(&auth); err != nil {
			t.Fatal(err)
		}
		pdu, err := eb.Build(time.UnixMilli(1_700_000_000_000), "hs1", "ed25519:1", inviteSigner)
		if err != nil {
			t.Fatal(err)
		}
		var wire map[string]any
		if err := json.Unmarshal(pdu.JSON(), &wire); err != nil {
			t.Fatal(err)
		}
		if again := received(t, string(pdu.JSON())); again.EventID() != pdu.EventID() || again.Redacted() {
			t.Error("received it is another event")
		}
		redacted, err := v12.RedactEventJSON(pdu.JSON())
		if err == nil {
			err = gomatrixserverlib.VerifyJSON("hs1", "ed25519:1", inviteSigner.Public().(ed25519.PublicKey), redacted)
		}
		if err != nil {
			t.Error(err)
		}
		return pdu, wire
	}
	empty, alice := "", "@alice:hs1"
	create, wire := build(&gomatrixserverlib.ProtoEvent{
		Type: "m.room.create", StateKey: &empty, SenderID: alice, Depth: 1, Content: spec.RawJSON(`{"room_version":"12"}`), RoomID: "whatever",
	})
	if _, has := wire["room_id"]; has || len(wire["auth_events"].([]any)) != 0 {
		t.Errorf("create: %v", wire)
	}
	room := create.RoomID()
	if room.String() != "!"+create.EventID()[1:] || !room.IsDomainless() || room.Domain() != "" {
		t.Errorf("room ID %q of the create event %s", room, create.EventID())
	}
	join, wire := build(&gomatrixserverlib.ProtoEvent{
		Type: "m.room.member", StateKey: &alice, SenderID: alice, Depth: 2, Content: spec.RawJSON(`{"membership":"join"}`), RoomID: room.String(),
		PrevEvents: []string{create.EventID()},
	}, create)
	if wire["room_id"] != room.String() || len(wire["auth_events"].([]any)) != 0 {
		t.Errorf("join: %v", wire)
	}
	_, wire = build(&gomatrixserverlib.ProtoEvent{
		Type: "m.room.name", StateKey: &empty, SenderID: alice, Depth: 3, Content: spec.RawJSON(`{}`), RoomID: room.String(), PrevEvents: []string{join.EventID()},
	}, create, join)
	if fmt.Sprint(wire["auth_events"]) != fmt.Sprint([]string{join.EventID()}) {
		t.Errorf("name: %v", wire)
	}
}

func TestCheckListedAuthEvents(t *testing.T) {
	state := func(eventType, key string) gomatrixserverlib.PDU {
		return received(t, event12(eventType, key, "@alice:hs1", `{"membership":"join","n":"`+eventType+key+`"}`).hashed().String())
	}
	levels, alice, bob, rules := state("m.room.power_levels", ""), state("m.room.member", "@alice:hs1"), state("m.room.member", "@bob:hs2"), state("m.room.join_rules", "")
	token := state("m.room.third_party_invite", "abc")
	foreign := received(t, event12("m.room.power_levels", "", "@alice:hs1", `{}`).set("room_id", quote(originRoomVector)).hashed().String())
	message := received(t, event12("m.room.power_levels", "", "@alice:hs1", `{}`).set("state_key", "").hashed().String())
	create := received(t, createVector)
	name := event12("m.room.name", "", "@alice:hs1", `{}`)
	member := func(content string) fields { return event12("m.room.member", "@bob:hs2", "@alice:hs1", content) }
	for _, c := range []struct {
		what   string
		event  fields
		listed []gomatrixserverlib.PDU
		ok     bool
	}{
		{"all that is needed", name, []gomatrixserverlib.PDU{levels, alice}, true},
		{"nothing", name, nil, true},
		{"aliases are events like others", event12("m.room.aliases", "hs1", "@alice:hs1", `{}`), []gomatrixserverlib.PDU{levels, alice}, true},
		{"somebody else's membership", name, []gomatrixserverlib.PDU{bob}, false},
		{"join rules of a name", name, []gomatrixserverlib.PDU{rules}, false},
		{"one event twice", name, []gomatrixserverlib.PDU{levels, levels}, false},
		{"two of one key", name, []gomatrixserverlib.PDU{alice, received(t, joinVector)}, false},
		{"another room", name, []gomatrixserverlib.PDU{foreign}, false},
		{"no state", name, []gomatrixserverlib.PDU{message}, false},
		{"an invite's", member(`{"membership":"invite"}`), []gomatrixserverlib.PDU{levels, alice, bob, rules}, true},
		{"a ban's join rules", member(`{"membership":"ban"}`), []gomatrixserverlib.PDU{rules}, false},
		{"a third party invite's", member(`{"membership":"invite","third_party_invite":{"signed":{"token":"abc"}}}`), []gomatrixserverlib.PDU{token}, true},
		{"a leave's token", member(`{"membership":"leave","third_party_invite":{"signed":{"token":"abc"}}}`), []gomatrixserverlib.PDU{token}, false},
		{"an authorised join's", event12("m.room.member", "@carol:hs2", "@carol:hs2", `{"membership":"join","join_authorised_via_users_server":"@bob:hs2"}`), []gomatrixserverlib.PDU{bob}, true},
		{"a create event's", nil, []gomatrixserverlib.PDU{alice}, false},
	} {
		event := create
		if c.event != nil {
			event = received(t, c.event.hashed().String())
		}
		if err := gomatrixserverlib.CheckListedAuthEvents(event, c.listed); (err == nil) != c.ok {
			t.Errorf("%s: %v", c.what, err)
		}
	}
}
