package rig

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tidwall/gjson"
)

// User is an account with a device. Its methods end the test if a request fails. Tests that expect errors use Do; tests
// that kill the server use the Client itself.
type User struct {
	Client
	ID       string
	DeviceID string

	t    testing.TB
	txns atomic.Int64
}

// Params are the query parameters of a future.
type Params struct {
	Timeout time.Duration // 0: none, for an action future
	Group   string        // "": none
}

// Query returns the parameters as a URL has them.
func (p Params) Query() url.Values {
	q := url.Values{}
	if p.Timeout > 0 {
		q.Set("future_timeout", strconv.FormatInt(p.Timeout.Milliseconds(), 10))
	}
	if p.Group != "" {
		q.Set("future_group_id", p.Group)
	}
	return q
}

// Future is the answer to a scheduling request. Refresh is "" for an action future.
type Future struct {
	Send, Cancel, Refresh, Group string
}

// Future parses the answer to a scheduling request.
func (r Response) Future() Future {
	get := func(key string) string { return r.JSON.Get(key).String() }
	return Future{Send: get("send_token"), Cancel: get("cancel_token"), Refresh: get("refresh_token"), Group: get("future_group_id")}
}

// Client returns a client without a login.
func (s *Server) Client() Client { return Client{URL: s.URL, HTTP: s.http} }

// Register creates an account and logs it in.
func (s *Server) Register(t testing.TB, name string) *User {
	t.Helper()
	return register(t, s.Client(), name, false)
}

// RegisterAdmin creates the account of an administrator.
func (s *Server) RegisterAdmin(t testing.TB, name string) *User {
	t.Helper()
	return register(t, s.Client(), name, true)
}

func register(t testing.TB, client Client, name string, admin bool) *User {
	t.Helper()
	u := &User{Client: client, t: t}
	r, err := u.Client.Register(t.Context(), Secret, name, Password, admin)
	if err != nil || r.Status != http.StatusOK {
		t.Fatalf("registering %s: %d %s %v", name, r.Status, r.Body, err)
	}
	u.ID, u.DeviceID = r.JSON.Get("user_id").String(), r.JSON.Get("device_id").String()
	return u
}

// Login adds a device to the account and returns a user who is logged in with it.
func (s *Server) Login(t testing.TB, u *User) *User {
	t.Helper()
	other := &User{Client: s.Client(), ID: u.ID, t: t}
	r := other.must(http.MethodPost, Path("login"), nil, map[string]any{
		"type": "m.login.password", "password": Password,
		"identifier": map[string]any{"type": "m.id.user", "user": u.ID},
	})
	other.Token, other.DeviceID = r.JSON.Get("access_token").String(), r.JSON.Get("device_id").String()
	return other
}

// LoginAt logs in at a server that the kit has not started.
func LoginAt(t testing.TB, url, name, password string) *User {
	t.Helper()
	u := &User{Client: Client{URL: url, HTTP: http.DefaultClient}, t: t}
	r := u.must(http.MethodPost, Path("login"), nil, map[string]any{
		"type": "m.login.password", "password": password,
		"identifier": map[string]any{"type": "m.id.user", "user": name},
	})
	get := func(key string) string { return r.JSON.Get(key).String() }
	u.ID, u.DeviceID, u.Token = get("user_id"), get("device_id"), get("access_token")
	return u
}

// UseToken uses a future's token, without a login.
func (s *Server) UseToken(t testing.TB, token string) Response {
	t.Helper()
	u := User{Client: s.Client(), t: t}
	return u.Do(http.MethodPost, Path("futures", token), nil, nil)
}

// Do sends one request and returns the response, with any status.
func (u *User) Do(method, path string, query url.Values, body any) Response {
	u.t.Helper()
	r, err := u.Client.Do(u.t.Context(), method, path, query, body)
	if err != nil {
		u.t.Fatalf("%s %s: %v", method, path, err)
	}
	return r
}

// must sends a request that must succeed.
func (u *User) must(method, path string, query url.Values, body any) Response {
	u.t.Helper()
	r := u.Do(method, path, query, body)
	if r.Status != http.StatusOK {
		u.t.Fatalf("%s %s: %d %s", method, path, r.Status, r.Body)
	}
	return r
}

// NextTxn returns a transaction ID that the user has not used yet.
func (u *User) NextTxn() string { return fmt.Sprintf("t%d", u.txns.Add(1)) }

// CreateRoom creates a room, public unless opts say otherwise, and returns its ID.
func (u *User) CreateRoom(opts map[string]any) string {
	u.t.Helper()
	if opts == nil {
		opts = map[string]any{"preset": "public_chat"}
	}
	return u.must(http.MethodPost, Path("createRoom"), nil, opts).JSON.Get("room_id").String()
}

// Join joins the room, through the named servers if it is on another.
func (u *User) Join(room string, via ...string) {
	u.t.Helper()
	u.must(http.MethodPost, Path("join", room), url.Values{"server_name": via}, map[string]any{})
}

// Leave leaves the room.
func (u *User) Leave(room string) {
	u.t.Helper()
	u.must(http.MethodPost, Path("rooms", room, "leave"), nil, map[string]any{})
}

// Invite invites another user.
func (u *User) Invite(room, userID string) {
	u.t.Helper()
	u.must(http.MethodPost, Path("rooms", room, "invite"), nil, map[string]any{"user_id": userID})
}

// Send sends a message event and returns its ID.
func (u *User) Send(room, eventType string, content any) string {
	u.t.Helper()
	return u.must(http.MethodPut, Path("rooms", room, "send", eventType, u.NextTxn()), nil, content).JSON.Get("event_id").String()
}

// SendState sends a state event and returns its ID.
func (u *User) SendState(room, eventType, stateKey string, content any) string {
	u.t.Helper()
	return u.must(http.MethodPut, Path("rooms", room, "state", eventType, stateKey), nil, content).JSON.Get("event_id").String()
}

// GetState returns the content of a state event; the result does not exist if there is no event.
func (u *User) GetState(room, eventType, stateKey string) gjson.Result {
	u.t.Helper()
	r := u.Do(http.MethodGet, Path("rooms", room, "state", eventType, stateKey), nil, nil)
	if r.Status == http.StatusNotFound {
		return gjson.Result{}
	}
	if r.Status != http.StatusOK {
		u.t.Fatalf("GET state %s of %s: %d %s", eventType, room, r.Status, r.Body)
	}
	return r.JSON
}

// SendFuture schedules a message event.
func (u *User) SendFuture(room, eventType string, content any, p Params) Future {
	u.t.Helper()
	return u.must(http.MethodPut, Path("rooms", room, "send_future", eventType, u.NextTxn()), p.Query(), content).Future()
}

// StateFuture schedules a state event.
func (u *User) StateFuture(room, eventType, stateKey string, content any, p Params) Future {
	u.t.Helper()
	return u.must(http.MethodPut, Path("rooms", room, "state_future", eventType, stateKey), p.Query(), content).Future()
}

// Timeline returns all events of the room that the user may see, oldest first.
func (u *User) Timeline(room string) []gjson.Result {
	u.t.Helper()
	events, err := u.Client.Timeline(u.t.Context(), room)
	if err != nil {
		u.t.Fatal(err)
	}
	return events
}

// WaitFor waits until the user sees an event in the room for which pred is true, and returns it.
func (u *User) WaitFor(room string, pred func(event gjson.Result) bool, within time.Duration) gjson.Result {
	u.t.Helper()
	ctx, cancel := context.WithTimeout(u.t.Context(), within)
	defer cancel()
	var found gjson.Result
	err := u.Watch(ctx, room, func(event gjson.Result) bool {
		found = event
		return pred(event)
	})
	if err != nil {
		u.t.Fatalf("%s did not see the event in %s: %v", u.ID, within, err)
	}
	return found
}

// HasBody is a predicate for WaitFor: a message event with that body.
func HasBody(text string) func(gjson.Result) bool {
	return func(event gjson.Result) bool { return event.Get("content.body").String() == text }
}
