package stateafter

import (
	"fmt"
	"maps"
	"net/url"
	"slices"
	"testing"
	"time"

	rsapi "github.com/matrix-org/dendrite/roomserver/api"
	"github.com/matrix-org/dendrite/roomserver/types"
	"github.com/matrix-org/dendrite/test"
	"github.com/tidwall/gjson"
)

const (
	topic   = "m.room.topic"
	message = "m.room.message"
	member  = "m.room.member"
)

// body is the content of a message or a piece of state, with that text.
func body(text string) map[string]any { return map[string]any{"v": text} }

// scene is a room of alice.
type scene struct {
	*server
	alice, bob *test.User
	room       *test.Room
	clock      time.Time
}

func newScene(s *server) *scene {
	c := &scene{server: s, alice: test.NewUser(s.T), bob: test.NewUser(s.T), clock: time.UnixMilli(1_700_000_000_000)}
	c.room = test.NewRoom(s.T, c.alice)
	c.send(c.room.Events()...)
	return c
}

// event builds an event on the room's last one, a second later than the previous, and does not send it.
func (c *scene) event(user *test.User, eventType string, stateKey *string, content any) *types.HeaderedEvent {
	c.Helper()
	c.clock = c.clock.Add(time.Second)
	if stateKey == nil {
		return c.room.CreateEvent(c.T, user, eventType, content, test.WithTimestamp(c.clock))
	}
	return c.room.CreateEvent(c.T, user, eventType, content, test.WithTimestamp(c.clock), test.WithStateKey(*stateKey))
}

// say sends a message of alice.
func (c *scene) say(text string) *types.HeaderedEvent {
	c.Helper()
	e := c.event(c.alice, message, nil, body(text))
	c.room.InsertEvent(c.T, e)
	c.send(e)
	return e
}

// set sends a piece of state.
func (c *scene) set(user *test.User, eventType, key string, content any) *types.HeaderedEvent {
	c.Helper()
	e := c.event(user, eventType, &key, content)
	c.room.InsertEvent(c.T, e)
	c.send(e)
	return e
}

func (c *scene) setTopic(text string) { c.Helper(); c.set(c.alice, topic, "", body(text)) }

func (c *scene) move(user *test.User, membership string) {
	c.Helper()
	c.set(user, member, user.ID, map[string]any{"membership": membership})
}

// want compares the result of a sync with the expected one: type|key and value of v, alternating.
func (c *client) want(got map[string]string, pairs ...string) {
	c.Helper()
	wanted := map[string]string{}
	for i := 0; i < len(pairs); i += 2 {
		wanted[pairs[i]] = pairs[i+1]
	}
	for key, content := range got {
		value := gjson.Get(content, "v").String()
		if v, ok := wanted[key]; !ok || v != value {
			c.Errorf("state_after has %s = %s", key, content)
		}
		delete(wanted, key)
	}
	for key, value := range wanted {
		c.Errorf("state_after lacks %s = %s; it is %v", key, value, got)
	}
}

// same compares the client's state with the room's.
func (c *client) same() {
	c.Helper()
	if real := c.real(); !maps.Equal(c.state, real) {
		c.Errorf("the client has\n%v\nbut the room\n%v", c.state, real)
	}
}

func limit(n int) map[string]any {
	return map[string]any{"room": map[string]any{"timeline": map[string]any{"limit": n}}}
}

func TestFirstSyncAndChanges(t *testing.T) {
	withDatabases(t, func(s *server) {
		c := newScene(s)
		c.setTopic("one")
		c.setTopic("two")
		first := s.client(c.alice, c.room, nil)
		first.sync()
		first.same() // also for state in the timeline

		c.say("hello")
		first.want(first.sync())
		if n := len(first.last.Get("timeline.events").Array()); n != 1 {
			t := first.last
			first.Errorf("the timeline has %d events: %s", n, t.Raw)
		}
		c.setTopic("three")
		c.set(c.alice, "m.room.name", "", body("name"))
		c.setTopic("four") // several changes of one key
		first.want(first.sync(), topic+"|", "four", "m.room.name|", "name")
		raw := func(section string) string {
			return first.last.Get(section + `.events.#(content.v=="four")`).Raw
		}
		if raw("state_after") == "" || raw("state_after") != raw("timeline") {
			first.Errorf("one event in two forms:\n%s\n%s", raw("state_after"), raw("timeline"))
		}
		first.same()
		first.want(first.sync())

		short := s.client(c.alice, c.room, limit(1))
		short.sync()
		short.same()
		for i := range 3 {
			short.extra = url.Values{"full_state": {"true"}}
			short.state = map[string]string{}
			c.setTopic(fmt.Sprint("full ", i))
			short.sync()
			short.same()
		}
	})
}

func TestGap(t *testing.T) {
	withDatabases(t, func(s *server) {
		c := newScene(s)
		alice := s.client(c.alice, c.room, limit(2))
		alice.sync()
		c.setTopic("in the gap")
		c.set(c.alice, "m.room.name", "", body("old"))
		c.set(c.alice, "org.example", "k", body("gap"))
		for range 3 {
			c.say("hello")
		}
		c.set(c.alice, "m.room.name", "", body("new"))
		c.say("hello")
		alice.want(alice.sync(), topic+"|", "in the gap", "m.room.name|", "new", "org.example|k", "gap")
		if !alice.last.Get("timeline.limited").Bool() {
			alice.Error("there is no gap")
		}
		alice.same()
	})
}

// The event that is sent last, but is older, loses: it is in the timeline but not in the state.
func TestLostResolution(t *testing.T) {
	withDatabases(t, func(s *server) {
		c := newScene(s)
		alice, short := s.client(c.alice, c.room, nil), s.client(c.alice, c.room, limit(1))
		alice.sync()
		short.sync()
		key := ""
		loser, winner := c.event(c.alice, topic, &key, body("loser")), c.event(c.alice, topic, &key, body("winner"))
		c.send(winner)
		alice.want(alice.sync(), topic+"|", "winner")
		c.send(loser)
		alice.want(alice.sync())
		if !alice.last.Get(`timeline.events.#(content.v=="loser")`).Exists() {
			alice.Errorf("the loser is not shown: %s", alice.last.Raw)
		}
		alice.same()
		short.want(short.sync(), topic+"|", "winner") // which the timeline does not show
		short.same()
		fresh := s.client(c.alice, c.room, limit(1)) // with only the loser in the timeline
		fresh.sync()
		fresh.same()
	})
}

// Alice takes bob's power, on a branch that does not know his topic, so her topic wins. It is in no timeline of that
// sync.
func TestResolutionWithoutEvent(t *testing.T) {
	withDatabases(t, func(s *server) {
		c := newScene(s)
		c.move(c.bob, "join")
		levels := func(bob int) map[string]any {
			return map[string]any{"users": map[string]any{c.alice.ID: 100, c.bob.ID: bob}, "state_default": 50}
		}
		c.set(c.alice, "m.room.power_levels", "", levels(50))
		long := s.client(c.alice, c.room, nil) // syncs before and after all of it
		long.sync()
		key := ""
		hers := c.event(c.alice, topic, &key, body("alice's"))
		his := c.event(c.bob, topic, &key, body("bob's"))
		c.room.InsertEvent(s.T, hers)
		c.send(his)
		c.send(hers)
		state := func(filter map[string]any) map[string]any {
			return map[string]any{"room": map[string]any{"state": filter}}
		}
		clients := map[string]*client{}
		for name, filter := range map[string]map[string]any{
			"none": nil,
			"lazy": state(map[string]any{"lazy_load_members": true}),
			"type": state(map[string]any{"types": []string{"m.room.to*"}}), // Dendrite applies it to the event that caused the change
		} {
			clients[name] = s.client(c.alice, c.room, filter)
			clients[name].sync()
			if got := gjson.Get(clients[name].state[topic+"|"], "v").String(); got != "bob's" {
				s.Fatalf("%s: the topic is %q", name, got)
			}
		}
		c.set(c.alice, "m.room.power_levels", "", levels(0))
		for name, client := range clients {
			got := client.sync()
			if gjson.Get(got[topic+"|"], "v").String() != "alice's" || (len(got) == 1) != (name == "type") {
				s.Errorf("%s: %v of %s", name, got, client.last.Raw)
			}
		}
		long.sync()
		long.same()
	})
}

// An event that comes with its own state, as joins over federation do, replaces the previous state.
func TestRewrittenState(t *testing.T) {
	withDatabases(t, func(s *server) {
		c := newScene(s)
		// So that her membership is not new; otherwise Dendrite would list the whole state.
		c.set(c.alice, member, c.alice.ID, map[string]any{"membership": "join", "displayname": "A"})
		key := ""
		carrier := c.event(c.alice, message, nil, body("carrier"))
		current, other := c.event(c.alice, topic, &key, body("current")), c.event(c.alice, topic, &key, body("other"))
		state := []string{other.EventID()}
		for _, e := range c.room.CurrentState() {
			state = append(state, e.EventID())
		}
		c.send(current)
		alice := s.client(c.alice, c.room, nil)
		topics := s.client(c.alice, c.room, map[string]any{
			"event_format": "federation", "room": map[string]any{"state": map[string]any{"types": []string{topic}}},
		})
		alice.sync()
		topics.sync()
		c.send(c.event(c.alice, "org.example", &key, body("gone soon")))
		if err := rsapi.SendEvents(s.Context(), s.rsAPI, rsapi.KindOutlier, []*types.HeaderedEvent{other}, "test", "test", "test", nil, false); err != nil {
			s.Fatal(err)
		}
		s.input(rsapi.InputRoomEvent{Kind: rsapi.KindNew, Event: carrier, Origin: "test", HasState: true, StateEventIDs: state})
		if got := alice.sync(); gjson.Get(got[topic+"|"], "v").String() != "other" {
			alice.Errorf("%v of %s", got, alice.last.Raw)
		}
		alice.same()
		topics.want(topics.sync(), topic+"|", "other") // which Dendrite does not list
		if !topics.last.Get("state_after.events.0.depth").Exists() {
			s.Errorf("not in the form of federation: %s", topics.last.Raw)
		}
	})
}

func TestLeftRooms(t *testing.T) {
	withDatabases(t, func(s *server) {
		c := newScene(s)
		c.move(c.bob, "join")
		bob := s.client(c.bob, c.room, limit(1))
		bob.sync()
		c.setTopic("before")
		c.move(c.bob, "leave")
		c.setTopic("after")
		c.set(c.alice, "m.room.name", "", body("after"))
		c.set(c.alice, member, c.bob.ID, map[string]any{"membership": "ban"})
		got := bob.sync()
		if !bob.left {
			bob.Fatalf("not in leave: %s", bob.last.Raw)
		}
		if m := gjson.Get(got[member+"|"+c.bob.ID], "membership").String(); m != "leave" {
			bob.Errorf("the membership is %q", m)
		}
		delete(got, member+"|"+c.bob.ID)
		bob.want(got, topic+"|", "before")

		// A user who has never been in the room learns nothing about it.
		carol := test.NewUser(s.T)
		outside := s.client(carol, c.room, nil)
		c.set(c.alice, member, carol.ID, map[string]any{"membership": "invite"})
		outside.sync()
		c.setTopic("secret")
		c.move(carol, "leave")
		if got := outside.sync(); !outside.left || !slices.Equal(slices.Collect(maps.Keys(got)), []string{member + "|" + carol.ID}) {
			s.Errorf("one who was not in gets %v", got)
		}
	})
}

func TestJustJoined(t *testing.T) {
	withDatabases(t, func(s *server) {
		c := newScene(s)
		c.setTopic("old")
		for _, profile := range []bool{false, true} {
			user := test.NewUser(s.T)
			joined := s.client(user, c.room, limit(1))
			joined.sync()
			if joined.since == "" || len(joined.state) > 0 {
				s.Fatal("not a stranger")
			}
			c.setTopic("new")
			c.move(user, "join")
			if profile { // after which Dendrite does not recognise the room as new
				c.set(user, member, user.ID, map[string]any{"membership": "join", "displayname": "U"})
			}
			joined.sync()
			joined.same()
			c.setTopic("newer")
			joined.want(joined.sync(), topic+"|", "newer")
		}
	})
}

func TestFilters(t *testing.T) {
	withDatabases(t, func(s *server) {
		c := newScene(s)
		c.move(c.bob, "join")
		room := func(state, timeline map[string]any) *client {
			a := s.client(c.alice, c.room, map[string]any{"room": map[string]any{"state": state, "timeline": timeline}})
			a.sync()
			return a
		}
		types := func(names ...string) map[string]any { return map[string]any{"types": names} }
		hidden := room(nil, types(message))
		only := room(types(topic), nil)
		wild := room(types("org.*ample", "*x"), nil)
		without := room(map[string]any{"not_types": []string{topic, "org.*"}}, nil)
		sender := room(map[string]any{"senders": []string{c.bob.ID}}, nil)
		notSender := room(map[string]any{"not_senders": []string{c.alice.ID}}, nil)
		withURL := room(map[string]any{"contains_url": true}, nil)
		url := map[string]any{"v": "u", "url": "mxc://test/x"}
		c.setTopic("t")
		c.set(c.alice, "org.example", "", url)
		c.set(c.alice, "m.room.name", "", body("n"))
		hidden.want(hidden.sync(), topic+"|", "t", "org.example|", "u", "m.room.name|", "n")
		if hidden.last.Get("timeline.events.0").Exists() {
			s.Errorf("the timeline shows state: %s", hidden.last.Raw)
		}
		only.want(only.sync(), topic+"|", "t")
		wild.want(wild.sync(), "org.example|", "u")
		without.want(without.sync(), "m.room.name|", "n")
		sender.want(sender.sync())
		notSender.want(notSender.sync())
		withURL.want(withURL.sync(), "org.example|", "u")
		if events := only.last.Get("timeline.events").Array(); len(events) != 3 {
			s.Errorf("the filter of the state has changed the timeline: %s", only.last.Raw)
		}
	})
}

// lazily is a filter with lazy loading and these types of state.
func lazily(timeline map[string]any, types ...string) map[string]any {
	return map[string]any{"room": map[string]any{
		"state": map[string]any{"lazy_load_members": true, "types": types}, "timeline": timeline,
	}}
}

func TestLazyLoading(t *testing.T) {
	withDatabases(t, func(s *server) {
		c := newScene(s)
		carol := test.NewUser(s.T)
		c.move(c.bob, "join")
		c.move(carol, "join")
		lazy := func(timeline map[string]any) *client {
			return s.client(c.alice, c.room, lazily(timeline, topic, member))
		}
		members := func(got map[string]string, users ...*test.User) {
			s.Helper()
			for _, u := range users {
				if _, ok := got[member+"|"+u.ID]; !ok {
					s.Errorf("%s is not loaded: %v", u.ID, got)
				}
				delete(got, member+"|"+u.ID)
			}
			for key := range got {
				s.Errorf("%s is loaded", key)
			}
		}
		say := func(user *test.User) {
			e := c.event(user, message, nil, body("hello"))
			c.room.InsertEvent(s.T, e)
			c.send(e)
		}
		say(c.alice)
		alice := lazy(map[string]any{"limit": 1})
		members(alice.sync(), c.alice)
		say(c.bob)
		members(alice.sync(), c.bob)
		say(c.bob)
		members(alice.sync()) // the client knows him already
		c.set(carol, member, carol.ID, map[string]any{"membership": "join", "displayname": "C"})
		members(alice.sync(), carol)

		// Members are included even if no type asks for them.
		unasked := s.client(c.alice, c.room, lazily(map[string]any{"types": []string{message}}, topic))
		members(unasked.sync(), c.alice, c.bob)

		// A change that the timeline hides still counts.
		hidden := lazy(map[string]any{"types": []string{message}})
		hidden.sync()
		c.set(carol, member, carol.ID, map[string]any{"membership": "join", "displayname": "D"})
		say(c.bob)
		if got := hidden.sync(); gjson.Get(got[member+"|"+carol.ID], "displayname").String() != "D" {
			s.Errorf("the change is not shown: %v", got)
		}
	})
}

// A new member gets the members of the timeline, for which Dendrite uses the last hundred events, not all.
func TestLazyLoadingAfterJoin(t *testing.T) {
	withDatabases(t, func(s *server) {
		c := newScene(s)
		c.move(c.bob, "join")
		carol, silent := test.NewUser(s.T), test.NewUser(s.T)
		late := s.client(carol, c.room, lazily(map[string]any{"limit": 1}, topic, member))
		late.sync()
		c.move(silent, "join")
		c.move(carol, "join")
		var talk []*types.HeaderedEvent
		for range 100 {
			talk = append(talk, c.event(c.bob, message, nil, body("hello")))
			c.room.InsertEvent(s.T, talk[len(talk)-1])
		}
		c.send(talk...)
		got := late.sync()
		if _, ok := got[member+"|"+silent.ID]; ok || got[member+"|"+c.bob.ID] == "" {
			s.Errorf("not lazy: %v", got)
		}
	})
}

// Events between Dendrite's response and ours belong to the next sync.
func TestMeanwhile(t *testing.T) {
	withDatabases(t, func(s *server) {
		c := newScene(s)
		alice := s.client(c.alice, c.room, nil)
		alice.sync()
		c.setTopic("one")
		s.after = func() { c.setTopic("two") }
		alice.want(alice.sync(), topic+"|", "one")
		alice.want(alice.sync(), topic+"|", "two")
		alice.same()
		fresh := s.client(c.alice, c.room, nil)
		s.after = func() { c.setTopic("three") }
		fresh.sync()
		if got := gjson.Get(fresh.state[topic+"|"], "v").String(); got != "two" {
			fresh.Errorf("the topic is %q", got)
		}
		fresh.want(fresh.sync(), topic+"|", "three")
		fresh.same()
	})
}
