// Package gen1 tests the numbered requirements of docs/gen1-requirements.md on a whole server, from outside: requests
// go in, events come out. The name of each subtest of TestGen1 has the numbers of its requirements; 7.x are the tests
// of Complement.
package gen1

import (
	"fmt"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/futures/test/rig"
)

func TestMain(m *testing.M) { rig.Main(m) }

const (
	soon   = 800 * time.Millisecond // a delay that ends during the test
	later  = time.Hour              // a delay that does not
	delay  = "?org.matrix.msc4140.delay="
	parent = "?org.matrix.msc4140.parent_delay_id=x"
)

// TestGen1 runs all subtests in parallel, each with users and rooms, or even a server, of its own.
func TestGen1(t *testing.T) {
	rig.CheckRequirements(t, alone(), scheduling(), management(), listing(), semantics())
}

func scheduling() map[string]func(*rig.Scene) {
	return map[string]func(*rig.Scene){
		"1.1,3.1,3.2,6.2 message":              message,
		"1.1,7.4 state":                        state,
		"1.1 prefixes":                         prefixes,
		"1.1,1.2,1.3 names that nobody served": bareDelay,
		"2.1,2.2":                              flag,
		"2.3":                                  capability,
		"3.3":                                  transaction,
		"3.4,3.12 never sent at once":          neverAtOnce,
		"3.5":                                  shape,
		"3.6,3.7":                              maximum,
		"3.10":                                 timestamp,
		"3.11":                                 sticky,
		"4.9 guests,6.10 unicode":              guest,
	}
}

func message(s *rig.Scene) {
	before := time.Now()
	r := s.Alice.Delay(s.Room, "send/m.room.message/t1", rig.Text("x"), soon)
	if id := s.ID(r); strings.ContainsFunc(id, func(r rune) bool { return !strings.ContainsRune(".-_~", r) && (r < '0' || r > 'z') }) || len(id) < 20 {
		s.Errorf("the delay_id is %q", id)
	}
	s.Has(0, "x")
	event := s.Sees("x")
	if ts := event.Get("origin_server_ts").Int(); ts < before.Add(soon).UnixMilli() {
		s.Errorf("it came %d ms early", before.Add(soon).UnixMilli()-ts)
	}
	if event.Get("sender").String() != s.Alice.ID || event.Get("content").Raw != `{"body":"x","msgtype":"m.text"}` {
		s.Errorf("got %s", event.Raw)
	}
	s.Has(1, "x")
}

// state is also Complement's (4), without state_after.
func state(s *rig.Scene) {
	id := s.State("test", "st/a te", "x", soon)
	if list := s.Wants(s.Alice.Do("GET", rig.UnstableDelayed, nil, nil), 200, ""); list.JSON.Get("delayed_events.0.content.body").String() != "x" {
		s.Errorf("the list is %s", list.Body)
	}
	s.Wants(s.Alice.Do("GET", s.At("v3", "state/test/st%2Fa%20te"), nil, nil), 404, "M_NOT_FOUND")
	s.Sees("x")
	if got := s.Alice.GetState(s.Room, "test", "st/a te"); got.Get("body").String() != "x" {
		s.Errorf("the state is %s", got.Raw)
	}
	s.Finalised(id)
}

func prefixes(s *rig.Scene) {
	for _, version := range []string{"v3", "r0"} {
		for i, path := range []string{"send/m.room.message/" + version, "state/test", "state/test/", "state/test/key"} {
			body := fmt.Sprint(version, i)
			id := s.ID(s.Alice.Do("PUT", s.At(version, path+delay+"3600000"), nil, rig.Text(body)))
			s.Has(0, body)
			s.Wants(s.As("", "POST", rig.UnstableDelayed+"/"+id+"/send", nil), 200, "")
			s.Has(1, body)
		}
	}
}

// bareDelay: no server ever served the stable names of this generation.
func bareDelay(s *rig.Scene) {
	r := s.Wants(s.Alice.Do("PUT", s.At("v3", "send/m.room.message/t?delay=3600000"), nil, rig.Text("x")), 200, "")
	if !r.JSON.Get("event_id").Exists() {
		s.Errorf("got %s", r.Body)
	}
	if r := s.Alice.Do("GET", rig.StableDelayed, nil, nil); r.Status != 404 || r.ErrCode() != "M_UNRECOGNIZED" {
		s.Errorf("1.2: the list has a stable path: %d %s", r.Status, r.Body)
	}
	for _, name := range []string{"scheduled", "finalised"} { // 1.3: paths of a draft that was never deployed
		s.Wants(s.Alice.Do("GET", rig.UnstableDelayed+"/"+name, nil, nil), 404, "M_NOT_FOUND")
	}
}

func flag(s *rig.Scene) {
	r := s.Wants(s.As("", "GET", "/_matrix/client/versions", nil), 200, "")
	features := r.JSON.Get("unstable_features")
	if !features.Get(`org\.matrix\.msc4140`).Bool() || !features.Get(`org\.matrix\.msc2285\.stable`).Bool() ||
		len(r.JSON.Get("versions").Array()) < 5 || r.Header.Get("Access-Control-Allow-Origin") != "*" {
		s.Errorf("got %s", r.Body)
	}
}

func capability(s *rig.Scene) {
	r := s.Wants(s.Alice.Do("GET", rig.Path("capabilities"), nil, nil), 200, "")
	c := r.JSON.Get("capabilities")
	limits := c.Get(`org\.matrix\.msc4140\.delayed_events`)
	if limits.Get("max_delay_ms").Int() != (7*24*time.Hour).Milliseconds() || limits.Get("max_scheduled").Int() != 100 ||
		!c.Get(`m\.room_versions.default`).Exists() {
		s.Errorf("got %s", r.Body)
	}
	s.Wants(s.As("", "GET", rig.Path("capabilities"), nil), 401, "M_MISSING_TOKEN")
}

func transaction(s *rig.Scene) {
	path := s.At("v3", "send/m.room.message/same"+delay)
	id := s.ID(s.Alice.Do("PUT", path+"900", nil, rig.Text("x")))
	again := func(body any) {
		s.Helper()
		if got := s.ID(s.Alice.Do("PUT", path+"5000", nil, body)); got != id {
			s.Error("a repeat gets another delay_id")
		}
	}
	again(nil)
	again(rig.Text("y"))
	s.Sees("x")
	again(nil) // also after the end
	if device := s.Server.Login(s, s.Alice); s.ID(device.Do("PUT", path+"3600000", nil, rig.Text("z"))) == id {
		s.Error("another device has the same transactions")
	}
	sent := s.Wants(s.Alice.Do("PUT", s.At("v3", "send/m.room.message/same"), nil, rig.Text("plain")), 200, "")
	if !sent.JSON.Get("event_id").Exists() {
		s.Errorf("the transactions of /send are the same: %s", sent.Body)
	}
	s.Has(1, "x", "y", "z")
	if first, second := s.State("test", "", "s", later), s.State("test", "", "s", later); first == second {
		s.Error("state has transactions")
	}
}

func neverAtOnce(s *rig.Scene) {
	for i, query := range []string{"=0", "=-1", "=1.5", "=x", "=", "", "=5&org.matrix.msc4140.delay=5", "=5;", "=%zz"} {
		for _, path := range []string{"send/m.room.message/" + fmt.Sprint(i), "state/test", "state/test/", "state/test/key"} {
			s.Wants(s.Alice.Do("PUT", s.At("v3", path+strings.TrimSuffix(delay, "=")+query), nil, rig.Text("early")), 400, "M_INVALID_PARAM")
		}
	}
	for _, query := range []string{delay + "1000", parent} {
		s.Wants(s.Alice.Do("POST", s.At("v3", "send/m.room.message"+query), nil, rig.Text("early")), 400, "M_INVALID_PARAM")
	}
	for _, path := range []string{"send/m.room.message/p", "state/test", "state/test/key"} {
		s.Wants(s.Alice.Do("PUT", s.At("r0", path+parent), nil, rig.Text("early")), 400, "M_INVALID_PARAM")
	}
	s.Passes(soon)
	s.Has(0, "early")
}

func shape(s *rig.Scene) {
	schedule := func(u *rig.User, room string, body any) rig.Response {
		return u.Delay(room, "send/m.room.message/"+u.NextTxn(), body, later)
	}
	s.Wants(schedule(s.Alice, "!unknown:localhost", rig.Text("x")), 404, "M_NOT_FOUND")
	s.Wants(schedule(s.Register("eve"), s.Room, rig.Text("x")), 403, "M_FORBIDDEN")
	s.Wants(schedule(s.Alice, s.Room, "{"), 400, "M_NOT_JSON")
	s.Wants(schedule(s.Alice, s.Room, "[]"), 400, "M_BAD_JSON")
	s.Wants(schedule(s.Alice, s.Room, `{"a":1.5}`), 400, "M_BAD_JSON")
	s.SetPower("events_default", 50)
	s.Wants(schedule(s.Bob, s.Room, rig.Text("x")), 200, "") // power levels do not count yet
}

func maximum(s *rig.Scene) {
	const week = 7 * 24 * time.Hour
	for _, path := range []string{"send/m.room.message/t", "state/test/key"} {
		r := s.Wants(s.Alice.Delay(s.Room, path, rig.Text("x"), week+time.Millisecond), 400, "M_UNKNOWN")
		if r.JSON.Get(`org\.matrix\.msc4140\.errcode`).String() != "M_MAX_DELAY_EXCEEDED" ||
			r.JSON.Get(`org\.matrix\.msc4140\.max_delay`).Int() != week.Milliseconds() {
			s.Errorf("got %s", r.Body)
		}
		s.ID(s.Alice.Delay(s.Room, path, rig.Text("x"), week))
	}
}

func timestamp(s *rig.Scene) {
	user := "@bridged_" + s.Alice.NextTxn() + s.Room[1:5] + ":localhost"
	user = strings.ToLower(user)
	as := "&user_id=" + url.QueryEscape(user)
	s.Wants(s.As(rig.BridgeToken, "POST", "/_matrix/client/v3/register", map[string]any{
		"type": "m.login.application_service", "username": user[1:strings.IndexByte(user, ':')],
	}), 200, "")
	s.Wants(s.As(rig.BridgeToken, "POST", rig.Path("join", s.Room)+"?"+as[1:], map[string]any{}), 200, "")
	s.ID(s.As(rig.BridgeToken, "PUT", s.At("v3", "send/m.room.message/t"+delay+"500&ts=1234567"+as), rig.Text("old")))
	if ts := s.Sees("old").Get("origin_server_ts").Int(); ts != 1234567 {
		s.Errorf("origin_server_ts is %d", ts)
	}
	s.ID(s.Alice.Do("PUT", s.At("v3", "send/m.room.message/t"+delay+"500&ts=1234567"), nil, rig.Text("new")))
	if ts := s.Sees("new").Get("origin_server_ts").Int(); ts == 1234567 {
		s.Error("a user may set origin_server_ts")
	}
}

// sticky: Dendrite does not know sticky events; it ignores the parameter.
func sticky(s *rig.Scene) {
	s.ID(s.Alice.Do("PUT", s.At("v3", "send/m.room.message/t"+delay+"500&org.matrix.msc4354.sticky_duration_ms=60000"), nil, rig.Text("x")))
	if event := s.Sees("x"); event.Get(`msc4354_sticky`).Exists() {
		s.Errorf("got %s", event.Raw)
	}
}

func guest(s *rig.Scene) {
	s.Alice.SendState(s.Room, "m.room.guest_access", "", map[string]any{"guest_access": "can_join"})
	g := &rig.User{Client: s.Server.Client()}
	r := s.As("", "POST", "/_matrix/client/v3/register?kind=guest", map[string]any{})
	g.Token = s.Wants(r, 200, "").JSON.Get("access_token").String()
	s.Wants(s.As(g.Token, "POST", rig.Path("join", s.Room), map[string]any{}), 200, "")
	const body = "naïve ☂ \U0001F600 \u2028"
	send := func(txn string) string {
		return s.ID(s.As(g.Token, "PUT", s.At("v3", "send/m.room.message/"+txn+delay+"3600000"), rig.Text(body)))
	}
	id, cancelled := send("t1"), send("t2")
	for _, path := range []string{rig.UnstableDelayed, rig.UnstableDelayed + "/" + id, rig.StableDelayed + "/" + id} {
		if r := s.Wants(s.As(g.Token, "GET", path, nil), 200, ""); !strings.Contains(string(r.Body), id) {
			s.Errorf("got %s", r.Body)
		}
	}
	s.Wants(s.As(g.Token, "POST", rig.UnstableDelayed+"/"+cancelled, map[string]any{"action": "cancel"}), 200, "")
	s.Wants(s.As(g.Token, "POST", rig.UnstableDelayed+"/"+id+"/restart", nil), 200, "")
	s.Wants(s.As(g.Token, "POST", rig.UnstableDelayed+"/"+id+"/send", nil), 200, "")
	s.Sees(body)
}

func ownScene(t *testing.T, set map[string]any) *rig.Scene {
	all := map[string]any{}
	for key, value := range set {
		all["future_server."+key] = value
	}
	return rig.NewScene(t, rig.New(t, rig.Config{Set: all}), new(atomic.Int64))
}

// actions are all actions on a delayed event.
var actions = []string{"send", "cancel", "restart"}
