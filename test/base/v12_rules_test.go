package base

import (
	"fmt"
	"strings"
	"testing"

	"github.com/matrix-org/gomatrixserverlib"
)

// room12 is a state of the room of the vectors, whose creators are @alice:hs1 and @bob:hs2. Its values are contents by
// type and, after a space, state key.
type room12 map[string]string

const (
	alice, bob, carol, dave = "@alice:hs1", "@bob:hs2", "@carol:hs2", "@dave:hs1"

	join, invited, left, banned, knocked = `{"membership":"join"}`, `{"membership":"invite"}`, `{"membership":"leave"}`, `{"membership":"ban"}`, `{"membership":"knock"}`
)

// ordinary is a typical room: carol has 50, dave nothing.
func ordinary(changes ...string) room12 {
	r := room12{
		"m.room.member " + alice: join, "m.room.member " + bob: join, "m.room.member " + carol: join, "m.room.member " + dave: join,
		"m.room.power_levels ": `{"users":{"` + carol + `":50},"invite":50,"events":{"m.room.tombstone":150}}`,
		"m.room.join_rules ":   `{"join_rule":"invite"}`,
	}
	for i := 0; i < len(changes); i += 2 {
		if r[changes[i]] = changes[i+1]; changes[i+1] == "" {
			delete(r, changes[i])
		}
	}
	return r
}

func (r room12) provider(t *testing.T) gomatrixserverlib.AuthEventProvider {
	t.Helper()
	create := createVector
	if content, ok := r["m.room.create "]; ok {
		create = strings.Replace(createVector, `{"additional_creators":["@bob:hs2"],"room_version":"12"}`, content, 1)
	}
	provider := gomatrixserverlib.NewAuthEvents(nil)
	add := func(raw string) {
		pdu, err := v12.NewEventFromTrustedJSON([]byte(raw), false)
		if err == nil {
			err = provider.AddEvent(pdu)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	add(create)
	made, _ := provider.Create()
	room := made.RoomID()
	for key, content := range r {
		eventType, stateKey, _ := strings.Cut(key, " ")
		if eventType != "m.room.create" {
			sender, _, _ := strings.Cut(stateKey, "\x00")
			if !strings.HasPrefix(sender, "@") {
				sender = alice
			}
			add(event12(eventType, stateKey, sender, content).set("room_id", quote(room.String())).String())
		}
	}
	return &provider
}

// judge checks the event in the room. If the room has another create event, the event gets that room's ID.
func (r room12) judge(t *testing.T, event fields) error {
	t.Helper()
	provider := r.provider(t)
	create, err := provider.Create()
	if err != nil {
		t.Fatal(err)
	}
	if room := create.RoomID(); event.get("room_id") == quote(roomVector) && r["m.room.create "] != "" {
		event = event.set("room_id", quote(room.String()))
	}
	pdu, err := v12.NewEventFromTrustedJSON([]byte(event.String()), false)
	if err != nil {
		t.Fatal(err)
	}
	return gomatrixserverlib.Allowed(pdu, provider, users)
}

func create12(content string) fields {
	return fields{
		{"type", `"m.room.create"`}, {"state_key", `""`}, {"sender", quote(alice)}, {"content", content}, {"origin_server_ts", "1"},
		{"depth", "1"}, {"prev_events", "[]"}, {"auth_events", "[]"},
	}
}

func member12(target, sender, content string) fields {
	return event12("m.room.member", target, sender, content)
}

func levels12(sender, content string) fields {
	return event12("m.room.power_levels", "", sender, content)
}

func firstJoin(target, sender string) fields {
	return member12(target, sender, join).set("prev_events", references("12", []string{createID}))
}

type ruling struct {
	rule  string
	event fields
	room  room12
	ok    bool
}

func judgeAll(t *testing.T, rulings []ruling) {
	t.Helper()
	for _, r := range rulings {
		if err := r.room.judge(t, r.event); (err == nil) != r.ok {
			t.Errorf("%s: %v\n%s", r.rule, err, r.event)
		}
	}
}

func TestRules1To4(t *testing.T) {
	unfederated := ordinary("m.room.create ", `{"room_version":"12","m.federate":false}`)
	name := event12("m.room.name", "", alice, `{}`)
	rulings := []ruling{
		{"1.5 a create event", create12(`{"room_version":"12"}`), nil, true},
		{"1.5 without a room version", create12(`{}`), nil, true},
		{"1.1 prev_events", create12(`{}`).set("prev_events", references("12", []string{joinID})), nil, false},
		{"1.3 an unknown version", create12(`{"room_version":"12x"}`), nil, false},
		{"1.3 a version that is a number", create12(`{"room_version":12}`), nil, false},
		{"1.4 additional creators", create12(`{"additional_creators":["@x:hs1","@é:y.example:80","` + alice + `","@x:hs1"]}`), nil, true},
		{"1.4 none of them", create12(`{"additional_creators":[]}`), nil, true},
		{"2 the room of the create event", name, ordinary(), true},
		{"2 another room", name.set("room_id", quote(originRoomVector)), ordinary(), false},
		{"4 a user of the creator's server", event12("m.room.topic", "", dave, `{}`), unfederated.with("m.room.power_levels ", `{"state_default":0}`), true},
		{"4 a user of another server", event12("m.room.topic", "", carol, `{}`), unfederated.with("m.room.power_levels ", `{"state_default":0}`), false},
		{"4 a member of another server", member12("@x:hs3", alice, invited), unfederated, false},
		{"4 m.federate is true", event12("m.room.topic", "", bob, `{}`), ordinary("m.room.create ", `{"m.federate":true,"additional_creators":["@bob:hs2"]}`), true},
		{"4 m.federate is no bool", event12("m.room.topic", "", bob, `{}`), ordinary("m.room.create ", `{"m.federate":"x","additional_creators":["@bob:hs2"]}`), false},
	}
	for _, bad := range []string{`null`, `"@x:hs1"`, `[1]`, `[null]`, `["x"]`, `["@x"]`, `["x:hs1"]`, `["@x:dom$ain$.com"]`, `["@x:"]`, `{}`, fmt.Sprintf(`["@%s:hs1"]`, strings.Repeat("x", 256))} {
		rulings = append(rulings, ruling{"1.4 " + bad, create12(`{"additional_creators":` + bad + `}`), nil, false})
	}
	judgeAll(t, rulings)
}

func (r room12) with(key, content string) room12 {
	r[key] = content
	return r
}

func TestRule5Joins(t *testing.T) {
	alone := room12{}
	rule := func(rule string, changes ...string) room12 {
		return ordinary(append([]string{"m.room.join_rules ", `{"join_rule":"` + rule + `"}`}, changes...)...)
	}
	eve := "@eve:hs3"
	eves := "m.room.member " + eve
	by := func(user string) fields {
		return member12(eve, eve, `{"membership":"join","join_authorised_via_users_server":"`+user+`"}`)
	}
	judgeAll(t, []ruling{
		{"5.1 no membership", member12(eve, eve, `{}`), rule("public"), false},
		{"5.1 no state key", member12(eve, eve, join).set("state_key", ""), rule("public"), false},
		{"5.3.1 the creator's first event", firstJoin(alice, alice), alone, true},
		{"5.3.1 by whomever it is sent", firstJoin(alice, bob), alone, true},
		{"5.3.1 an additional creator's", firstJoin(bob, bob), alone, false},
		{"5.3.1 after another event", member12(alice, alice, join), alone, false},
		{"5.3.1 after two events", member12(alice, alice, join).set("prev_events", references("12", []string{createID, joinID})), alone, false},
		{"5.3.2 somebody else", member12(eve, alice, join), rule("public"), false},
		{"5.3.3 banned", member12(eve, eve, join), rule("public", eves, banned), false},
		{"5.3.4 invited", member12(eve, eve, join), rule("invite", eves, invited), true},
		{"5.3.4 joined already", member12(carol, carol, join), rule("invite"), true},
		{"5.3.4 not invited", member12(eve, eve, join), rule("invite"), false},
		{"5.3.4 knocked", member12(eve, eve, join), rule("knock", eves, knocked), false},
		{"5.3.4 invited after knocking", member12(eve, eve, join), rule("knock", eves, invited), true},
		{"5.3.5 authorised by who can invite", by(carol), rule("restricted"), true},
		{"5.3.5 authorised by a creator", by(bob), rule("knock_restricted"), true},
		{"5.3.5 authorised by who cannot", by(dave), rule("restricted"), false},
		{"5.3.5 authorised by a creator who has left", by(bob), rule("restricted", "m.room.member "+bob, left), false},
		{"5.3.5 authorised by nobody", member12(eve, eve, join), rule("restricted"), false},
		{"5.3.5 invited", member12(eve, eve, join), rule("restricted", eves, invited), true},
		{"5.3.6 public", member12(eve, eve, join), rule("public"), true},
		{"5.3.6 after leaving", member12(eve, eve, join), rule("public", eves, left), true},
		{"5.3.7 private", member12(eve, eve, join), rule("private", eves, invited), false},
		{"5.3.7 no join rules", member12(eve, eve, join), ordinary("m.room.join_rules ", ""), false},
		{"5.3 a creator who has left a private room", member12(bob, bob, join), rule("invite", "m.room.member "+bob, left), false},
		{"5.7 a knock", member12(eve, eve, knocked), rule("knock"), true},
		{"5.7 a knock with restricted", member12(eve, eve, knocked), rule("knock_restricted", eves, left), true},
		{"5.7 another rule", member12(eve, eve, knocked), rule("restricted"), false},
		{"5.7 somebody else", member12(eve, alice, knocked), rule("knock"), false},
		{"5.7 banned", member12(eve, eve, knocked), rule("knock", eves, banned), false},
		{"5.7 invited", member12(eve, eve, knocked), rule("knock", eves, invited), false},
		{"5.7 joined", member12(carol, carol, knocked), rule("knock"), false},
		{"5.8 another membership", member12(eve, eve, `{"membership":"peek"}`), rule("public"), false},
		{"5.8 no string", member12(eve, eve, `{"membership":1}`), rule("public"), false},
	})
}

func TestRule5Others(t *testing.T) {
	eve := "@eve:hs3"
	eves := "m.room.member " + eve
	judgeAll(t, []ruling{
		{"5.4 by who can", member12(eve, carol, invited), ordinary(), true},
		{"5.4 by a creator", member12(eve, bob, invited), ordinary("m.room.power_levels ", `{"invite":9007199254740991}`), true},
		{"5.4 by who cannot", member12(eve, dave, invited), ordinary(), false},
		{"5.4 by who can without power levels", member12(eve, dave, invited), ordinary("m.room.power_levels ", ""), true},
		{"5.4 by who is not here", member12(eve, "@mallory:hs3", invited), ordinary(), false},
		{"5.4 joined", member12(dave, carol, invited), ordinary(), false},
		{"5.4 banned", member12(eve, carol, invited), ordinary(eves, banned), false},
		{"5.5 own", member12(dave, dave, left), ordinary(), true},
		{"5.5 a creator's own", member12(alice, alice, left), ordinary(), true},
		{"5.5 own invite", member12(eve, eve, left), ordinary(eves, invited), true},
		{"5.5 own knock", member12(eve, eve, left), ordinary(eves, knocked), true},
		{"5.5 own, not here", member12(eve, eve, left), ordinary(), false},
		{"5.5 own, banned", member12(eve, eve, left), ordinary(eves, banned), false},
		{"5.5 a kick", member12(dave, carol, left), ordinary(), true},
		{"5.5 a kick without power", member12(carol, dave, left), ordinary(), false},
		{"5.5 a kick from outside", member12(dave, eve, left), ordinary("m.room.power_levels ", `{"users":{"`+eve+`":100}}`), false},
		{"5.5 a kick of an equal", member12(dave, carol, left), ordinary("m.room.power_levels ", `{"users":{"`+carol+`":50,"`+dave+`":50}}`), false},
		{"5.5 a creator is kicked", member12(bob, carol, left), ordinary("m.room.power_levels ", `{"users":{"`+carol+`":9007199254740991}}`), false},
		{"5.5 a creator kicks a creator", member12(bob, alice, left), ordinary(), false},
		{"5.5 a creator kicks the highest", member12(carol, bob, left), ordinary("m.room.power_levels ", `{"users":{"`+carol+`":9007199254740991}}`), true},
		{"5.5 an unban", member12(eve, carol, left), ordinary(eves, banned), true},
		{"5.5 an unban by who can only kick", member12(eve, carol, left), ordinary(eves, banned, "m.room.power_levels ", `{"ban":60,"users":{"`+carol+`":50}}`), false},
		{"5.6 a ban", member12(eve, carol, banned), ordinary(), true},
		{"5.6 a ban without power", member12(eve, dave, banned), ordinary(), false},
		{"5.6 a ban of an equal", member12(carol, carol, banned), ordinary(), false},
		{"5.6 a ban from outside", member12(dave, eve, banned), ordinary(), false},
		{"5.6 a creator bans", member12(dave, bob, banned), ordinary("m.room.power_levels ", ""), true},
		{"5.6 a creator is banned", member12(alice, bob, banned), ordinary(), false},
	})
}

func TestThirdPartyInvitesOfVersion12(t *testing.T) {
	eve := "@eve:hs3"
	signed := func(user string, wrong bool) fields {
		return member12(eve, alice, `{"membership":"invite","third_party_invite":`+thirdPartyInvite(user, wrong)+`}`)
	}
	token := func(content string, changes ...string) room12 {
		return ordinary(append([]string{"m.room.third_party_invite token", content}, changes...)...)
	}
	key := `{"public_key":"` + inviteKey + `"}`
	judgeAll(t, []ruling{
		{"5.4.1 signed by the key", signed(eve, false), token(key), true},
		{"5.4.1 signed by one of the keys", signed(eve, false), token(`{"public_key":"x","public_keys":[{},{"public_key":"` + inviteKey + `"}],"display_name":1}`), true},
		{"5.4.1 by who could not invite", signed(eve, false), token(key, "m.room.member "+alice, left), true},
		{"5.4.1 banned", signed(eve, false), token(key, "m.room.member "+eve, banned), false},
		{"5.4.1 for somebody else", signed(dave, false), token(key), false},
		{"5.4.1 of another token", signed(eve, true), token(key), false},
		{"5.4.1 without a token in the room", signed(eve, false), ordinary(), false},
		{"5.4.1 no key", signed(eve, false), token(`{}`), false},
		{"5.4.1 another key", signed(eve, false), token(`{"public_key":"` + strings.Repeat("A", 43) + `"}`), false},
		{"5.4.1 by another sender", signed(eve, false).set("sender", quote(carol)), token(key), false},
		{"5.4.1 not signed", member12(eve, alice, `{"membership":"invite","third_party_invite":{"signed":{"mxid":"`+eve+`","token":"token"}}}`), token(key), false},
		{"5.4.1 null", member12(eve, alice, `{"membership":"invite","third_party_invite":null}`), token(key), false},
	})
}

func TestRules6To11(t *testing.T) {
	judgeAll(t, []ruling{
		{"6 not joined", event12("org.example", "", "@eve:hs3", `{}`), ordinary("m.room.power_levels ", `{"state_default":0}`), false},
		{"6 a creator who has left", event12("m.room.name", "", bob, `{}`), ordinary("m.room.member "+bob, left), false},
		{"7 by who can invite", event12("m.room.third_party_invite", "x", carol, `{}`), ordinary("m.room.power_levels ", `{"users":{"`+carol+`":50},"invite":50,"state_default":100}`), true},
		{"7 by who cannot", event12("m.room.third_party_invite", "x", dave, `{}`), ordinary("m.room.power_levels ", `{"invite":1,"state_default":0}`), false},
		{"8 state", event12("m.room.name", "", carol, `{}`), ordinary(), true},
		{"8 state without power", event12("m.room.name", "", dave, `{}`), ordinary(), false},
		{"8 a message", event12("m.room.message", "", dave, `{}`).set("state_key", ""), ordinary(), true},
		{"8 a message without power", event12("m.room.message", "", dave, `{}`).set("state_key", ""), ordinary("m.room.power_levels ", `{"events_default":1}`), false},
		{"8 of a type with a level", event12("m.room.tombstone", "", carol, `{}`), ordinary(), false},
		{"8 a creator", event12("m.room.tombstone", "", bob, `{}`), ordinary(), true},
		{"8 a creator against every level", event12("m.room.name", "", alice, `{}`), ordinary("m.room.power_levels ", `{"events":{"m.room.name":9007199254740991}}`), true},
		{"8 no power levels: creators", event12("m.room.name", "", bob, `{}`), ordinary("m.room.power_levels ", ""), true},
		{"8 no power levels: others", event12("m.room.name", "", carol, `{}`), ordinary("m.room.power_levels ", ""), false},
		{"8 aliases are nothing special", event12("m.room.aliases", "hs1", dave, `{}`), ordinary(), false},
		{"8 a redaction", event12("m.room.redaction", "", dave, `{"redacts":"$x"}`).set("state_key", ""), ordinary(), true},
		{"9 one's own", event12("org.example", carol, carol, `{}`), ordinary(), true},
		{"9 somebody else's", event12("org.example", dave, carol, `{}`), ordinary(), false},
		{"9 somebody else's, a creator", event12("org.example", dave, alice, `{}`), ordinary(), false},
		{"11 anything", event12("org.example", "a.b*", carol, `{}`), ordinary(), true},
		{"11 a type that is a pattern", event12("*", "", carol, `{}`), ordinary("m.room.power_levels ", `{"users":{"`+carol+`":50},"events":{"x":100}}`), true},
	})
}

func TestRule10(t *testing.T) {
	old := `{"users":{"` + carol + `":50,"` + dave + `":50},"events":{"m.room.name":50,"x":60},"notifications":{"room":60},"ban":60,"kick":50,"users_default":0}`
	room := func() room12 { return ordinary("m.room.power_levels ", old) }
	first := func() room12 { return ordinary("m.room.power_levels ", "") }
	change := func(from, to string) fields { return levels12(carol, strings.Replace(old, from, to, 1)) }
	max := `9007199254740991`
	rulings := []ruling{
		{"10.11 the same again", levels12(carol, old), room(), true},
		{"10.1 a string", levels12(alice, `{"ban":"50"}`), first(), false},
		{"10.2 events is a list", levels12(alice, `{"events":[]}`), first(), false},
		{"10.2 a level of an event is null", levels12(alice, `{"events":{"x":null}}`), first(), false},
		{"10.2 notifications has a string", levels12(alice, `{"notifications":{"room":"50"}}`), first(), false},
		{"10.3 users is null", levels12(alice, `{"users":null}`), first(), false},
		{"10.3 no user", levels12(alice, `{"users":{"x":50}}`), first(), false},
		{"10.3 a user's level is a string", levels12(alice, `{"users":{"@x:hs1":"50"}}`), first(), false},
		{"10.3 an odd user", levels12(alice, `{"users":{"@é x:hs 1":50}}`), first(), true},
		{"10.4 the creator", levels12(alice, `{"users":{"`+alice+`":100}}`), first(), false},
		{"10.4 an additional creator", levels12(alice, `{"users":{"`+bob+`":0}}`), first(), false},
		{"10.4 a creator, by another", levels12(carol, strings.Replace(old, `"users":{`, `"users":{"`+alice+`":0,`, 1)), room(), false},
		{"10.5 the first", levels12(alice, `{"users":{"`+carol+`":`+max+`}}`), first(), true},
		{"10.5 the first, by who may not", levels12(carol, `{}`), first(), false},
		{"10.6 lower what is not above", change(`"kick":50`, `"kick":0`), room(), true},
		{"10.6 raise to above", change(`"kick":50`, `"kick":51`), room(), false},
		{"10.6 lower what is above", change(`"ban":60`, `"ban":50`), room(), false},
		{"10.6 remove what is above", change(`"ban":60,`, ``), room(), false},
		{"10.6 add what is above", change(`"kick"`, `"invite":51,"kick"`), room(), false},
		{"10.6 users_default to above", change(`"users_default":0`, `"users_default":51`), room(), false},
		{"10.6 users_default", change(`"users_default":0`, `"users_default":50`), room(), true},
		{"10.7 change an event's that is above", change(`"x":60`, `"x":50`), room(), false},
		{"10.7 remove an event's that is above", change(`,"x":60`, ``), room(), false},
		{"10.7 a notification's that is above", change(`"room":60`, `"room":50`), room(), false},
		{"10.7 an event's that is equal", change(`"m.room.name":50`, `"m.room.name":10`), room(), true},
		{"10.8 an event's to above", change(`"m.room.name":50`, `"m.room.name":51`), room(), false},
		{"10.8 a new event's above", change(`"x":60`, `"x":60,"y":51`), room(), false},
		{"10.8 a new event's", change(`"x":60`, `"x":60,"y.*":50`), room(), true},
		{"10.8 a new notification's above", change(`"room":60`, `"room":60,"y":51`), room(), false},
		{"10.9 demote an equal", change(`"`+dave+`":50`, `"`+dave+`":0`), room(), false},
		{"10.9 remove an equal", change(`,"`+dave+`":50`, ``), room(), false},
		{"10.9 demote oneself", change(`"`+carol+`":50`, `"`+carol+`":0`), room(), true},
		{"10.9 remove oneself", change(`"`+carol+`":50,`, ``), room(), true},
		{"10.10 promote oneself", change(`"`+carol+`":50`, `"`+carol+`":51`), room(), false},
		{"10.10 promote another", change(`"users":{`, `"users":{"@x:hs1":50,`), room(), true},
		{"10.10 promote another to above", change(`"users":{`, `"users":{"@x:hs1":51,`), room(), false},
		{"10 a creator does all of it", levels12(bob, `{"ban":`+max+`,"users":{"@x:hs1":`+max+`}}`), room(), true},
		{"10 a creator lowers the highest", levels12(alice, `{}`), ordinary("m.room.power_levels ", `{"users":{"`+carol+`":`+max+`}}`), true},
		{"10 under another state key: checked", event12("m.room.power_levels", "x", carol, `{"ban":"x"}`), room(), false},
		{"10 under another state key: none before", event12("m.room.power_levels", "x", carol, `{"ban":1000}`), room(), true},
		{"10 without a state key", levels12(alice, `{}`).set("state_key", ""), room(), false},
	}
	judgeAll(t, rulings)
}

// The creators are those of the create event.
func TestCreators(t *testing.T) {
	create := received(t, createVector)
	if got := fmt.Sprint(gomatrixserverlib.PrivilegedCreators(create)); got != "[@alice:hs1 @bob:hs2]" {
		t.Error(got)
	}
	if got := gomatrixserverlib.PrivilegedCreators(nil); got != nil {
		t.Error(got)
	}
	levels := gomatrixserverlib.PowerLevelContent{Users: map[string]int64{carol: 50}}
	with := levels.WithCreators(create)
	if with.UserLevel(alice) != gomatrixserverlib.CreatorPowerLevel || with.UserLevel(bob) != 1<<53 || with.UserLevel(carol) != 50 || len(levels.Users) != 1 {
		t.Errorf("%v, and before %v", with.Users, levels.Users)
	}
}
