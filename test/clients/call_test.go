package clients

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"github.com/matrix-org/dendrite/futures/test/rig"
)

const (
	memberType = "org.matrix.msc3401.call.member"
	managePath = "/_matrix/client/unstable/org.matrix.msc4140/delayed_events"

	// The defaults of matrix-js-sdk's sessions.
	leaveDelay = 8 * time.Second
	heartbeat  = 5 * time.Second

	stay   = time.Minute
	late   = 5 * time.Second  // how late a leave may be seen
	margin = 20 * time.Second // how late anything else may be

	poll = 500 * time.Millisecond // the list has a rate limit
)

// call is a room with two participants of a call, each in a process of its own.
type call struct {
	room       string
	alice, bob *rig.User
	a, b       *client
}

// newCall starts both clients; nobody has joined the call.
func newCall(t *testing.T, s *rig.Server, sdk string) *call {
	t.Helper()
	c := &call{alice: s.Register(t, sdk+"-alice"), bob: s.Register(t, sdk+"-bob")}
	c.room = c.alice.CreateRoom(map[string]any{
		"preset":                       "public_chat",
		"power_level_content_override": map[string]any{"events": map[string]any{memberType: 0}},
	})
	c.bob.Join(c.room)
	c.a = start(t, script(t, "call.mjs"), sdk, c.alice, c.room)
	c.b = start(t, script(t, "call.mjs"), sdk, c.bob, c.room)
	for _, participant := range []*client{c.a, c.b} {
		participant.wait("members", 0, time.Minute, among())
	}
	return c
}

// among reports whether exactly these users are in the call.
func among(users ...*rig.User) func(gjson.Result) bool {
	return func(members gjson.Result) bool {
		found := members.Array()
		if len(found) != len(users) {
			return false
		}
		for i, u := range users { // both are sorted
			if found[i].String() != u.ID {
				return false
			}
		}
		return true
	}
}

// scheduled lists the user's delayed events.
func scheduled(t *testing.T, u *rig.User) []gjson.Result {
	t.Helper()
	r := u.Do(http.MethodGet, managePath, nil, nil)
	if r.Status != http.StatusOK {
		t.Fatalf("the list of %s: %d %s", u.ID, r.Status, r.Body)
	}
	return r.JSON.Get("delayed_events").Array()
}

// theLeave waits until the user has exactly one delayed event, with another ID than before, and returns it: the leave.
func theLeave(t *testing.T, u *rig.User, before string) gjson.Result {
	t.Helper()
	for end := time.Now().Add(leaveDelay + margin); ; time.Sleep(poll) {
		all := scheduled(t, u)
		if len(all) == 1 && all[0].Get("delay_id").String() != before {
			if all[0].Get("type").String() != memberType || all[0].Get("content").Raw != "{}" {
				t.Fatalf("%s has scheduled %s", u.ID, all[0])
			}
			return all[0]
		}
		if time.Now().After(end) {
			t.Fatalf("%s has scheduled %s", u.ID, all)
		}
	}
}

// each runs the test with every release of matrix-js-sdk, in parallel on one server.
func each(t *testing.T, test func(t *testing.T, s *rig.Server, sdk string)) {
	t.Helper()
	requireNode(t)
	t.Parallel()
	s := newServer(t, nil)
	for _, sdk := range sdks {
		t.Run(sdk, func(t *testing.T) {
			t.Parallel()
			test(t, s, sdk)
		})
	}
}

// TestStayAndDie: a participant who stays is not removed from the call, one who leaves has left at once, and one who
// dies has left after the delay.
func TestStayAndDie(t *testing.T) {
	each(t, func(t *testing.T, s *rig.Server, sdk string) {
		c := newCall(t, s, sdk)
		c.a.order("join")
		_, seen := c.b.wait("members", 0, margin, among(c.alice))
		joined := time.Now()
		first := theLeave(t, c.alice, "")

		c.b.order("join")
		_, there := c.a.wait("members", 0, margin, among(c.alice, c.bob))
		theLeave(t, c.bob, "")
		time.Sleep(2 * heartbeat)
		c.b.order("leave")
		c.b.wait("left", 0, margin, gjson.Result.Bool)
		c.a.wait("members", there, margin, among(c.alice))
		if left := scheduled(t, c.bob); len(left) > 0 {
			t.Errorf("after a clean leave there is still %s", left)
		}

		time.Sleep(time.Until(joined.Add(stay)))
		lines, _ := c.b.told()
		for _, line := range lines[seen:] {
			if members := line.Get("members"); members.Exists() && !strings.Contains(members.Raw, c.alice.ID) {
				t.Errorf("within %s alice's membership went: %s", stay, line)
			}
		}
		last := theLeave(t, c.alice, "")
		if last.Get("delay_id").String() != first.Get("delay_id").String() {
			t.Error("the leave had to be scheduled again")
		}
		if since := time.Duration(last.Get("running_since").Int()-first.Get("running_since").Int()) * time.Millisecond; since < stay-2*heartbeat {
			t.Errorf("the heartbeats have moved the leave by %s only", since)
		}
		judgeHeartbeats(t, c.a)

		lines, _ = c.b.told()
		c.a.kill()
		died := time.Now()
		c.b.wait("members", len(lines), leaveDelay+margin, among())
		if took := time.Since(died); took < leaveDelay-heartbeat-time.Second || took > leaveDelay+late {
			t.Errorf("the leave of the dead was seen after %s", took)
		}
	})
}

// judgeHeartbeats checks that each heartbeat was a single successful request.
func judgeHeartbeats(t *testing.T, c *client) {
	t.Helper()
	c.order("requests")
	answer, _ := c.wait("requests", 0, margin, gjson.Result.IsArray)
	heartbeats := answer.Array()
	for _, request := range heartbeats {
		if !strings.HasPrefix(request.String(), "POST ") || !strings.HasSuffix(request.String(), " 200") {
			t.Errorf("a heartbeat took %s", request)
		}
	}
	if least := int(stay/heartbeat) - 1; len(heartbeats) < least {
		t.Errorf("%d heartbeats in %s", len(heartbeats), stay)
	}
}

// TestThrownOut: a participant whose leave is cancelled by a service schedules another, and one who is removed comes
// back for good.
func TestThrownOut(t *testing.T) {
	each(t, func(t *testing.T, s *rig.Server, sdk string) {
		c := newCall(t, s, sdk)
		c.a.order("join")
		_, seen := c.b.wait("members", 0, margin, among(c.alice))

		first := theLeave(t, c.alice, "")
		act(t, s, first, "cancel")
		second := theLeave(t, c.alice, first.Get("delay_id").String())
		if lines, _ := c.b.told(); len(lines) > seen {
			t.Errorf("when the leave was cancelled bob's client saw %s", lines[seen:])
		}

		act(t, s, second, "send")
		_, gone := c.b.wait("members", seen, margin, among())
		_, back := c.b.wait("members", gone, margin, among(c.alice))
		theLeave(t, c.alice, second.Get("delay_id").String())
		time.Sleep(leaveDelay + heartbeat) // longer than a leave that nobody restarts
		if lines, _ := c.b.told(); len(lines) > back {
			t.Errorf("after alice had come back bob's client saw %s", lines[back:])
		}
	})
}

// act acts on a delayed event as services do that hold it for a client: without a login.
func act(t *testing.T, s *rig.Server, event gjson.Result, action string) {
	t.Helper()
	anybody := s.Client()
	r, err := anybody.Do(t.Context(), http.MethodPost, managePath+"/"+event.Get("delay_id").String()+"/"+action, nil, "{}")
	if err != nil || r.Status != http.StatusOK {
		t.Fatalf("%s: %d %s %v", action, r.Status, r.Body, err)
	}
}

// TestServerDies: a call goes on after the server is killed and restarted, even if all participants must join again.
func TestServerDies(t *testing.T) {
	requireNode(t)
	t.Parallel()
	s := newServer(t, nil)
	calls := make(map[string]*call)
	for _, sdk := range sdks {
		c := newCall(t, s, sdk)
		c.a.order("join")
		c.b.wait("members", 0, margin, among(c.alice))
		theLeave(t, c.alice, "")
		calls[sdk] = c
	}
	s.Kill()
	s.Start()
	started := time.Now()
	for sdk, c := range calls {
		goesOn := func() bool {
			all := scheduled(t, c.alice)
			return len(all) == 1 && all[0].Get("running_since").Int() > started.UnixMilli() && c.inCall()
		}
		for !goesOn() {
			if time.Since(started) > 2*(leaveDelay+margin) {
				t.Fatalf("%s: the client did not take up the call again", sdk)
			}
			time.Sleep(poll)
		}
	}
	time.Sleep(leaveDelay + heartbeat)
	for sdk, c := range calls {
		if !c.inCall() {
			t.Errorf("%s: alice's client has taken up the call, but was thrown out of it", sdk)
		}
	}
}

// inCall reports whether bob's client sees alice, alone, in the call.
func (c *call) inCall() bool {
	lines, _ := c.b.told()
	return among(c.alice)(lines[len(lines)-1].Get("members"))
}

// TestPolicies: a client copes with a maximum that is shorter than the delay it wants, with a server that requires a
// login for heartbeats, and without delayed events.
func TestPolicies(t *testing.T) {
	requireNode(t)
	t.Parallel()
	const shorter = heartbeat + time.Second
	for name, test := range map[string]struct {
		setting string
		value   any
		check   func(*testing.T, *call)
	}{
		"a short maximum": {"max_delay", shorter.String(), func(t *testing.T, c *call) {
			if leave := theLeave(t, c.alice, ""); leave.Get("delay").Int() != shorter.Milliseconds() {
				t.Errorf("what is scheduled is %s", leave)
			}
		}},
		"heartbeats with a login": {"open_management", false, func(t *testing.T, c *call) {
			before := theLeave(t, c.alice, "")
			time.Sleep(leaveDelay)
			after := theLeave(t, c.alice, "")
			if after.Get("delay_id").String() != before.Get("delay_id").String() {
				t.Error("the heartbeats were not heard")
			}
		}},
		"none at all": {"max_delay", "0s", func(t *testing.T, c *call) {
			c.a.order("requests")
			if requests, _ := c.a.wait("requests", 0, margin, gjson.Result.IsArray); len(requests.Array()) > 0 {
				t.Errorf("the client asked %s", requests)
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t, map[string]any{"future_server.delayed_events." + test.setting: test.value})
			for _, sdk := range sdks {
				c := newCall(t, s, sdk)
				c.a.order("join")
				_, seen := c.b.wait("members", 0, margin, among(c.alice))
				test.check(t, c)
				c.a.order("leave")
				c.b.wait("members", seen, margin, among())
			}
		})
	}
}
