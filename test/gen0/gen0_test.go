// Package gen0 tests every numbered requirement of docs/gen0-requirements.md on a whole server, from outside: requests
// go in, events come out. The name of each subtest of TestGen0 has the numbers of its requirements; 10.x are the
// scenarios of that document.
package gen0

import (
	"fmt"
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

// TestGen0 runs all subtests in parallel, each with users and rooms, or even a server, of its own.
func TestGen0(t *testing.T) {
	w := &world{server: rig.New(t, rig.Config{Set: rig.Guests(t)})}
	for _, r := range slices.Concat(requests(), refusals(), tokenCalls(), lifecycle(), invalidation(), listing(), secrecy()) {
		t.Run(r.numbers, func(t *testing.T) {
			t.Parallel()
			r.check(newScene(t, w))
		})
	}
	rig.CheckAlone(t, alone())
	t.Cleanup(func() { // 7.3 once more, for all requests so far
		log := w.server.Log()
		w.tokens.Range(func(token, _ any) bool {
			if strings.Contains(log, token.(string)) {
				t.Error("a token is in the log")
			}
			return true
		})
	})
}

// A requirement is checked by a function that fails its scene's test if the server does not meet it.
type requirement struct {
	numbers string // of docs/gen0-requirements.md, separated by commas
	check   func(*scene)
}

// world is the server that the scenes share.
type world struct {
	server *rig.Server
	users  atomic.Int64
	tokens sync.Map // all tokens that the scenes have received
}

// scene is one test's part of the server, with the requests of generation 0.
type scene struct {
	*rig.Scene
	world *world
}

func newScene(t *testing.T, w *world) *scene {
	return &scene{rig.NewScene(t, w.server, &w.users), w}
}

const (
	soon  = 800 * time.Millisecond // a timeout that runs out during the test
	later = time.Hour              // a timeout that does not
)

// message schedules alice's message.
func (s *scene) message(body string, timeout time.Duration, group string) rig.Future {
	s.Helper()
	return s.note(s.Alice.SendFuture(s.Room, "m.room.message", rig.Text(body), rig.Params{Timeout: timeout, Group: group}))
}

// state schedules alice's piece of state.
func (s *scene) state(eventType, key, body string, timeout time.Duration, group string) rig.Future {
	s.Helper()
	return s.note(s.Alice.StateFuture(s.Room, eventType, key, rig.Text(body), rig.Params{Timeout: timeout, Group: group}))
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
	return s.Server.UseToken(s, token)
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
	s.Eventually("the future to go", func() bool { return s.use(f.Refresh).Status == 410 })
}

// passes lets time pass: it schedules a message and waits for it. Events of the room that were due earlier have arrived
// too, or never will.
func (s *scene) passes(d time.Duration) {
	s.Helper()
	marker := fmt.Sprint("marker ", s.Alice.NextTxn())
	s.message(marker, d, "")
	s.Sees(marker)
}

// put sends a request of alice with that body.
func (s *scene) put(path string, body any) rig.Response {
	s.Helper()
	r := s.Alice.Do("PUT", path, nil, body)
	if f := r.Future(); f.Send != "" {
		s.note(f)
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
