package hostile_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"github.com/matrix-org/dendrite/futures/test/rig"
)

// TestPowerLevelsThatNameACreator: such power levels are rejected although a user with the power has signed them, and
// the room keeps the old ones.
func TestPowerLevelsThatNameACreator(t *testing.T) {
	bob := ""
	c := newSceneFor(t, "12", func(c *scene) map[string]any {
		bob = c.bob
		return map[string]any{"power_level_content_override": map[string]any{"users": map[string]any{bob: 100}}}
	})
	before := c.alice.GetState(c.room.ID, "m.room.power_levels", "").Raw
	branch := c.room.Fork()
	levels, _ := c.room.Event("m.room.power_levels", "").Get("content").Value().(map[string]any)
	levels["users"] = map[string]any{bob: 100, c.alice.ID: 0}
	bad := branch.SetState(bob, "m.room.power_levels", "", levels)
	good := c.room.Message(bob, "with the old levels")
	c.f.MustSend(c.s, bad, good)
	c.sees("with the old levels", good)
	c.seesNot("power levels that name a creator", bad)
	if after := c.alice.GetState(c.room.ID, "m.room.power_levels", "").Raw; after != before {
		t.Errorf("the power levels are %s, were %s", after, before)
	}
	levels["users"] = map[string]any{bob: 100, c.f.User("x"): 7}
	next := c.room.SetState(bob, "m.room.power_levels", "", levels)
	c.f.MustSend(c.s, next)
	c.sees("good power levels", next)
	c.works()
}

// TestRemoteCreator: a creator on another server, who joins later, bans an administrator of ours.
func TestRemoteCreator(t *testing.T) {
	c := newSceneFor(t, "12", func(c *scene) map[string]any {
		return map[string]any{
			"creation_content":             map[string]any{"additional_creators": []string{c.bob}},
			"power_level_content_override": map[string]any{"users": map[string]any{"@carol:" + c.s.Name: 100}},
		}
	})
	carol := c.s.Register(t, "carol")
	carol.Join(c.room.ID)
	c.receive(func(pdu gjson.Result) bool { return pdu.Get("state_key").Str == carol.ID })
	ban := c.room.SetState(c.bob, "m.room.member", carol.ID, map[string]any{"membership": "ban"})
	c.f.MustSend(c.s, ban)
	c.sees("the ban", ban)
	if got := c.alice.GetState(c.room.ID, "m.room.member", carol.ID).Get("membership").Str; got != "ban" {
		t.Errorf("carol's membership: %q", got)
	}
	refused(t, "a message of carol's", carol.Do(http.MethodPut, rig.Path("rooms", c.room.ID, "send", "m.room.message", "x"), nil, rig.Text("x")), 403, "M_FORBIDDEN")
	c.works()
}

// stale sends an event of bob whose predecessors our server does not know. Our server asks for the state there and gets
// the given one. stale returns once dora sees the event.
func (c *scene) stale(old *rig.FakeRoom, dora *rig.User) {
	c.Helper()
	unknown := old.Message(c.bob, "known to nobody")
	state := old.StateEvents()
	chain := old.AuthChain(state...)
	middle := old.Message(c.bob, "missing")
	last := old.Message(c.bob, "stale")
	c.f.Answer("/state_ids/", func(r rig.FakeRequest) (int, any) {
		return http.StatusOK, map[string]any{"pdu_ids": rig.IDs(state), "auth_chain_ids": rig.IDs(chain)}
	})
	c.f.Answer("/federation/v1/state/", func(r rig.FakeRequest) (int, any) {
		return http.StatusOK, map[string]any{"pdus": state, "auth_chain": chain}
	})
	c.f.Answer("/get_missing_events/", func(rig.FakeRequest) (int, any) {
		return http.StatusOK, map[string]any{"events": []any{middle}}
	})
	c.f.MustSend(c.s, last)
	c.eyes = dora
	c.sees("an event after unknown ones", last)
	asked := false
	for _, r := range c.f.Requests("/state_ids/") {
		asked = asked || r.Query.Get("event_id") == unknown.ID
	}
	if !asked {
		c.Error("our server did not ask for the state at the unknown event")
	}
}

// current returns the ID of the event that dora gets for a piece of state, or "".
func (c *scene) current(dora *rig.User, eventType, stateKey string) string {
	c.Helper()
	r := dora.Do(http.MethodGet, rig.Path("rooms", c.room.ID, "state"), nil, nil)
	for _, e := range r.JSON.Array() {
		if e.Get("type").Str == eventType && e.Get("state_key").Str == stateKey {
			return e.Get("event_id").Str
		}
	}
	return ""
}

// settles waits until dora gets the wanted event for a piece of state, and checks that it stays.
func (c *scene) settles(dora *rig.User, eventType, stateKey, wanted string) {
	c.Helper()
	got := ""
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if got = c.current(dora, eventType, stateKey); got == wanted {
			break
		}
	}
	time.Sleep(200 * time.Millisecond)
	if got = c.current(dora, eventType, stateKey); got != wanted {
		c.Errorf("%s %q is %q, wanted %q", eventType, stateKey, got, wanted)
	}
}

// TestResolutionStartsEmpty: alice changes something and leaves. Another server claims that the room is as before the
// change. Resolution that starts from the unconflicted state refuses both, because alice is gone (MSC4297, problem A).
func TestResolutionStartsEmpty(t *testing.T) {
	for _, test := range []struct {
		name, eventType, key string
		first, second        map[string]any
	}{
		{"join rules", "m.room.join_rules", "", nil, map[string]any{"join_rule": "invite"}},
		{"power levels", "m.room.power_levels", "", nil, map[string]any{"users": map[string]any{"@nobody:x": 1}}},
		{"ban", "m.room.member", "charlie", nil, map[string]any{"membership": "ban"}},
		{"topic", "m.room.topic", "", map[string]any{"topic": "one"}, map[string]any{"topic": "two"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := newSceneFor(t, "12", func(c *scene) map[string]any {
				return map[string]any{"power_level_content_override": map[string]any{"users": map[string]any{c.bob: 100}}}
			})
			dora := c.s.Register(t, "dora")
			dora.Join(c.room.ID)
			c.receive(func(pdu gjson.Result) bool { return pdu.Get("state_key").Str == dora.ID })
			key := test.key
			if key != "" {
				key = c.f.User(key)
				e := c.room.SetState(key, "m.room.member", key, map[string]any{"membership": "join"})
				c.f.MustSend(c.s, e)
				c.sees("a join", e)
			}
			set := func(content map[string]any) {
				id := c.alice.SendState(c.room.ID, test.eventType, key, content)
				c.receive(func(pdu gjson.Result) bool { return rig.ReadEvent("12", pdu.Raw).ID == id })
			}
			if test.first != nil {
				set(test.first)
			}
			before := c.room.Event(test.eventType, key)
			set(test.second)
			after := c.room.Event(test.eventType, key)
			c.alice.Leave(c.room.ID)
			c.receive(func(pdu gjson.Result) bool {
				return pdu.Get("state_key").Str == c.alice.ID && pdu.Get("content.membership").Str == "leave"
			})
			old := c.room.Fork()
			old.State[[2]string{test.eventType, key}] = before
			c.stale(old, dora)
			c.settles(dora, test.eventType, key, after.ID)
			noPanic(t, c.s)
		})
	}
}

// TestResolutionSeesSubgraph: alice gives bob power, and bob gives charlie power. Another server claims that the room
// has the earlier power levels, and a member whose events span both. The step in between must be replayed, or the
// newest power levels are refused (MSC4297, problem B).
func TestResolutionSeesSubgraph(t *testing.T) {
	c := newScene(t, "12", nil)
	dora := c.s.Register(t, "dora")
	charlie, eve := c.f.User("charlie"), c.f.User("eve")
	p1 := c.room.Event("m.room.power_levels", "")
	join := c.room.SetState(charlie, "m.room.member", charlie, map[string]any{"membership": "join"})
	c.f.MustSend(c.s, join)
	c.sees("charlie", join)
	id := c.alice.SendState(c.room.ID, "m.room.power_levels", "", map[string]any{"users": map[string]any{c.bob: 100}})
	c.receive(func(pdu gjson.Result) bool { return rig.ReadEvent("12", pdu.Raw).ID == id })
	p3 := c.room.SetState(c.bob, "m.room.power_levels", "", map[string]any{"users": map[string]any{c.bob: 100, charlie: 50}})
	c.f.MustSend(c.s, p3)
	c.sees("bob's power levels", p3)

	old := c.room.Fork()
	e1 := old.SetState(eve, "m.room.member", eve, map[string]any{"membership": "join"})
	old.State[[2]string{"m.room.power_levels", ""}] = p1
	e2 := old.SetState(eve, "m.room.member", eve, map[string]any{"membership": "join", "displayname": "Eve"})
	dora.Join(c.room.ID)
	c.receive(func(pdu gjson.Result) bool { return pdu.Get("state_key").Str == dora.ID })

	c.stale(old, dora)
	c.settles(dora, "m.room.power_levels", "", p3.ID)
	c.settles(dora, "m.room.member", eve, e1.ID)
	if e1.ID == e2.ID {
		t.Error("the two events of eve are one")
	}
	c.works()
}
