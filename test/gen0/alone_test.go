package gen0

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/futures/test/rig"
)

// alone has the tests that need a server of their own, because they kill it, or need other settings or two servers.
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
		s.Wants(s.use("made-up"), 410, "M_NOT_FOUND")
	}
	limited := func(r rig.Response) {
		s.Helper()
		s.Wants(r, 429, "M_LIMIT_EXCEEDED")
		if r.Header.Get("Retry-After") == "" || r.JSON.Get("retry_after_ms").Int() <= 0 || r.Header.Get("Access-Control-Allow-Origin") != "*" {
			s.Errorf("got %s with %v", r.Body, r.Header)
		}
	}
	for range 3 {
		limited(s.use("made-up"))
	}
	s.works(f.Refresh, f.Refresh, other.Refresh)
	limited(s.use(f.Refresh)) // has its own limit
	s.works(other.Refresh, f.Send)
	s.Sees("x")
}

func userLimits(t *testing.T) {
	s := ownScene(t, rig.Config{Set: map[string]any{
		"future_server.max_futures_per_user": 3,
		"future_server.rate_limits.create":   map[string]any{"per_second": 0.1, "burst": 6},
	}})
	path := s.At("v3", "state_future/test/?future_timeout=3600000")
	var f rig.Future
	limited := func(u *rig.User) {
		s.Helper()
		r := u.Do("PUT", path, nil, rig.Text("x"))
		s.Wants(r, 429, "M_LIMIT_EXCEEDED")
		if r.Header.Get("Retry-After") == "" || r.JSON.Get("retry_after_ms").Int() <= 0 {
			s.Errorf("got %s with %v", r.Body, r.Header)
		}
	}
	for range 3 {
		f = s.put(path, rig.Text("x")).Future()
	}
	limited(s.Alice)
	s.works(f.Cancel)
	s.Wants(s.put(path, rig.Text("x")), 200, "")
	limited(s.Alice)
	s.Wants(s.Bob.Do("PUT", path, nil, rig.Text("x")), 200, "")
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
	listed := s.futures(s.Alice)
	s.message("second", 1300*time.Millisecond, "")
	s.message("first", 1100*time.Millisecond, "")
	s.message("third", 1500*time.Millisecond, "")
	lastDue := time.Now().Add(1500 * time.Millisecond)
	refreshedAt := time.Now()
	s.works(refreshed.Refresh)
	s.Server.Kill()
	<-time.After(time.Until(lastDue)) // the server is down at three deadlines
	s.Server.Start()

	notBefore := func(body string, deadline time.Time) {
		s.Helper()
		if early := deadline.UnixMilli() - s.Sees(body).Get("origin_server_ts").Int(); early > 0 {
			s.Errorf("%s came %d ms early", body, early)
		}
	}
	notBefore("refreshed", refreshedAt.Add(2*time.Second)) // an acknowledged refresh is not lost
	var order []string
	for _, event := range s.Alice.Timeline(s.Room) {
		if body := event.Get("content.body").String(); slices.Contains([]string{"first", "second", "third"}, body) {
			order = append(order, body)
		}
	}
	if !slices.Equal(order, []string{"first", "second", "third"}) {
		s.Errorf("the overdue ones came as %v", order)
	}
	for i, element := range s.futures(s.Alice) { // the first of the list was the refreshed one
		if element.Raw != listed[i+1].Raw {
			s.Errorf("element %d was %s and is %s", i, listed[i+1].Raw, element.Raw)
		}
	}
	notBefore("pending", start.Add(10*time.Second))
	s.Server.Stop()
	s.Server.Start()
	s.works(state.Refresh, action.Send)
	s.Sees("action")
	s.gone(pending, state, action, cancelled, refreshed)
	s.Has(1, "action", "state")
	s.Has(5, "first", "second", "third", "pending", "refreshed", "cancelled")
}

// crashWhileSending kills the server between expiry and send, at each step in turn.
func crashWhileSending(t *testing.T) {
	s := ownScene(t, rig.Config{})
	for _, step := range []string{"built", "claimed", "submitted", "proved"} {
		s.Server.CrashAt(step, 1)
		f := s.message(step, soon, "")
		spare := s.message("spare "+step, later, f.Group)
		if !s.Server.WaitExit(rig.Patience) {
			s.Fatalf("the server did not pass %q", step)
		}
		s.Server.Start()
		s.Sees(step)
		s.getsGone(spare)
		s.gone(f, spare)
		s.Has(1, step, "spare "+step)
	}
}

// pair is a scene whose room has a user on another server.
func pair(t *testing.T) (s *scene, carol *rig.User) {
	s = ownScene(t, rig.Config{Federation: true})
	carol = rig.New(t, rig.Config{Federation: true}).Register(t, "carol")
	carol.Join(s.Room, s.Server.Name)
	return s, carol
}

func remoteState(t *testing.T) {
	s, carol := pair(t)
	s.SetPower("state_default", 0)
	const timeout = 5 * time.Second
	f := s.state("test", "", "old", timeout, "")
	other := s.state("test", "other", "other", timeout, "")
	carol.WaitFor(s.Room, rig.HasBody(s.mark("power has been given")), rig.Patience)
	carol.SendState(s.Room, "test", "", rig.Text("new"))
	s.getsGone(f)
	s.Sees("new")
	s.Sees("other")
	s.gone(f, other)
	s.Has(0, "old")
}

// mark sends a message and returns its body.
func (s *scene) mark(body string) string {
	s.Alice.Send(s.Room, "m.room.message", rig.Text(body))
	return body
}

func nothingFederates(t *testing.T) {
	s, carol := pair(t)
	s.message("x", later, "g")
	action := s.message("action", 0, "g")
	carol.WaitFor(s.Room, rig.HasBody(s.mark("after scheduling")), rig.Patience)
	for _, event := range carol.Timeline(s.Room) {
		if body := event.Get("content.body").String(); body == "x" || body == "action" {
			s.Errorf("the other server has seen %s", event.Raw)
		}
	}
	s.works(action.Send)
	carol.WaitFor(s.Room, rig.HasBody("action"), rig.Patience)
}

func disabled(t *testing.T) {
	s := ownScene(t, rig.Config{Set: map[string]any{"future_server.enabled": false}})
	for i, path := range []string{"send_future/m.room.message/t", "state_future/test", "state_future/test/key"} {
		s.Wants(s.put(s.At("v3", path+"?future_timeout=10"), rig.Text(fmt.Sprint("early ", i))), 403, "M_FORBIDDEN")
	}
	for _, path := range []string{"send/m.room.message/t", "state/test", "state/test/key"} {
		s.Wants(s.put(s.At("v3", path+"?future_timeout=10"), rig.Text("early 0")), 400, "M_INVALID_PARAM")
	}
	s.Wants(s.use("AAAAAAAAAAAAAAAAAAAAAA"), 410, "M_NOT_FOUND")
	if n := len(s.futures(s.Alice)); n > 0 {
		s.Errorf("%d futures", n)
	}
	s.Sees(s.mark("stock"))
	s.Has(0, "early 0", "early 1", "early 2")
}
