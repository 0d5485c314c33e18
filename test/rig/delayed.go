package rig

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tidwall/gjson"
)

// What the tests of delayed events, generations 1 and 2 of MSC4140, have in common.

// The two paths of delayed events.
const (
	StableDelayed   = "/_matrix/client/v1/delayed_events"
	UnstableDelayed = "/_matrix/client/unstable/org.matrix.msc4140/delayed_events"
)

// Patience is how long a test waits for what must come; only a failing test waits so long.
const Patience = time.Minute // after SIGKILL JetStream delivers anew after 30 s what a reader had in hand

// Scene is one test's part of a server: Alice, who made the room and has all power in it, and Bob, who is in it.
type Scene struct {
	*testing.T
	Server     *Server
	Alice, Bob *User
	Room       string
	users      *atomic.Int64 // registered on the server
}

// NewScene makes the users and the room of a test; users numbers the accounts of all scenes of the server.
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

// Text is the content of a message or a piece of state that can be told apart.
func Text(body string) map[string]any { return map[string]any{"msgtype": "m.text", "body": body} }

// At returns the path of something in the room, under any prefix of the client API.
func (s *Scene) At(version, rest string) string {
	return "/_matrix/client/" + version + "/rooms/" + url.PathEscape(s.Room) + "/" + rest
}

// As sends a request with somebody's access token, or none if that is "".
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

// ID returns the delay_id of an answer, which must hold nothing else.
func (s *Scene) ID(r Response) string {
	s.Helper()
	id := r.JSON.Get("delay_id").String()
	if r.Status != http.StatusOK || id == "" || len(r.JSON.Map()) != 1 {
		s.Fatalf("scheduling is answered %d %s", r.Status, r.Body)
	}
	return id
}

// Message schedules Alice's message by generation 1 and returns its delay_id.
func (s *Scene) Message(body string, delay time.Duration) string {
	s.Helper()
	return s.ID(s.Alice.Delay(s.Room, "send/m.room.message/"+s.Alice.NextTxn(), Text(body), delay))
}

// State schedules Alice's piece of state by generation 1 and returns its delay_id.
func (s *Scene) State(eventType, key, body string, delay time.Duration) string {
	s.Helper()
	return s.ID(s.Alice.Delay(s.Room, "state/"+eventType+"/"+url.PathEscape(key), Text(body), delay))
}

// Delay sends a request on the room's /send or /state with the parameter of generation 1.
func (u *User) Delay(room, rest string, content any, delay time.Duration) Response {
	u.t.Helper()
	query := url.Values{"org.matrix.msc4140.delay": {strconv.FormatInt(delay.Milliseconds(), 10)}}
	return u.Do(http.MethodPut, Path("rooms", room)+"/"+rest, query, content)
}

// Listed returns the delay_ids in the user's list, as it is with that query.
func (s *Scene) Listed(u *User, query string) []string {
	s.Helper()
	ids := []string{}
	for _, e := range s.Wants(u.Do(http.MethodGet, UnstableDelayed+query, nil, nil), 200, "").JSON.Get("delayed_events").Array() {
		ids = append(ids, e.Get("delay_id").String())
	}
	return ids
}

// Lookup returns Alice's delayed event as the stable path shows it.
func (s *Scene) Lookup(id string) gjson.Result {
	s.Helper()
	return s.Wants(s.Alice.Do(http.MethodGet, StableDelayed+"/"+id, nil, nil), 200, "").JSON
}

// Finalised waits until Alice's delayed event has ended, and returns what is said of that.
func (s *Scene) Finalised(id string) (f gjson.Result) {
	s.Helper()
	s.Eventually("the end of the delayed event", func() bool {
		f = s.Lookup(id).Get("finalised")
		return f.Exists()
	})
	return f
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

// Passes lets the time pass: a message scheduled now to be sent then has come. What was due before it in the
// room has come too, or never will.
func (s *Scene) Passes(d time.Duration) {
	s.Helper()
	marker := fmt.Sprint("marker ", s.Alice.NextTxn())
	s.Message(marker, d)
	s.Sees(marker)
}

// Has wants that many events with one of the bodies in the room, and waits until there are so many: what has been
// sent may reach the timeline a moment later.
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
	for _, event := range s.Alice.Timeline(s.Room) {
		if body := event.Get("content.body").String(); slices.Contains(of, body) {
			found = append(found, body)
		}
	}
	return found
}

// SetPower lets one key of the room's power levels be that value.
func (s *Scene) SetPower(key string, level any) {
	s.Helper()
	content := map[string]any{}
	for name, value := range s.Alice.GetState(s.Room, "m.room.power_levels", "").Map() {
		content[name] = value.Value()
	}
	content[key] = level
	s.Alice.SendState(s.Room, "m.room.power_levels", "", content)
}
