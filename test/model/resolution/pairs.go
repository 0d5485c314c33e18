package resolution

import (
	"crypto/ed25519"
	"encoding/base64"
	"maps"
	"math/rand/v2"
	"slices"
)

// Pair is an event of a room of version 12, and a state to check it against.
type Pair struct {
	Event    *Event
	PDU      []byte // the event in its federation format
	State    State
	Listed   []*Event // the event's auth events, which may be wrong
	Modelled bool     // the rules of this package cover it
}

// pairs creates pairs from a room: its users try random actions, in states that may never have existed.
type pairs struct {
	generator
	pdus map[string][]byte
}

// Pairs returns n random pairs out of the room, and the PDUs of all events in their states by ID.
func (h *History) Pairs(n int) ([]Pair, map[string][]byte) {
	p := &pairs{
		generator: generator{Rand: rand.New(rand.NewPCG(h.Seed, 12)), h: h, allowed: Allowed("12")},
		pdus:      make(map[string][]byte),
	}
	for i, id := range h.IDs {
		p.pdus[id] = h.PDUs[i]
		if e := h.Events[id]; e.Type == "m.room.member" && !slices.Contains(p.users, e.StateKey) {
			p.users = append(p.users, e.StateKey)
		}
	}
	made := make([]Pair, n)
	for i := range made {
		made[i] = p.pair()
	}
	return made, p.pdus
}

func (p *pairs) pair() Pair {
	state := p.state()
	pair := Pair{State: state, Modelled: true}
	e := &Event{RoomID: p.h.roomID(), OriginServerTS: p.h.Create.OriginServerTS + 1000}
	e.PrevEvents = []string{p.h.IDs[p.IntN(len(p.h.IDs))]}
	if p.one(8) {
		e.PrevEvents = []string{p.h.Create.ID}
	}
	b := &branch{state: map[Key]string{}}
	for k, by := range state {
		b.state[k] = by.ID
	}
	var content map[string]any
	e.Type, e.StateKey, e.Sender, content = p.action(b)
	message := false
	switch p.IntN(6) {
	case 0:
		pair.Modelled = p.oddMember(e, content)
	case 1:
		pair.Modelled = p.oddLevels(e, content)
	case 2:
		e.Type = []string{"m.room.aliases", "m.room.third_party_invite", "org.example", "m.room.redaction", "m.room.power_levels", "m.room.create"}[p.IntN(6)]
		e.StateKey = []string{"", "x", e.Sender, p.user(), "@x", "@nobody:one"}[p.IntN(6)]
		pair.Modelled = e.Type != "m.room.create" && (e.Type != "m.room.power_levels" || e.StateKey == "")
		message = p.one(4)
	case 3:
		if p.one(3) {
			p.thirdParty(e, content, state)
			pair.Modelled = false
		}
	}
	e.Content = canonical(content)
	e.Value = nil
	pair.Listed = p.listed(e, state)
	for _, auth := range pair.Listed {
		e.AuthEvents = append(e.AuthEvents, auth.ID)
	}
	pair.PDU = pdu("12", e, content, 100)
	if message {
		pair.Modelled = false
		pair.PDU = messagePDU(e, content)
	}
	pair.Event = e
	return pair
}

// state is one of the room's states, with some of it replaced.
func (p *pairs) state() State {
	state := State{}
	for k, id := range p.h.Sets[p.IntN(len(p.h.Sets))] {
		state[k] = p.h.Events[id]
	}
	for range p.IntN(6) {
		e := p.h.Events[p.h.IDs[p.IntN(len(p.h.IDs))]]
		if e.Rejected && e.Type == "m.room.power_levels" {
			continue // it may even be malformed
		}
		state[e.Key()] = e
	}
	state[Key{Type: "m.room.create"}] = p.h.Create
	return state
}

func (p *pairs) listed(e *Event, state State) (listed []*Event) {
	for _, k := range Needed(e) {
		if by := state[k]; by != nil && k.Type != "m.room.create" && !slices.Contains(listed, by) {
			listed = append(listed, by)
		}
	}
	if p.one(6) {
		listed = append(listed, p.h.Events[p.h.IDs[1+p.IntN(len(p.h.IDs)-1)]])
	}
	return listed
}

var oddValues = []any{nil, true, "50", "", 0, 50, 100, -1, 1<<53 - 1, -(1<<53 - 1), []any{}, map[string]any{}, map[string]any{"x": 1}}

func (p *pairs) oddValue() any { return oddValues[p.IntN(len(oddValues))] }

func (p *pairs) oddMember(e *Event, content map[string]any) (modelled bool) {
	e.Type = "m.room.member"
	e.StateKey = p.user()
	clear(content)
	content["membership"] = []any{"join", "join", "invite", "leave", "ban", "knock", "x", "", 1, nil}[p.IntN(10)]
	if p.one(2) {
		content["join_authorised_via_users_server"] = p.user()
	}
	if p.one(6) {
		content["third_party_invite"] = p.oddValue()
		return false
	}
	return true
}

func (p *pairs) oddLevels(e *Event, content map[string]any) (modelled bool) {
	e.Type, e.StateKey = "m.room.power_levels", ""
	r := room{v12: true, state: State{}, create: p.h.Create}
	clear(content)
	maps.Copy(content, p.changedLevels(r, e.Sender))
	modelled = true
	switch p.IntN(4) {
	case 0:
		content[named[p.IntN(len(named))]] = p.oddValue()
	case 1:
		content[[]string{"users", "events", "notifications", "x"}[p.IntN(4)]] = p.oddValue()
	case 2:
		inside(content, []string{"users", "events", "notifications"}[p.IntN(3)])[p.user()] = p.oddValue()
	case 3:
		inside(content, "users")[[]string{"x", "@x", "@:one", "@é:one", "@a b:one", "@a:b c", "", "@a:"}[p.IntN(8)]] = p.IntN(100)
		modelled = false
	}
	return modelled
}

var identityServer = ed25519.NewKeyFromSeed([]byte("the key of an identity server ..."[:32]))

// thirdParty makes the event an invite that follows an invite to an address, and adds the latter to the state.
func (p *pairs) thirdParty(e *Event, content map[string]any, state State) {
	e.Type, e.StateKey = "m.room.member", p.user()
	public := base64.RawStdEncoding.EncodeToString(identityServer.Public().(ed25519.PublicKey))
	tokenContent := map[string]any{"display_name": "x", "public_key": public}
	switch p.IntN(5) {
	case 0:
		tokenContent = map[string]any{"public_keys": []any{map[string]any{"public_key": public}}}
	case 1:
		tokenContent = map[string]any{"public_key": base64.RawStdEncoding.EncodeToString(make([]byte, 32)), "public_keys": []any{map[string]any{"public_key": public}}}
	case 2:
		tokenContent["display_name"] = p.oddValue()
	}
	by := e.Sender
	if p.one(5) {
		by = p.user()
	}
	token := &Event{
		Type: "m.room.third_party_invite", StateKey: "token", Sender: by, RoomID: e.RoomID, PrevEvents: []string{p.h.Create.ID},
		OriginServerTS: e.OriginServerTS, Content: canonical(tokenContent),
	}
	raw := pdu("12", token, tokenContent, 50)
	p.pdus[token.ID] = raw
	if !p.one(8) {
		state[token.Key()] = token
	}
	signed := map[string]any{"mxid": e.StateKey, "token": "token"}
	if p.one(8) {
		signed["mxid"] = p.user()
	}
	signature := ed25519.Sign(identityServer, canonical(signed))
	if p.one(8) {
		signature[0]++
	}
	signed["signatures"] = map[string]any{"id.example": map[string]any{"ed25519:0": base64.RawStdEncoding.EncodeToString(signature)}}
	if p.one(8) {
		delete(signed, []string{"mxid", "token", "signatures"}[p.IntN(3)])
	}
	clear(content)
	content["membership"] = []string{"invite", "invite", "invite", "join", "knock"}[p.IntN(5)]
	content["third_party_invite"] = map[string]any{"display_name": "x", "signed": signed}
}

// messagePDU is the event without its state key.
func messagePDU(e *Event, content map[string]any) []byte {
	return canonical(map[string]any{
		"type": e.Type, "sender": e.Sender, "room_id": e.RoomID, "content": content, "auth_events": append([]string{}, e.AuthEvents...),
		"prev_events": e.PrevEvents, "origin_server_ts": e.OriginServerTS, "depth": 100, "hashes": map[string]string{},
	})
}
