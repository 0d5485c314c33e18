package gen0

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/futures/test/rig"
)

// alone holds the proofs that need a server of their own: because they kill it, or want other settings, or two.
func alone() map[string]func(*testing.T) {
	return map[string]func(*testing.T){
		"4.9,10.25":                  invalidTokenLimit,
		"5.7 by a remote user,10.14": remoteState,
		"5.11,5.5,10.21":             crashWhileSending,
		"5.11,5.20,10.22":            restart,
		"5.12":                       nothingFederates,
		"5.18":                       userLimits,
		"disabled":                   disabled,
	}
}

func ownScene(t *testing.T, cfg rig.Config) *scene {
	return newScene(t, &world{server: rig.New(t, cfg)})
}

func invalidTokenLimit(t *testing.T) {
	s := ownScene(t, rig.Config{Set: map[string]any{
		"future_server.rate_limits.invalid_token": map[string]any{"per_second": 0.1, "burst": 5},
		"future_server.rate_limits.token":         map[string]any{"per_second": 0.1, "burst": 3},
	}})
	f, other := s.message("x", later, ""), s.message("y", later, "")
	s.works(f.Refresh)
	for range 5 {
		s.wants(s.use("made-up"), 410, "M_NOT_FOUND")
	}
	limited := func(r rig.Response) {
		s.Helper()
		s.wants(r, 429, "M_LIMIT_EXCEEDED")
		if r.Header.Get("Retry-After") == "" || r.JSON.Get("retry_after_ms").Int() <= 0 || r.Header.Get("Access-Control-Allow-Origin") != "*" {
			s.Errorf("got %s with %v", r.Body, r.Header)
		}
	}
	for range 3 {
		limited(s.use("made-up"))
	}
	s.works(f.Refresh, f.Refresh, other.Refresh)
	limited(s.use(f.Refresh)) // its own limit
	s.works(other.Refresh, f.Send)
	s.sees("x")
}

func userLimits(t *testing.T) {
	s := ownScene(t, rig.Config{Set: map[string]any{
		"future_server.max_futures_per_user": 3,
		"future_server.rate_limits.create":   map[string]any{"per_second": 0.1, "burst": 6},
	}})
	path := s.at("v3", "state_future/test/?future_timeout=3600000")
	var f rig.Future
	limited := func(u *rig.User) {
		s.Helper()
		r := u.Do("PUT", path, nil, text("x"))
		s.wants(r, 429, "M_LIMIT_EXCEEDED")
		if r.Header.Get("Retry-After") == "" || r.JSON.Get("retry_after_ms").Int() <= 0 {
			s.Errorf("got %s with %v", r.Body, r.Header)
		}
	}
	for range 3 {
		f = s.put(path, text("x")).Future()
	}
	limited(s.alice)
	s.works(f.Cancel)
	s.wants(s.put(path, text("x")), 200, "")
	limited(s.alice)
	s.wants(s.bob.Do("PUT", path, nil, text("x")), 200, "")
}

func restart(t *testing.T) {
	s := ownScene(t, rig.Config{})
	start := time.Now()
	pending := s.message("pending", 10*time.Second, "")
	state := s.state("test", "", "state", later, "g")
	action := s.message("action", 0, "g")
	cancelled := s.message("cancelled", time.Second, "")
	refreshed := s.message("refreshed", 2*time.Second, "")
	s.works(cancelled.Cancel)
	listed := s.futures(s.alice)
	s.message("second", 1300*time.Millisecond, "")
	s.message("first", 1100*time.Millisecond, "")
	s.message("third", 1500*time.Millisecond, "")
	lastDue := time.Now().Add(1500 * time.Millisecond)
	refreshedAt := time.Now()
	s.works(refreshed.Refresh)
	s.world.server.Kill()
	<-time.After(time.Until(lastDue)) // the server sleeps through three deadlines
	s.world.server.Start()

	notBefore := func(body string, deadline time.Time) {
		s.Helper()
		if early := deadline.UnixMilli() - s.sees(body).Get("origin_server_ts").Int(); early > 0 {
			s.Errorf("%s came %d ms early", body, early)
		}
	}
	notBefore("refreshed", refreshedAt.Add(2*time.Second)) // an acknowledged refresh is not lost
	var order []string
	for _, event := range s.alice.Timeline(s.room) {
		if body := event.Get("content.body").String(); slices.Contains([]string{"first", "second", "third"}, body) {
			order = append(order, body)
		}
	}
	if !slices.Equal(order, []string{"first", "second", "third"}) {
		s.Errorf("the overdue ones came as %v", order)
	}
	for i, element := range s.futures(s.alice) { // the first of the list was the one refreshed
		if element.Raw != listed[i+1].Raw {
			s.Errorf("element %d was %s and is %s", i, listed[i+1].Raw, element.Raw)
		}
	}
	notBefore("pending", start.Add(10*time.Second))
	s.world.server.Stop()
	s.world.server.Start()
	s.works(state.Refresh, action.Send)
	s.sees("action")
	s.gone(pending, state, action, cancelled, refreshed)
	s.has(1, "action", "state")
	s.has(5, "first", "second", "third", "pending", "refreshed", "cancelled")
}

// crashWhileSending kills the server between expiry and send, at each step in turn.
func crashWhileSending(t *testing.T) {
	s := ownScene(t, rig.Config{})
	for _, step := range []string{"built", "claimed", "submitted", "proved"} {
		s.world.server.CrashAt(step, 1)
		f := s.message(step, soon, "")
		spare := s.message("spare "+step, later, f.Group)
		if !s.world.server.WaitExit(patience) {
			s.Fatalf("the server did not pass %q", step)
		}
		s.world.server.Start()
		s.sees(step)
		s.getsGone(spare)
		s.gone(f, spare)
		s.has(1, step, "spare "+step)
	}
}

// pair is a scene whose room has a user of another server.
func pair(t *testing.T) (s *scene, carol *rig.User) {
	s = ownScene(t, rig.Config{Federation: true})
	carol = rig.New(t, rig.Config{Federation: true}).Register(t, "carol")
	carol.Join(s.room, s.world.server.Name)
	return s, carol
}

func remoteState(t *testing.T) {
	s, carol := pair(t)
	s.setPower("state_default", 0)
	const timeout = 5 * time.Second
	f := s.state("test", "", "old", timeout, "")
	other := s.state("test", "other", "other", timeout, "")
	carol.WaitFor(s.room, rig.HasBody(s.mark("power has been given")), patience)
	carol.SendState(s.room, "test", "", text("new"))
	s.getsGone(f)
	s.sees("new")
	s.sees("other")
	s.gone(f, other)
	s.has(0, "old")
}

// mark sends a message and returns its body.
func (s *scene) mark(body string) string {
	s.alice.Send(s.room, "m.room.message", text(body))
	return body
}

func nothingFederates(t *testing.T) {
	s, carol := pair(t)
	s.message("x", later, "g")
	action := s.message("action", 0, "g")
	carol.WaitFor(s.room, rig.HasBody(s.mark("after scheduling")), patience)
	for _, event := range carol.Timeline(s.room) {
		if body := event.Get("content.body").String(); body == "x" || body == "action" {
			s.Errorf("the other server has seen %s", event.Raw)
		}
	}
	s.works(action.Send)
	carol.WaitFor(s.room, rig.HasBody("action"), patience)
}

func disabled(t *testing.T) {
	s := ownScene(t, rig.Config{Set: map[string]any{"future_server.enabled": false}})
	for i, path := range []string{"send_future/m.room.message/t", "state_future/test", "state_future/test/key"} {
		s.wants(s.put(s.at("v3", path+"?future_timeout=10"), text(fmt.Sprint("early ", i))), 403, "M_FORBIDDEN")
	}
	for _, path := range []string{"send/m.room.message/t", "state/test", "state/test/key"} {
		s.wants(s.put(s.at("v3", path+"?future_timeout=10"), text("early 0")), 400, "M_INVALID_PARAM")
	}
	s.wants(s.use("AAAAAAAAAAAAAAAAAAAAAA"), 410, "M_NOT_FOUND")
	if n := len(s.futures(s.alice)); n > 0 {
		s.Errorf("%d futures", n)
	}
	s.sees(s.mark("stock"))
	s.has(0, "early 0", "early 1", "early 2")
}
