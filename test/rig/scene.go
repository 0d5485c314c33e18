package rig

import (
	"fmt"
	"net/url"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tidwall/gjson"
)

// Patience is how long a test waits for something that must happen. Only a failing test waits so long.
const Patience = time.Minute // after SIGKILL JetStream redelivers unacknowledged messages after 30 s

// Scene is one test's part of a server: Alice, who has created the room and has all power in it, and Bob, who is a
// member.
type Scene struct {
	*testing.T
	Server     *Server
	Alice, Bob *User
	Room       string
	users      *atomic.Int64 // number of accounts on the server
}

// CheckRequirements runs a test for each requirement, in parallel. The test's name is the numbers of the requirements,
// separated by commas. Tests in shared have scenes on one server, which admits guests and an application service; tests
// in alone start servers of their own.
func CheckRequirements(t *testing.T, alone map[string]func(*testing.T), shared ...map[string]func(*Scene)) {
	server := New(t, Config{Set: Guests(t)})
	var users atomic.Int64
	for _, part := range shared {
		for numbers, check := range part {
			t.Run(numbers, func(t *testing.T) {
				t.Parallel()
				check(NewScene(t, server, &users))
			})
		}
	}
	CheckAlone(t, alone)
}

// CheckAlone runs the tests in parallel.
func CheckAlone(t *testing.T, tests map[string]func(*testing.T)) {
	for numbers, check := range tests {
		t.Run(numbers, func(t *testing.T) {
			t.Parallel()
			check(t)
		})
	}
}

// NewScene creates the users and the room of a test. users counts the accounts of all scenes of the server.
func NewScene(t *testing.T, server *Server, users *atomic.Int64) *Scene {
	s := &Scene{T: t, Server: server, users: users}
	s.Alice, s.Bob = s.Register("alice"), s.Register("bob")
	s.Room = s.Alice.CreateRoom(nil)
	s.Bob.Join(s.Room)
	return s
}

// Register creates one more account.
func (s *Scene) Register(name string) *User {
	s.Helper()
	return s.Server.Register(s, fmt.Sprintf("%s%d", name, s.users.Add(1)))
}

// Text is the content of a message or a piece of state, with that body.
func Text(body string) map[string]any { return map[string]any{"msgtype": "m.text", "body": body} }

// At returns the path of something in the room, under any prefix of the client API.
func (s *Scene) At(version, rest string) string {
	return "/_matrix/client/" + version + "/rooms/" + url.PathEscape(s.Room) + "/" + rest
}

// As sends a request with that access token, or none if it is "".
func (s *Scene) As(accessToken, method, path string, body any) Response {
	s.Helper()
	c := s.Server.Client()
	c.Token = accessToken
	r, err := c.Do(s.Context(), method, path, nil, body)
	if err != nil {
		s.Fatal(err)
	}
	return r
}

// Wants checks the status and the error code of a response.
func (s *Scene) Wants(r Response, status int, errcode string) Response {
	s.Helper()
	if r.Status != status || r.ErrCode() != errcode {
		s.Errorf("got %d %s, want %d %s", r.Status, r.Body, status, errcode)
	}
	return r
}

// Eventually waits until the condition holds.
func (s *Scene) Eventually(what string, condition func() bool) {
	s.Helper()
	tick := time.Tick(20 * time.Millisecond)
	for end := time.Now().Add(Patience); !condition(); <-tick {
		if time.Now().After(end) {
			s.Fatalf("waited %s for %s", Patience, what)
		}
	}
}

// Sees waits for Alice to see the event with that body.
func (s *Scene) Sees(body string) gjson.Result {
	s.Helper()
	return s.Alice.WaitFor(s.Room, HasBody(body), Patience)
}

// Has checks that the room has n events with one of the bodies. It waits until there are n, because a sent event may
// reach the timeline a moment later.
func (s *Scene) Has(n int, bodies ...string) {
	s.Helper()
	s.Eventually(fmt.Sprintf("%d of %v", n, bodies), func() bool { return len(s.Bodies(bodies...)) >= n })
	if got := s.Bodies(bodies...); len(got) != n {
		s.Errorf("%v are in the room, want %d of %v", got, n, bodies)
	}
}

// Bodies returns which of the bodies are in the room, in the order of the timeline.
func (s *Scene) Bodies(of ...string) (found []string) {
	s.Helper()
	seen := map[string]bool{} // Dendrite shows the event at the edge of two pages twice
	for _, event := range s.Alice.Timeline(s.Room) {
		id, body := event.Get("event_id").String(), event.Get("content.body").String()
		if slices.Contains(of, body) && !seen[id] {
			found = append(found, body)
		}
		seen[id] = true
	}
	return found
}

// SetPower sets one key of the room's power levels.
func (s *Scene) SetPower(key string, level any) {
	s.Helper()
	content := map[string]any{}
	for name, value := range s.Alice.GetState(s.Room, "m.room.power_levels", "").Map() {
		content[name] = value.Value()
	}
	content[key] = level
	s.Alice.SendState(s.Room, "m.room.power_levels", "", content)
}
