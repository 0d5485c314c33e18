package interop_test

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"github.com/matrix-org/dendrite/futures/test/rig"
)

// piece is a type of state that everybody may set in rooms from scene.create.
const piece = "org.example.piece"

// register creates an account on the side.
func (s *scene) register(on side, name string) *rig.User {
	s.Helper()
	return on.Register(s, fmt.Sprintf("%s%d", name, s.users.Add(1)))
}

// create creates a room of the scene's version, public unless opts say otherwise.
func (s *scene) create(owner *rig.User, opts map[string]any) (room string) {
	s.Helper()
	all := map[string]any{
		"preset":                       "public_chat",
		"power_level_content_override": map[string]any{"events": map[string]any{piece: 0}},
	}
	if s.version != "default" {
		all["room_version"] = s.version
	}
	maps.Copy(all, opts)
	return owner.CreateRoom(all)
}

// meet is the start of most scenarios: a public room of the owner that the guest has joined over federation.
func (s *scene) meet(opts map[string]any) (owner, guest *rig.User, room string) {
	s.Helper()
	owner, guest = s.register(s.home, "owner"), s.register(s.away, "guest")
	room = s.create(owner, opts)
	s.join(guest, room, s.home)
	s.member(owner, room, guest, "join")
	return owner, guest, room
}

// join joins a room that the other server is in.
func (s *scene) join(u *rig.User, room string, via side) {
	s.Helper()
	s.wants(s.tryJoin(u, room, via), 200, "")
}

// tryJoin sends a join, also with the older name of the parameter, which our server knows.
func (s *scene) tryJoin(u *rig.User, room string, via side) rig.Response {
	s.Helper()
	servers := []string{via.server}
	return u.Do(http.MethodPost, rig.Path("join", room), url.Values{"server_name": servers, "via": servers}, map[string]any{})
}

// membership kicks, bans, unbans or invites a user.
func membership(u *rig.User, room, action string, target *rig.User) rig.Response {
	return u.Do(http.MethodPost, rig.Path("rooms", room, action), nil, map[string]any{"user_id": target.ID, "reason": "a test"})
}

// wants checks the status and the error code of a response, and ends the test if they differ.
func (s *scene) wants(r rig.Response, status int, errcode string) rig.Response {
	s.Helper()
	if r.Status != status || r.ErrCode() != errcode {
		s.Fatalf("got %d %s, want %d %s", r.Status, r.Body, status, errcode)
	}
	return r
}

func is(id string) func(gjson.Result) bool {
	return func(event gjson.Result) bool { return event.Get("event_id").String() == id }
}

func isType(eventType string) func(gjson.Result) bool {
	return func(event gjson.Result) bool { return event.Get("type").String() == eventType }
}

func isMember(u *rig.User, membership string) func(gjson.Result) bool {
	return func(event gjson.Result) bool {
		return event.Get("type").String() == "m.room.member" && event.Get("state_key").String() == u.ID &&
			event.Get("content.membership").String() == membership
	}
}

// member waits until u sees the target's membership.
func (s *scene) member(u *rig.User, room string, target *rig.User, membership string) {
	s.Helper()
	u.WaitFor(room, isMember(target, membership), patience)
}

// syncUntil follows the user's /sync until find returns an existing value, and returns it.
func (s *scene) syncUntil(u *rig.User, what string, find func(sync gjson.Result) gjson.Result) gjson.Result {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.Context(), patience)
	defer cancel()
	query := url.Values{"timeout": {"0"}}
	for {
		r, err := u.Client.Do(ctx, http.MethodGet, rig.Path("sync"), query, nil)
		if err != nil {
			s.Fatalf("%s did not see %s in %s: %v", u.ID, what, patience, err)
		}
		if found := find(s.wants(r, 200, "").JSON); found.Exists() {
			return found
		}
		query.Set("since", r.JSON.Get("next_batch").String())
		query.Set("timeout", "30000")
	}
}

// invited waits for the invitation and returns the stripped state that came with it.
func (s *scene) invited(u *rig.User, room string) []gjson.Result {
	s.Helper()
	path := "rooms.invite." + gjson.Escape(room) + ".invite_state.events"
	return s.syncUntil(u, "the invitation", func(sync gjson.Result) gjson.Result { return sync.Get(path) }).Array()
}

// exchange lets each user send a message that all others wait for.
func (s *scene) exchange(room string, users ...*rig.User) {
	s.Helper()
	for _, u := range users {
		id := u.Send(room, "m.room.message", rig.Text("I am here"))
		for _, other := range users {
			other.WaitFor(room, is(id), patience)
		}
	}
}

// agree lets users of both sides send messages, and waits until all see the same state of the room, event for event.
func (s *scene) agree(room string, users ...*rig.User) {
	s.Helper()
	s.exchange(room, users...)
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience / 2); ; <-tick.C {
		difference := ""
		first := s.state(users[0], room)
		for _, u := range users[1:] {
			difference += differ(first, s.state(u, room))
		}
		if difference == "" {
			return
		}
		if time.Now().After(end) {
			s.Fatalf("the servers do not agree on the state of %s, %s first:\n%s", room, users[0].ID, difference)
		}
	}
}

// stateEvent waits until the room's state, as the user sees it, has an event that such accepts, and returns it.
func (s *scene) stateEvent(u *rig.User, room string, such func(gjson.Result) bool) (found gjson.Result) {
	s.Helper()
	eventually(s, "a piece of state", func() bool {
		all := s.wants(u.Do(http.MethodGet, rig.Path("rooms", room, "state"), nil, nil), 200, "").JSON.Array()
		i := slices.IndexFunc(all, such)
		if i >= 0 {
			found = all[i]
		}
		return i >= 0
	})
	return found
}

// told waits until the witness sees exactly the event that is now current for the actor.
func (s *scene) told(actor, witness *rig.User, room string, such func(gjson.Result) bool) {
	s.Helper()
	witness.WaitFor(room, is(s.stateEvent(actor, room, such).Get("event_id").String()), patience)
}

// state returns the room's state as the user sees it: type and state key to the event's ID and content.
func (s *scene) state(u *rig.User, room string) map[string]string {
	s.Helper()
	state := make(map[string]string)
	for _, e := range s.wants(u.Do(http.MethodGet, rig.Path("rooms", room, "state"), nil, nil), 200, "").JSON.Array() {
		key := e.Get("type").String() + " " + e.Get("state_key").String()
		state[key] = e.Get("event_id").String() + " " + e.Get("content").Raw
	}
	return state
}

// differ names the pieces of state whose event IDs differ.
func differ(a, b map[string]string) string {
	keys := slices.Sorted(maps.Keys(a))
	for key := range b {
		if _, both := a[key]; !both {
			keys = append(keys, key)
		}
	}
	var out strings.Builder
	for _, key := range keys {
		idA, _, _ := strings.Cut(a[key], " ")
		idB, _, _ := strings.Cut(b[key], " ")
		if idA != idB {
			fmt.Fprintf(&out, "  %s:\n    %s\n    %s\n", key, a[key], b[key])
		}
	}
	return out.String()
}

// timeline returns the room's events, newest first, as a client that pages backwards gets them.
func (s *scene) timeline(u *rig.User, room string) (events []gjson.Result) {
	s.Helper()
	seen := make(map[string]bool)
	query := url.Values{"dir": {"b"}, "limit": {"100"}}
	for range 20 {
		r := s.wants(u.Do(http.MethodGet, rig.Path("rooms", room, "messages"), query, nil), 200, "")
		for _, event := range r.JSON.Get("chunk").Array() {
			if id := event.Get("event_id").String(); !seen[id] { // Dendrite's pages overlap
				seen[id] = true
				events = append(events, event)
			}
		}
		end := r.JSON.Get("end").String()
		if end == "" || end == query.Get("from") || (len(events) > 0 && isType("m.room.create")(events[len(events)-1])) {
			break
		}
		query.Set("from", end)
	}
	return events
}

// has checks that the timeline of each user has n events with that body.
func (s *scene) has(n int, body, room string, users ...*rig.User) {
	s.Helper()
	for _, u := range users {
		got := 0
		for _, event := range s.timeline(u, room) {
			if rig.HasBody(body)(event) {
				got++
			}
		}
		if got != n {
			s.Errorf("%s sees %q %d times, want %d", u.ID, body, got, n)
		}
	}
}

// sees waits until each of the users sees the event with that body.
func (s *scene) sees(body, room string, users ...*rig.User) {
	s.Helper()
	for _, u := range users {
		u.WaitFor(room, rig.HasBody(body), patience)
	}
}

// eventually waits until the condition holds.
func eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); !condition(); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("waited %s for %s", patience, what)
		}
	}
}
