// Package gen0 proves every numbered requirement of docs/gen0-requirements.md on a whole server, from outside: requests
// go in, events come out. Each subtest of TestGen0 is named by the requirements it proves; 10.x are the
// scenarios of that document's test list.
package gen0

import (
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"github.com/matrix-org/dendrite/futures/test/rig"
)

func TestMain(m *testing.M) { rig.Main(m) }

// TestGen0 runs all subtests side by side, each with users and rooms, or even a server, of its own.
func TestGen0(t *testing.T) {
	w := &world{server: rig.New(t, rig.Config{Set: map[string]any{
		"app_service_api.config_files": []any{bridgeRegistration(t)},
		// What it takes to let guests in.
		"client_api.registration_disabled":       false,
		"client_api.guests_disabled":             false,
		"client_api.enable_registration_captcha": true,
		"client_api.recaptcha_public_key":        "x",
		"client_api.recaptcha_private_key":       "x",
	}})}
	for _, r := range slices.Concat(requests(), refusals(), tokenCalls(), lifecycle(), invalidation(), listing(), secrecy()) {
		t.Run(r.numbers, func(t *testing.T) {
			t.Parallel()
			r.prove(newScene(t, w))
		})
	}
	for numbers, prove := range alone() {
		t.Run(numbers, func(t *testing.T) {
			t.Parallel()
			prove(t)
		})
	}
	t.Cleanup(func() { // 7.3 once more, for all that has been done
		log := w.server.Log()
		w.tokens.Range(func(token, _ any) bool {
			if strings.Contains(log, token.(string)) {
				t.Error("a token is in the log")
			}
			return true
		})
	})
}

// A requirement is proved by a function that fails its scene's test otherwise.
type requirement struct {
	numbers string // of docs/gen0-requirements.md, separated by commas
	prove   func(*scene)
}

// world is the server that the scenes share.
type world struct {
	server *rig.Server
	users  atomic.Int64
	tokens sync.Map // all tokens that the scenes have received
}

// scene is one test's part of the server: alice, who made the room and has all power in it, and bob, who is in it.
type scene struct {
	*testing.T
	world      *world
	alice, bob *rig.User
	room       string
}

func newScene(t *testing.T, w *world) *scene {
	s := &scene{T: t, world: w}
	s.alice, s.bob = s.register("alice"), s.register("bob")
	s.room = s.alice.CreateRoom(nil)
	s.bob.Join(s.room)
	return s
}

func (s *scene) register(name string) *rig.User {
	s.Helper()
	return s.world.server.Register(s, fmt.Sprintf("%s%d", name, s.world.users.Add(1)))
}

// patience is how long a test waits for an event or a state. Only a failing test waits so long.
const patience = time.Minute // after SIGKILL JetStream redelivers unacknowledged messages after 30 s

const (
	soon  = 800 * time.Millisecond // a timeout that runs out during the test
	later = time.Hour              // a timeout that does not
)

// text is the content of a message or a piece of state that can be told apart.
func text(body string) map[string]any { return map[string]any{"msgtype": "m.text", "body": body} }

// message schedules alice's message.
func (s *scene) message(body string, timeout time.Duration, group string) rig.Future {
	s.Helper()
	return s.note(s.alice.SendFuture(s.room, "m.room.message", text(body), rig.Params{Timeout: timeout, Group: group}))
}

// state schedules alice's piece of state.
func (s *scene) state(eventType, key, body string, timeout time.Duration, group string) rig.Future {
	s.Helper()
	return s.note(s.alice.StateFuture(s.room, eventType, key, text(body), rig.Params{Timeout: timeout, Group: group}))
}

func (s *scene) note(f rig.Future) rig.Future {
	for _, token := range tokensOf(f) {
		s.world.tokens.Store(token, nil)
	}
	return f
}

// tokensOf returns all tokens of a future.
func tokensOf(f rig.Future) []string {
	tokens := []string{f.Send, f.Cancel}
	if f.Refresh != "" {
		tokens = append(tokens, f.Refresh)
	}
	return tokens
}

// use uses the token.
func (s *scene) use(token string) rig.Response {
	s.Helper()
	return s.world.server.UseToken(s, token)
}

// works uses the tokens and expects 200 for each.
func (s *scene) works(tokens ...string) {
	s.Helper()
	for _, token := range tokens {
		if r := s.use(token); r.Status != 200 || string(r.Body) != "{}" {
			s.Errorf("a live token is answered %d %s", r.Status, r.Body)
		}
	}
}

// gone uses all tokens of the futures and expects 410 for each.
func (s *scene) gone(futures ...rig.Future) {
	s.Helper()
	for _, f := range futures {
		for i, token := range tokensOf(f) {
			if r := s.use(token); r.Status != 410 || r.ErrCode() != "M_NOT_FOUND" {
				s.Errorf("token %d of a spent future is answered %d %s", i, r.Status, r.Body)
			}
		}
	}
}

// getsGone waits until the future's refresh token gets 410.
func (s *scene) getsGone(f rig.Future) {
	s.Helper()
	s.eventually("the future to go", func() bool { return s.use(f.Refresh).Status == 410 })
}

// eventually waits until the condition holds.
func (s *scene) eventually(what string, condition func() bool) {
	s.Helper()
	tick := time.Tick(20 * time.Millisecond)
	for end := time.Now().Add(patience); !condition(); <-tick {
		if time.Now().After(end) {
			s.Fatalf("waited %s for %s", patience, what)
		}
	}
}

// sees waits for alice to see the event with that body.
func (s *scene) sees(body string) gjson.Result {
	s.Helper()
	return s.alice.WaitFor(s.room, rig.HasBody(body), patience)
}

// passes lets the time pass: a message scheduled now to be sent then has come. What was due before it in the
// same room has come too, or never will.
func (s *scene) passes(d time.Duration) {
	s.Helper()
	marker := fmt.Sprint("marker ", s.alice.NextTxn())
	s.message(marker, d, "")
	s.sees(marker)
}

// count returns how many events with one of the bodies are in the room.
func (s *scene) count(bodies ...string) int {
	s.Helper()
	found := map[string]bool{} // by event ID: Dendrite shows the event at the edge of two pages twice
	for _, event := range s.alice.Timeline(s.room) {
		if slices.Contains(bodies, event.Get("content.body").String()) {
			found[event.Get("event_id").String()] = true
		}
	}
	return len(found)
}

// has checks that n events with one of the bodies are in the room.
func (s *scene) has(n int, bodies ...string) {
	s.Helper()
	if got := s.count(bodies...); got != n {
		s.Errorf("%d of %v are in the room, want %d", got, bodies, n)
	}
}

// at returns the path of something in the scene's room.
func (s *scene) at(version, rest string) string {
	return "/_matrix/client/" + version + "/rooms/" + url.PathEscape(s.room) + "/" + rest
}

// put sends alice's request with that body.
func (s *scene) put(path string, body any) rig.Response {
	s.Helper()
	r := s.alice.Do("PUT", path, nil, body)
	if f := r.Future(); f.Send != "" {
		s.note(f)
	}
	return r
}

// wants checks the status and the errcode of a response.
func (s *scene) wants(r rig.Response, status int, errcode string) {
	s.Helper()
	if r.Status != status || r.ErrCode() != errcode {
		s.Errorf("got %d %s, want %d %s", r.Status, r.Body, status, errcode)
	}
}

// as sends a request with somebody's access token, or none.
func (s *scene) as(accessToken, method, path string, body any) rig.Response {
	s.Helper()
	c := s.world.server.Client()
	c.Token = accessToken
	r, err := c.Do(s.Context(), method, path, nil, body)
	if err != nil {
		s.Fatal(err)
	}
	return r
}

// futures returns the user's list.
func (s *scene) futures(u *rig.User) []gjson.Result {
	s.Helper()
	r := u.Do("GET", rig.Path("futures"), nil, nil)
	if r.Status != 200 || !r.JSON.IsArray() {
		s.Fatalf("the list is answered %d %s", r.Status, r.Body)
	}
	return r.JSON.Array()
}

const bridgeToken = "the token of the bridge"

func bridgeRegistration(t *testing.T) string {
	path := filepath.Join(t.TempDir(), "bridge.yaml")
	registration := fmt.Sprintf(`{id: bridge, url: "", as_token: %q, hs_token: x, sender_localpart: bridge,
		namespaces: {users: [{exclusive: false, regex: "@bridged_.*"}], rooms: [], aliases: []}}`, bridgeToken)
	if err := os.WriteFile(path, []byte(strings.ReplaceAll(registration, "\t", " ")), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
