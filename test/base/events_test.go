package base

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/matrix-org/gomatrixserverlib"
)

// field is one member of a JSON object, with its raw value.
type field struct{ name, raw string }

type fields []field

func (f fields) String() string {
	members := make([]string, len(f))
	for i, m := range f {
		members[i] = quote(m.name) + ":" + m.raw
	}
	return "{" + strings.Join(members, ",") + "}"
}

// set sets a member; "" removes it.
func (f fields) set(name, raw string) fields {
	f = slices.DeleteFunc(slices.Clone(f), func(m field) bool { return m.name == name })
	if raw != "" {
		f = append(f, field{name, raw})
	}
	return f
}

func (f fields) get(name string) string {
	for _, m := range f {
		if m.name == name {
			return m.raw
		}
	}
	return ""
}

// hashed adds the correct content hash.
func (f fields) hashed() fields {
	hashless := f.set("hashes", "").set("signatures", "").set("unsigned", "")
	canonical, err := gomatrixserverlib.CanonicalJSON([]byte(hashless.String()))
	if err != nil {
		return f
	}
	sum := sha256.Sum256(canonical)
	return f.set("hashes", fmt.Sprintf(`{"sha256":%q}`, base64.RawStdEncoding.EncodeToString(sum[:])))
}

func quote(s string) string {
	raw, err := json.Marshal(s)
	if err != nil {
		panic(err)
	}
	return string(raw)
}

// stable are the versions that must not change; Dendrite also has odd ones.
var stable = []string{"1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11"}

func (g generator) version() string {
	if g.one(20) {
		return pick(g, "org.matrix.msc4014", "org.matrix.msc3667", "org.matrix.msc3787")
	}
	return pick(g, stable...)
}

func hasReferences(version string) bool { return version == "1" || version == "2" }

// references encodes IDs as prev_events or auth_events of the version.
func references(version string, ids []string) string {
	items := make([]string, len(ids))
	for i, id := range ids {
		items[i] = quote(id)
		if hasReferences(version) {
			items[i] = fmt.Sprintf(`[%s,{"sha256":"%s"}]`, quote(id), strings.Repeat("A", 43))
		}
	}
	return "[" + strings.Join(items, ",") + "]"
}

var eventTypes = []string{
	"m.room.create", "m.room.member", "m.room.member", "m.room.member", "m.room.power_levels", "m.room.power_levels", "m.room.join_rules",
	"m.room.third_party_invite", "m.room.aliases", "m.room.redaction", "m.room.history_visibility", "m.room.name", "m.room.message", "m.room.encryption",
}

var someUsers = []string{"@a:one", "@b:one", "@c:two", "@d:three"}

func (g generator) user() string { return pick(g, someUsers...) }

// event creates an event of any type, valid or nearly so.
func (g generator) event(version string) fields {
	eventType := pick(g, eventTypes...)
	f := fields{
		{"type", quote(eventType)},
		{"room_id", quote("!room:one")},
		{"sender", quote(g.user())},
		{"content", g.content(version, eventType)},
		{"origin_server_ts", fmt.Sprint(1_700_000_000_000 + g.IntN(1000))},
		{"depth", fmt.Sprint(g.IntN(100))},
		{"prev_events", references(version, g.ids(g.IntN(3)))},
		{"auth_events", references(version, g.ids(g.IntN(4)))},
		{"hashes", `{"sha256":"` + strings.Repeat("A", 43) + `"}`},
		{"signatures", `{"one":{"ed25519:1":"` + strings.Repeat("A", 86) + `"}}`},
	}
	if hasReferences(version) {
		f = append(f, field{"event_id", quote(fmt.Sprintf("$%d:%s", g.IntN(1000), pick(g, "one", "two")))})
	}
	switch {
	case eventType == "m.room.member" || eventType == "m.room.aliases":
		f = append(f, field{"state_key", quote(pick(g, "@a:one", "@b:one", "@c:two", "one", ""))})
	case eventType != "m.room.message" && eventType != "m.room.redaction":
		f = append(f, field{"state_key", `""`})
	}
	for _, name := range []string{"redacts", "origin", "membership", "prev_state", "unsigned", "outlier", "destinations", "age_ts", "event_id"} {
		if g.one(10) {
			f = f.set(name, g.extra(name))
		}
	}
	g.Shuffle(len(f), func(i, j int) { f[i], f[j] = f[j], f[i] })
	return f
}

func (g generator) extra(name string) string {
	switch name {
	case "redacts", "event_id":
		return quote(pick(g, "$x:one", "$"+strings.Repeat("A", 43)))
	case "origin":
		return `"one"`
	case "membership":
		return `"join"`
	case "prev_state":
		return "[]"
	case "unsigned":
		return `{"age":12,"prev_content":{"a":1},"<":"\u2028"}`
	}
	return g.value(1)
}

func (g generator) ids(n int) (ids []string) {
	for range n {
		ids = append(ids, pick(g, fmt.Sprintf("$%d:one", g.IntN(50)), "$"+strings.Repeat(pick(g, "a", "B", "-"), 43)))
	}
	return ids
}

// mangled changes one or two of an event's members.
func (g generator) mangled(f fields) fields {
	for range 1 + g.IntN(2) {
		at := g.IntN(len(f))
		switch g.IntN(7) {
		case 0:
			f = f.set(f[at].name, "")
		case 1:
			f[at].raw = g.value(3)
		case 2:
			f = append(f, field{f[at].name, g.value(2)}) // twice
		case 3:
			f = append(f, field{pick(g, "_x", "x", "<", "é", "Type", "ROOM_ID", "Sender", "state_\u212aey", "\u017fender", ""), g.value(2)})
		case 4:
			f = f.set("room_id", quote(pick(g, "", "!", "!a", "!a:", "!:one", "!a:b c", "!x:one:port", "!\x00:one", "#a:one", "!"+strings.Repeat("é", 200)+":one", "!"+g.hash())))
		case 5:
			f = f.set("sender", quote(pick(g, "", "@", "@:one", "@a", "a:one", "@A B:one", "@a:"+strings.Repeat("x", 260), "@é:one", "@a:b c")))
		case 6:
			f = f.set(pick(g, "state_key", "type"), quote(pick(g, strings.Repeat("x", 256), strings.Repeat("é", 130), "\x00", "m.room.member", "<&>")))
		}
		if len(f) == 0 {
			return f
		}
	}
	return f
}

// content creates a valid content for the type, sometimes with one wrong value.
func (g generator) content(version, eventType string) string {
	if g.one(15) {
		return g.object(3)
	}
	f := g.members(version, eventType)
	if g.one(4) {
		f = f.set(pick(g, "displayname", "reason", "x", "<&>"), g.string())
	}
	if len(f) > 0 && g.one(10) {
		f[g.IntN(len(f))].raw = g.value(2)
	}
	return f.String()
}

func (g generator) members(version, eventType string) fields {
	switch eventType {
	case "m.room.create":
		f := fields{{"creator", quote(g.user())}}
		if g.one(2) {
			f = append(f, field{"room_version", quote(pick(g, version, version, "1", "x", ""))})
		}
		if g.one(3) {
			f = append(f, field{"m.federate", pick(g, "true", "false", `"false"`)})
		}
		if g.one(4) {
			f = append(f, field{"predecessor", `{"room_id":"!old:one","event_id":"$x"}`})
		}
		return f
	case "m.room.member":
		return g.member(version)
	case "m.room.power_levels":
		return g.levelFields()
	case "m.room.join_rules":
		return fields{
			{"join_rule", quote(pick(g, "public", "invite", "knock", "restricted", "knock_restricted", "private", "x"))},
			{"allow", `[{"type":"m.room_membership","room_id":"!other:one"}]`},
		}
	case "m.room.third_party_invite":
		return fields{{"display_name", g.string()}, {"key_validity_url", `"https://id.example/"`}, {"public_key", quote(inviteKey)}}
	case "m.room.aliases":
		return fields{{"aliases", `["#x:one"]`}}
	case "m.room.redaction":
		return fields{{"redacts", `"$x"`}, {"reason", `"spam"`}}
	case "m.room.history_visibility":
		return fields{{"history_visibility", quote(pick(g, "shared", "joined", "world_readable", "x"))}}
	}
	return fields{{"name", g.string()}, {"body", g.string()}}
}

func (g generator) member(version string) fields {
	f := fields{{"membership", quote(pick(g, "join", "join", "invite", "leave", "ban", "knock", "x"))}}
	if g.one(4) {
		f = append(f, field{"join_authorised_via_users_server", quote(g.user())})
	}
	if g.one(8) && version != "11" { // version 11 has separate tests for these
		f = append(f, field{"third_party_invite", thirdPartyInvite(pick(g, someUsers...), g.one(4))})
	}
	if g.one(30) {
		f = append(f, field{"mxid_mapping", g.value(2)})
	}
	return f
}

var (
	inviteSigner = ed25519.NewKeyFromSeed([]byte("the key of an identity server ..."[:32]))
	inviteKey    = base64.RawStdEncoding.EncodeToString(inviteSigner.Public().(ed25519.PublicKey))
)

// thirdPartyInvite is an invite for the user, signed by the identity server.
func thirdPartyInvite(user string, wrong bool) string {
	signed, err := gomatrixserverlib.SignJSON("id.example", "ed25519:0", inviteSigner, fmt.Appendf(nil, `{"mxid":%q,"token":"token"}`, user))
	if err != nil {
		panic(err)
	}
	if wrong {
		signed = []byte(strings.Replace(string(signed), "token", "tokem", 1))
	}
	return fmt.Sprintf(`{"display_name":"<somebody>","signed":%s}`, signed)
}

func (g generator) level() string {
	if g.one(12) {
		return pick(g, "1.5", "1e2", `"50"`, `" 7 "`, `"x"`, "null", "true", "9007199254740993", "[]", `"1e2"`, "99999999999999999999")
	}
	return pick(g, "0", "1", "10", "25", "49", "50", "51", "99", "100", "-1", "9007199254740991")
}

func (g generator) levelFields() (f fields) {
	for _, name := range []string{"users_default", "events_default", "state_default", "ban", "redact", "kick", "invite"} {
		if g.one(4) {
			f = append(f, field{name, g.level()})
		}
	}
	var users, events, notifications fields
	for _, user := range someUsers {
		if g.one(2) {
			users = append(users, field{user, g.level()})
		}
	}
	if g.one(15) {
		users = append(users, field{pick(g, "x", "@x", "", "@é:one"), g.level()})
	}
	for _, name := range []string{"m.room.name", "m.room.power_levels", "m.room.topic", "a.b*"} {
		if g.one(3) {
			events = append(events, field{name, g.level()})
		}
	}
	if g.one(3) {
		notifications = append(notifications, field{"room", g.level()})
	}
	for name, levels := range map[string]fields{"users": users, "events": events, "notifications": notifications} {
		if len(levels) > 0 {
			f = append(f, field{name, levels.String()})
		}
	}
	slices.SortFunc(f, func(a, b field) int { return strings.Compare(a.name, b.name) })
	return f
}
