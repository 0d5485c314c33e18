package base

import (
	"encoding/json"
	"fmt"
)

// question is one line of the oracle's input; see there.
type question struct {
	Op      string   `json:"op"`
	Version string   `json:"version,omitempty"`
	Raw     []byte   `json:"raw,omitempty"`
	Events  [][]byte `json:"events,omitempty"`
	Auth    [][]byte `json:"auth,omitempty"`
	Text    string   `json:"text,omitempty"`
	TS      int64    `json:"ts,omitempty"`
}

// questions creates about a hundred questions, of every kind.
func questions(seed uint64) (qs []question) {
	g := newGenerator(seed)
	for range 15 {
		qs = append(qs, question{Op: "canonical", Raw: []byte(g.json())})
	}
	for range 15 {
		qs = append(qs, g.eventQuestion())
	}
	rooms := []*history{g.history(), g.history()}
	for _, room := range rooms {
		qs = append(qs, room.questions()...)
	}
	for n := range 6 {
		qs = append(qs, g.builtQuestion(rooms[n%2]), question{Op: "id", Raw: []byte(g.id())})
	}
	for range 5 {
		qs = append(qs, question{Op: "levels", Raw: []byte(g.content("10", "m.room.power_levels"))}, g.allowedQuestion(), g.strippedQuestion())
	}
	qs = append(qs, g.thirdPartyQuestion(), g.createQuestion())
	return qs
}

func (g generator) eventQuestion() question {
	version := g.version()
	f := g.event(version)
	if g.one(3) {
		f = g.mangled(f)
	}
	if g.one(2) {
		f = f.hashed()
	}
	raw := f.String()
	if g.one(25) {
		raw = g.damaged(raw)
	}
	return question{Op: "event", Version: version, Raw: []byte(raw)}
}

// allowedQuestion asks about odd events, checked by odd events.
func (g generator) allowedQuestion() question {
	q := question{Op: "allowed", Version: g.version()}
	odd := func() []byte {
		f := g.event(q.Version)
		if g.one(8) {
			f = g.mangled(f)
		}
		return []byte(f.String())
	}
	q.Raw = odd()
	for range g.IntN(6) {
		q.Auth = append(q.Auth, odd())
	}
	return q
}

func (g generator) strippedQuestion() question {
	version := g.version()
	f := g.event(version)
	if g.one(4) {
		f = fields{{"type", f.get("type")}, {"content", f.get("content")}, {"state_key", `""`}, {"sender", f.get("sender")}}
	}
	switch g.IntN(12) {
	case 0, 1:
		f = g.mangled(f)
	case 2:
		f = f.set("type", `"m.room.create"`).set("content", `{"room_version":"12"}`).set("room_id", "")
	}
	return question{Op: "stripped", Version: version, Raw: []byte(f.String())}
}

// builtQuestion asks to build an event in a room.
func (g generator) builtQuestion(h *history) question {
	f := g.event(h.version)
	for _, name := range []string{"hashes", "signatures", "event_id", "origin", "origin_server_ts"} {
		f = f.set(name, "")
	}
	// The builder expects references as IDs in every version.
	f = f.set("prev_events", references("11", g.ids(g.IntN(3)))).set("auth_events", pick(g, "", references("11", g.ids(g.IntN(3)))))
	if g.one(8) {
		f = g.mangled(f)
	}
	q := question{Op: "build", Version: h.version, Raw: []byte(f.String()), TS: 1_700_000_000_000 + int64(g.IntN(1000))}
	for _, e := range h.ordered(h.branches[0]) {
		q.Auth = append(q.Auth, h.raw[e.EventID()])
	}
	return q
}

// thirdPartyQuestion asks about an event of version 11 whose redaction differs intentionally.
func (g generator) thirdPartyQuestion() question {
	invite := pick(g, thirdPartyInvite(g.user(), g.one(3)), `{"display_name":"x"}`, `{"signed":{}}`, "{}", `{"signed":{"n":[1,2,{"é":"<&>"}]},"x":1}`, `{"signed":null}`)
	member := fields{{"membership", `"invite"`}, {"third_party_invite", invite}}
	if g.one(2) {
		member = append(member, field{"displayname", quote(g.hash())})
	}
	f := g.event("11").set("type", `"m.room.member"`).set("state_key", quote(g.user())).set("content", member.String()).set("unsigned", "").set("event_id", "")
	for _, name := range []string{"outlier", "destinations", "age_ts"} {
		f = f.set(name, "")
	}
	canonical, err := json.Marshal(json.RawMessage(f.hashed().String()))
	if err != nil {
		panic(err)
	}
	return question{Op: "event", Version: "11", Raw: canonical}
}

// createQuestion asks about a create event with a room version, such as "12".
func (g generator) createQuestion() question {
	version := g.version()
	f := g.event(version).set("type", `"m.room.create"`).set("state_key", `""`).set("sender", `"@a:one"`).set("prev_events", "[]").set("auth_events", "[]")
	f = f.set("content", fmt.Sprintf(`{"creator":"@a:one","room_version":%s}`, quote(pick(g, version, "12", "12", "13", "x"))))
	return question{Op: "allowed", Version: version, Raw: []byte(f.String())}
}
