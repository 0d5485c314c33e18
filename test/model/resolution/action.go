package resolution

import (
	"encoding/json"
)

// action chooses a random action of a user, usually one who is in the room.
func (g *generator) action(b *branch) (eventType, stateKey, sender string, content map[string]any) {
	sender = g.user()
	r := room{v12: g.h.Version == "12", state: g.stateOf(b), create: g.h.Create}
	for range 3 {
		if r.membership(sender) == "join" {
			break
		}
		sender = g.user()
	}
	switch g.IntN(12) {
	case 0, 1, 2, 3, 4:
		return g.memberAction(r, sender)
	case 5:
		return "m.room.join_rules", "", sender, map[string]any{"join_rule": g.joinRule()}
	case 6, 7, 8:
		return "m.room.power_levels", "", sender, g.changedLevels(r, sender)
	case 9:
		return "m.room.name", "", sender, map[string]any{"name": g.word()}
	case 10:
		key := sender
		if g.one(4) {
			key = g.user()
		}
		return "org.example.status", key, sender, map[string]any{"status": g.word()}
	}
	return "m.room.topic", "", sender, map[string]any{"topic": g.word()}
}

func (g *generator) word() string {
	return []string{"red", "green", "blue", "grey"}[g.IntN(4)]
}

func (g *generator) stateOf(b *branch) State {
	state := State{}
	for k, id := range b.state {
		state[k] = g.h.Events[id]
	}
	return state
}

// memberAction is a change of a membership, usually a valid one.
func (g *generator) memberAction(r room, sender string) (eventType, stateKey, by string, content map[string]any) {
	target := g.user()
	membership := "join"
	switch r.membership(target) {
	case "join":
		membership = []string{"leave", "leave", "ban", "join"}[g.IntN(4)]
	case "invite":
		membership = []string{"join", "join", "join", "leave", "ban"}[g.IntN(5)]
	case "leave":
		membership = []string{"join", "join", "invite", "invite", "knock", "ban"}[g.IntN(6)]
	case "knock":
		membership = []string{"invite", "invite", "leave"}[g.IntN(3)]
	case "ban":
		membership = []string{"leave", "leave", "join"}[g.IntN(3)]
	}
	content = map[string]any{"membership": membership}
	switch membership {
	case "join":
		sender = target
		if g.one(3) {
			content["displayname"] = g.word()
		}
		if rule := r.joinRule(); rule == "restricted" || rule == "knock_restricted" {
			content["join_authorised_via_users_server"] = g.user()
		}
	case "knock":
		sender = target
	case "leave":
		if g.one(3) {
			sender = target
		}
	}
	return "m.room.member", target, sender, content
}

var someLevels = []int{0, 1, 10, 25, 49, 50, 50, 51, 75, 99, 100, 100, 1<<53 - 1}

// changedLevels returns the room's power levels with one or two entries promoted, demoted or removed.
func (g *generator) changedLevels(r room, sender string) map[string]any {
	levels := map[string]any{}
	if e := r.state[Key{Type: "m.room.power_levels"}]; e != nil {
		if json.Unmarshal(e.Content, &levels) != nil {
			panic("the generator made it")
		}
	}
	for range 1 + g.IntN(2) {
		g.changeLevel(levels, r, sender)
	}
	return levels
}

func (g *generator) changeLevel(levels map[string]any, r room, sender string) {
	level := someLevels[g.IntN(len(someLevels))]
	if power := r.power(sender); float64(level) > power && !g.one(8) {
		level = int(power)
	}
	in, name := levels, ""
	switch g.IntN(8) {
	case 0:
		name = named[g.IntN(len(named))]
	case 1:
		in, name = inside(levels, "events"), []string{"m.room.topic", "m.room.name", "m.room.power_levels", "m.room.join_rules"}[g.IntN(4)]
	case 2:
		in, name = inside(levels, "notifications"), "room"
	default:
		in, name = inside(levels, "users"), g.user()
		if r.v12 && r.isCreator(name) && !g.one(30) {
			return
		}
	}
	if g.one(5) {
		delete(in, name)
	} else {
		in[name] = level
	}
}

func inside(levels map[string]any, kind string) map[string]any {
	entries, ok := levels[kind].(map[string]any)
	if !ok {
		entries = map[string]any{}
		levels[kind] = entries
	}
	return entries
}
