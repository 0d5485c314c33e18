package hostile_test

import (
	"encoding/json"
	"net/http"
	"testing"

	"github.com/matrix-org/dendrite/futures/test/rig"
)

// TestUnreadablePDUs: an unreadable PDU of a transaction is skipped, and the rest is processed.
func TestUnreadablePDUs(t *testing.T) {
	for _, version := range []string{"10", "12"} {
		t.Run(version, func(t *testing.T) {
			c := newScene(t, version, nil)
			number := func(n string) any {
				content := map[string]any{"msgtype": "m.text", "body": n, "n": json.RawMessage(n)}
				return c.f.Sign(version, c.room.Fork().Draft(c.bob, "m.room.message", content))
			}
			draft := c.room.Draft(c.bob, "m.room.message", rig.Text("misshapen"))
			first := c.room.Message(c.bob, "first")
			pdus := []any{first}
			numbers := []string{"1.5", "9007199254740992", "-9007199254740992", "1e300"}
			if version == "12" {
				numbers = append(numbers, "1E2", "-0.0", "0.0") // older versions have always accepted these
			}
			for _, n := range numbers {
				pdus = append(pdus, number(n))
			}
			for field, value := range map[string]any{
				"room_id": nil, "depth": "seven", "content": "text", "prev_events": 7, "auth_events": map[string]any{},
				"type": 7, "sender": []any{}, "state_key": 7, "origin_server_ts": "now",
			} {
				pdus = append(pdus, c.f.Sign(version, draft.With(field, value)))
			}
			depth := c.f.Sign(version, draft.With("depth", json.RawMessage("1.5")))
			create := c.f.Sign(version, rig.Draft{
				"type": "m.room.create", "state_key": "", "sender": c.bob, "content": map[string]any{"room_version": "12"},
				"depth": 1, "prev_events": []any{}, "auth_events": []any{},
			})
			pdus = append(pdus, depth, create, "text", 7, nil, []any{}, map[string]any{}, true)
			last := c.room.Message(c.bob, "last")
			pdus = append(pdus, last)

			if r := c.f.Send(c.s, pdus...); r.Status != http.StatusOK {
				t.Fatalf("the transaction: %d %s", r.Status, r.Body)
			}
			c.sees("the first PDU", first)
			c.sees("the last PDU", last)
			for _, e := range c.alice.Timeline(c.room.ID) {
				if body := e.Get("content.body").Str; e.Get("sender").Str == c.bob && e.Get("type").Str == "m.room.message" &&
					body != "first" && body != "last" {
					t.Errorf("alice sees %s", e.Raw)
				}
			}
			c.works()
		})
	}
}

// TestListedAuthEvents: an event of version 12 with forbidden entries in its auth events is rejected. Other events of
// its transaction are not, and the room goes on even if other servers build on it.
func TestListedAuthEvents(t *testing.T) {
	c := newScene(t, "12", nil)
	other := c.newRoom("12", nil)
	before := c.room.Event("m.room.member", c.bob)
	renamed := c.room.SetState(c.bob, "m.room.member", c.bob, map[string]any{"membership": "join", "displayname": "Bob"})
	refused := c.f.Sign("12", c.room.Draft(c.bob, "m.room.power_levels", map[string]any{"users": map[string]any{c.bob: 50}}, ""))
	c.room.Learn(refused)
	c.f.MustSend(c.s, renamed, refused)
	c.sees("the new name", renamed)
	c.seesNot("power levels without the power", refused)

	levels, rules := c.room.Event("m.room.power_levels", "").ID, c.room.Event("m.room.join_rules", "").ID
	alice := c.room.Event("m.room.member", c.alice.ID).ID
	bad := map[string][]string{
		"the create event":             {levels, renamed.ID, "$" + c.room.ID[1:]},
		"power levels of another room": {other.Event("m.room.power_levels", "").ID, renamed.ID},
		"a member of another room":     {levels, other.Event("m.room.member", c.bob).ID},
		"two events of one member":     {levels, before.ID, renamed.ID},
		"one event twice":              {levels, renamed.ID, renamed.ID},
		"join rules, for a message":    {levels, renamed.ID, rules},
		"another member":               {levels, renamed.ID, alice},
		"a rejected event":             {refused.ID, renamed.ID},
	}
	var names []string
	var events []rig.FakeEvent
	pdus := []any{c.room.Message(c.bob, "before them")}
	for name, list := range bad {
		e := c.f.Sign("12", c.room.Draft(c.bob, "m.room.message", rig.Text(name)).With("auth_events", list))
		names, events, pdus = append(names, name), append(events, e), append(pdus, e)
		c.room.Learn(e)
	}
	last := c.room.Message(c.bob, "after them")
	c.f.MustSend(c.s, append(pdus, last)...)
	c.sees("after them", last)
	for i, e := range events {
		c.seesNot(names[i], e)
	}
	c.works()

	for i, e := range events { // another event builds on it
		branch := c.room
		if names[i] == "the create event" {
			branch = c.room.Fork() // it is unreadable, so nothing can follow it
		}
		good := branch.Draft(c.bob, "m.room.message", rig.Text("on "+names[i]))
		next := branch.Add(good.With("prev_events", []string{branch.Last[0], e.ID}))
		c.f.MustSend(c.s, next)
		if branch == c.room {
			c.sees("an event that follows on "+names[i], next)
		}
		c.seesNot(names[i], e)
	}
	c.works()
}
