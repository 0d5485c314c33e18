package base

import (
	"fmt"
	"maps"
	"slices"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
)

// history is a random room of a version up to 11 with branches. Users do what they may and sometimes what they may not.
// The patched library decides what is allowed; it is tested nevertheless, because every event becomes a question.
type history struct {
	generator
	version  string
	events   []gomatrixserverlib.PDU
	raw      map[string][]byte // by ID
	branches []branch
	tried    []question
}

type branch struct {
	tips  []string
	state map[gomatrixserverlib.StateKeyTuple]gomatrixserverlib.PDU
	depth int
}

func (b branch) clone() branch {
	b.tips, b.state = slices.Clone(b.tips), maps.Clone(b.state)
	return b
}

func users(_ spec.RoomID, sender spec.SenderID) (*spec.UserID, error) {
	return spec.NewUserID(string(sender), true)
}

func (g generator) history() *history {
	h := &history{generator: g, version: pick(g, stable...), raw: make(map[string][]byte)}
	h.branches = []branch{{state: make(map[gomatrixserverlib.StateKeyTuple]gomatrixserverlib.PDU)}}
	b := &h.branches[0]
	create := fields{{"creator", quote(someUsers[0])}, {"room_version", quote(h.version)}}
	if g.one(10) {
		create = append(create, field{"m.federate", "false"})
	}
	h.act(b, "m.room.create", "", someUsers[0], create)
	h.act(b, "m.room.member", someUsers[0], someUsers[0], fields{{"membership", `"join"`}})
	if !g.one(10) {
		levels := g.levelFields().set("users", fmt.Sprintf(`{%q:100,%q:%s,%q:50}`, someUsers[0], someUsers[1], g.level(), someUsers[2]))
		h.act(b, "m.room.power_levels", "", someUsers[0], levels)
	}
	if !g.one(10) {
		h.act(b, "m.room.join_rules", "", someUsers[0], fields{{"join_rule", quote(pick(g, "public", "invite", "knock", "restricted"))}})
	}
	if g.one(4) {
		h.act(b, "m.room.third_party_invite", "token", someUsers[0], g.members(h.version, "m.room.third_party_invite"))
	}
	for _, user := range someUsers[1:] {
		h.act(b, "m.room.member", user, someUsers[0], fields{{"membership", `"invite"`}})
		h.act(b, "m.room.member", user, user, fields{{"membership", `"join"`}})
	}
	for range 4 + g.IntN(14) {
		if len(h.branches) < 4 && g.one(4) {
			h.branches = append(h.branches, h.branches[g.IntN(len(h.branches))].clone())
		}
		h.step(&h.branches[g.IntN(len(h.branches))])
	}
	return h
}

func (h *history) step(b *branch) {
	sender, target := h.user(), h.user()
	switch h.IntN(10) {
	case 0, 1, 2, 3:
		member := h.member(h.version)
		if h.one(2) {
			sender = target
		}
		h.act(b, "m.room.member", target, sender, member)
	case 4, 5, 6:
		h.act(b, "m.room.power_levels", "", sender, h.levelFields())
	case 7:
		h.act(b, "m.room.join_rules", "", sender, h.members(h.version, "m.room.join_rules"))
	case 8:
		eventType := pick(h.generator, "m.room.aliases", "m.room.redaction", "m.room.message", "m.room.history_visibility", "m.room.third_party_invite")
		h.act(b, eventType, pick(h.generator, "", "one", sender, target), sender, h.members(h.version, eventType))
	default:
		h.act(b, pick(h.generator, "m.room.name", "m.room.topic", "org.example"), pick(h.generator, "", sender, target), sender, fields{{"name", quote(h.hash())}})
	}
}

// act tries an event on a branch. It stays if it is allowed, and sometimes if it is not.
func (h *history) act(b *branch, eventType, stateKey, sender string, content fields) {
	pdu := h.make(b, eventType, stateKey, sender, content, nil)
	if pdu == nil {
		return
	}
	auth, ids := gomatrixserverlib.NewAuthEvents(nil), []string{}
	var listed [][]byte
	for _, tuple := range gomatrixserverlib.StateNeededForAuth([]gomatrixserverlib.PDU{pdu}).Tuples() {
		if e, ok := b.state[tuple]; ok && auth.AddEvent(e) == nil {
			ids = append(ids, e.EventID())
			listed = append(listed, h.raw[e.EventID()])
		}
	}
	if pdu = h.make(b, eventType, stateKey, sender, content, ids); pdu == nil {
		return
	}
	h.raw[pdu.EventID()] = pdu.JSON()
	q := question{Op: "allowed", Version: h.version, Raw: pdu.JSON(), Auth: listed}
	if h.one(10) && len(listed) > 1 {
		q.Auth = slices.Delete(slices.Clone(listed), 0, 1)
	}
	h.tried = append(h.tried, q)
	if h.isAllowed(pdu, &auth) || h.one(12) {
		h.events = append(h.events, pdu)
		b.state[gomatrixserverlib.StateKeyTuple{EventType: eventType, StateKey: stateKey}] = pdu
		b.tips, b.depth = []string{pdu.EventID()}, b.depth+1
	}
}

func (h *history) isAllowed(pdu gomatrixserverlib.PDU, auth gomatrixserverlib.AuthEventProvider) (ok bool) {
	defer func() {
		if recover() != nil {
			ok = false
		}
	}()
	return gomatrixserverlib.Allowed(pdu, auth, users) == nil
}

func (h *history) make(b *branch, eventType, stateKey, sender string, content fields, auth []string) gomatrixserverlib.PDU {
	f := fields{
		{"type", quote(eventType)}, {"state_key", quote(stateKey)}, {"sender", quote(sender)}, {"room_id", `"!room:one"`},
		{"content", content.String()}, {"depth", fmt.Sprint(b.depth + 1)},
		{"origin_server_ts", fmt.Sprint(1_700_000_000_000 + 10*len(h.events) + h.IntN(20))},
		{"prev_events", references(h.version, b.tips)}, {"auth_events", references(h.version, auth)},
	}
	if hasReferences(h.version) {
		f = append(f, field{"event_id", quote(fmt.Sprintf("$%d:one", len(h.tried)))})
	}
	canonical, err := gomatrixserverlib.CanonicalJSON([]byte(f.hashed().String()))
	if err != nil {
		return nil // one of the odd strings
	}
	pdu, err := gomatrixserverlib.MustGetRoomVersion(gomatrixserverlib.RoomVersion(h.version)).NewEventFromTrustedJSON(canonical, false)
	if err != nil || !hasID(pdu) {
		return nil
	}
	return pdu
}

// hasID reports whether the event has an ID. Numbers beyond those of float64 make the library panic.
func hasID(pdu gomatrixserverlib.PDU) (ok bool) {
	defer func() { ok = recover() == nil }()
	return pdu.EventID() != ""
}

// questions returns the questions about the room: each event, the resolution of its branches, and the uses of its
// state.
func (h *history) questions() []question {
	qs := h.tried
	resolve := question{Op: "resolve", Version: h.version}
	inState := make(map[string]bool)
	for _, b := range h.branches {
		for _, e := range h.ordered(b) {
			if !inState[e.EventID()] {
				inState[e.EventID()] = true
				resolve.Events = append(resolve.Events, h.raw[e.EventID()])
			}
		}
	}
	for _, e := range h.events {
		resolve.Auth = append(resolve.Auth, h.raw[e.EventID()])
	}
	if h.one(3) {
		resolve.Text, resolve.TS = "rejected", int64(h.IntN(len(resolve.Events)))
	}
	qs = append(qs, resolve)
	b := h.branches[0]
	var state [][]byte
	for _, e := range h.ordered(b) {
		state = append(state, h.raw[e.EventID()])
	}
	user := h.user()
	for _, membership := range []string{"join", "leave"} {
		f := fields{{"membership", quote(membership)}}
		if pdu := h.make(&b, "m.room.member", user, user, f, b.tips); pdu != nil {
			qs = append(qs, question{Op: "template", Version: h.version, Raw: pdu.JSON(), Auth: state, Text: user})
		}
	}
	if pdu := h.make(&b, "m.room.member", user, someUsers[0], fields{{"membership", `"invite"`}}, b.tips); pdu != nil {
		qs = append(qs, question{Op: "invite", Version: h.version, Raw: pdu.JSON(), Auth: state, Text: user})
	}
	return qs
}

func (h *history) ordered(b branch) []gomatrixserverlib.PDU {
	return slices.SortedFunc(maps.Values(b.state), func(a, b gomatrixserverlib.PDU) int {
		return slices.Compare([]string{a.Type(), *a.StateKey()}, []string{b.Type(), *b.StateKey()})
	})
}
