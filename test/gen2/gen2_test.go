// Package gen2 tests the numbered requirements of docs/gen2-requirements.md on a whole server, from outside: requests
// go in, events come out. The name of each subtest of TestGen2 has the numbers of its requirements; 11.x are the
// scenarios of that document.
package gen2

import (
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"github.com/matrix-org/dendrite/futures/test/rig"
)

func TestMain(m *testing.M) { rig.Main(m) }

const (
	soon  = 800 * time.Millisecond // a delay that ends during the test
	later = time.Hour              // a delay that does not
	week  = 7 * 24 * time.Hour     // the server's maximum

	stable, unstable = "v3", "unstable/org.matrix.msc4140"
)

// TestGen2 runs all subtests in parallel, each with users and rooms, or even a server, of its own.
func TestGen2(t *testing.T) {
	rig.CheckRequirements(t, alone(), scheduling(), management(), outcomes())
}

func scheduling() map[string]func(*rig.Scene) {
	return map[string]func(*rig.Scene){
		"1.1,3.1,3.2,4.1,4.4,11.1,11.7 message": message,
		"3.1,11.1 state":                        state,
		"1.4,11.15":                             guest,
		"2.1,2.2,2.4,2.5":                       discovery,
		"3.3,11.2":                              transaction,
		"3.4,11.4":                              maximum,
		"3.7,11.3":                              malformed,
		"3.8":                                   notInRoom,
		"3.9,11.14":                             timestamp,
		"10 old names":                          oldNames,
	}
}

// delayed is the body of a request.
func delayed(body string, delay time.Duration) map[string]any {
	return map[string]any{"delay_ms": delay.Milliseconds(), "content": rig.Text(body)}
}

// put schedules an event of Alice under a prefix.
func put(s *rig.Scene, version, eventType string, body any) rig.Response {
	s.Helper()
	return s.Alice.Do("PUT", s.At(version, "delayed_event/"+eventType+"/"+s.Alice.NextTxn()), nil, body)
}

// schedule schedules Alice's message and returns its delay_id.
func schedule(s *rig.Scene, body string, delay time.Duration) string {
	s.Helper()
	return s.ID(put(s, stable, "m.room.message", delayed(body, delay)))
}

// by schedules a message of a user and returns its delay_id.
func by(s *rig.Scene, u *rig.User, body string, delay time.Duration) string {
	s.Helper()
	return s.ID(u.Do("PUT", s.At(stable, "delayed_event/m.room.message/"+u.NextTxn()), nil, delayed(body, delay)))
}

// act performs an action with the user's access token.
func act(s *rig.Scene, u *rig.User, id, action string) rig.Response {
	s.Helper()
	return u.Do("POST", rig.StableDelayed+"/"+id+"/"+action, nil, nil)
}

func done(s *rig.Scene, r rig.Response) {
	s.Helper()
	if r.Status != 200 || string(r.Body) != "{}" {
		s.Errorf("an action is answered %d %s", r.Status, r.Body)
	}
}

// keys returns the names of an object's members, sorted.
func keys(o gjson.Result) string { return strings.Join(slices.Sorted(maps.Keys(o.Map())), " ") }

func message(s *rig.Scene) {
	for i, version := range []string{stable, unstable} {
		body, before := fmt.Sprint("x", i), time.Now()
		id := s.ID(put(s, version, "m.room.message", delayed(body, soon)))
		if len(id) > 255 || strings.ContainsFunc(id, func(r rune) bool {
			return !strings.ContainsRune("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._~-", r)
		}) {
			s.Errorf("3.2: the delay_id is %q", id)
		}
		s.Has(0, body)
		event := s.Sees(body)
		ts := event.Get("origin_server_ts").Int()
		if early := before.Add(soon).UnixMilli() - ts; early > 0 || ts > time.Now().UnixMilli() {
			s.Errorf("it came %d ms early", early)
		}
		if event.Get("content").Raw != `{"body":"`+body+`","msgtype":"m.text"}` || event.Get("unsigned.transaction_id").Exists() {
			s.Errorf("got %s", event.Raw)
		}
	}
	s.Has(2, "x0", "x1")
}

func state(s *rig.Scene) {
	for _, key := range []string{"", "st/a te"} {
		body := delayed("x"+key, soon)
		body["state_key"] = key
		id := s.ID(put(s, stable, "te%2Fst", body))
		if got := s.Lookup(id); got.Get("state_key").String() != key || got.Get("type").String() != "te/st" {
			s.Errorf("got %s", got.Raw)
		}
		s.Sees("x" + key)
		if got := s.Alice.GetState(s.Room, "te/st", key); got.Get("body").String() != "x"+key {
			s.Errorf("the state is %s", got.Raw)
		}
	}
}

func guest(s *rig.Scene) {
	s.Alice.SendState(s.Room, "m.room.guest_access", "", map[string]any{"guest_access": "can_join"})
	r := s.Wants(s.As("", "POST", "/_matrix/client/v3/register?kind=guest", map[string]any{}), 200, "")
	token := r.JSON.Get("access_token").String()
	s.Wants(s.As(token, "POST", rig.Path("join", s.Room), map[string]any{}), 200, "")
	id := s.ID(s.As(token, "PUT", s.At(stable, "delayed_event/m.room.message/t"), delayed("x", later)))
	s.Wants(s.As(token, "GET", rig.StableDelayed+"/"+id, nil), 200, "")
	done(s, s.As(token, "POST", rig.StableDelayed+"/"+id+"/send", nil))
	s.Sees("x")
}

func discovery(s *rig.Scene) {
	features := s.As("", "GET", "/_matrix/client/versions", nil).JSON.Get("unstable_features")
	for _, flag := range []string{`org\.matrix\.msc4140`, `org\.matrix\.msc4140\.stable`} {
		if f := features.Get(flag); f.Raw != "true" {
			s.Errorf("%s is %q", flag, f.Raw)
		}
	}
	all := s.Alice.Do("GET", rig.Path("capabilities"), nil, nil).JSON.Get("capabilities")
	for _, name := range []string{`m\.delayed_events`, `org\.matrix\.msc4140\.delayed_events`} {
		if limits := all.Get(name); limits.Raw != fmt.Sprintf(`{"max_delay_ms":%d,"max_scheduled":100}`, week.Milliseconds()) {
			s.Errorf("%s is %s", name, limits.Raw)
		}
	}
}

func transaction(s *rig.Scene) {
	path := s.At(stable, "delayed_event/m.room.message/same")
	id := s.ID(s.Alice.Do("PUT", path, nil, delayed("x", later)))
	for _, r := range []rig.Response{
		s.Alice.Do("PUT", path, nil, delayed("y", soon)),
		s.Alice.Do("PUT", path, nil, nil),
		s.Alice.Do("PUT", s.At(unstable, "delayed_event/m.room.message/same"), nil, "{}"),
	} {
		if s.ID(r) != id {
			s.Error("a repeat gets another delay_id")
		}
	}
	other := func(u *rig.User, path string) {
		s.Helper()
		if r := u.Do("PUT", path, nil, delayed("z", later)); r.Status != 200 || r.JSON.Get("delay_id").String() == id {
			s.Errorf("%s: %d %s", path, r.Status, r.Body)
		}
	}
	other(s.Alice, s.At(stable, "delayed_event/m.room.other/same"))
	other(s.Server.Login(s, s.Alice), path)
	other(s.Bob, path)
	if s.ID(s.Alice.Delay(s.Room, "send/m.room.message/same", rig.Text("z"), later)) == id {
		s.Error("generation 1 has the same transactions")
	}
	s.Wants(s.Alice.Do("PUT", s.At(stable, "send/m.room.message/same"), nil, rig.Text("plain")), 200, "")
	s.Has(1, "plain")
	done(s, act(s, s.Alice, id, "send"))
	if s.ID(s.Alice.Do("PUT", path, nil, delayed("x", later))) != id {
		s.Error("after the end a repeat gets another delay_id")
	}
	s.Has(1, "x", "y", "z")
}

func maximum(s *rig.Scene) {
	for version, code := range map[string]string{stable: "M_DELAY_TOO_LARGE", unstable: "ORG.MATRIX.MSC4140_DELAY_TOO_LARGE"} {
		s.ID(put(s, version, "test", delayed("x", week)))
		r := s.Wants(put(s, version, "test", delayed("x", week+time.Millisecond)), 400, code)
		if r.JSON.Get(`org\.matrix\.msc4140\.max_delay`).Int() != week.Milliseconds() {
			s.Errorf("got %s", r.Body)
		}
	}
}

func malformed(s *rig.Scene) {
	for body, code := range map[string]string{
		`{"delay_ms":0,"content":{}}`:               "M_INVALID_PARAM",
		`{"delay_ms":-5,"content":{}}`:              "M_INVALID_PARAM",
		`{"delay_ms":5.5,"content":{}}`:             "M_INVALID_PARAM",
		`{"delay_ms":"5","content":{}}`:             "M_INVALID_PARAM",
		`{"delay_ms":5,"content":[]}`:               "M_INVALID_PARAM",
		`{"delay_ms":5,"content":{},"state_key":5}`: "M_INVALID_PARAM",
		`{"content":{}}`:                            "M_MISSING_PARAM",
		`{"delay_ms":5}`:                            "M_MISSING_PARAM",
		`{"delay_ms":5,`:                            "M_NOT_JSON",
		``:                                          "M_NOT_JSON",
		`5`:                                         "M_BAD_JSON",
		`{"delay_ms":5,"content":{"a":1,"a":2}}`:    "M_BAD_JSON",
		`{"delay_ms":5,"content":{"a":0.5}}`:        "M_BAD_JSON",
		`{"delay_ms":5,"content":{},"state_key":"\u0000\""}`: "M_INVALID_PARAM",
	} {
		for _, version := range []string{stable, unstable} {
			if r := put(s, version, "test", body); r.Status != 400 || r.ErrCode() != code {
				s.Errorf("%s is answered %d %s, want %s", body, r.Status, r.Body, code)
			}
		}
	}
	s.Wants(s.As("", "PUT", s.At(stable, "delayed_event/test/t"), delayed("x", soon)), 401, "M_MISSING_TOKEN") // 8.3
	if got := s.Listed(s.Alice, ""); len(got) > 0 {
		s.Errorf("%v are scheduled", got)
	}
}

func notInRoom(s *rig.Scene) {
	eve := s.Register("eve")
	s.Wants(eve.Do("PUT", s.At(stable, "delayed_event/m.room.message/t"), nil, delayed("x", later)), 403, "M_FORBIDDEN")
	s.Alice.Invite(s.Room, eve.ID)
	s.Wants(eve.Do("PUT", s.At(stable, "delayed_event/m.room.message/t"), nil, delayed("x", later)), 403, "M_FORBIDDEN")
	s.Wants(s.Alice.Do("PUT", "/_matrix/client/v3/rooms/!unknown:localhost/delayed_event/m.room.message/t", nil, delayed("x", later)), 404, "M_NOT_FOUND")
}

func timestamp(s *rig.Scene) {
	name := "bridged_" + strings.ToLower(url.PathEscape(s.Alice.ID[1:7]))
	as := "user_id=" + url.QueryEscape("@"+name+":localhost")
	s.Wants(s.As(rig.BridgeToken, "POST", "/_matrix/client/v3/register", map[string]any{
		"type": "m.login.application_service", "username": name,
	}), 200, "")
	s.Wants(s.As(rig.BridgeToken, "POST", rig.Path("join", s.Room)+"?"+as, map[string]any{}), 200, "")
	path := s.At(stable, "delayed_event/m.room.message/t") + "?ts=1234567&" + as
	before := time.Now().UnixMilli()
	id := s.ID(s.As(rig.BridgeToken, "PUT", path, delayed("old", soon)))
	if ts := s.Sees("old").Get("origin_server_ts").Int(); ts != 1234567 {
		s.Errorf("origin_server_ts is %d", ts)
	}
	s.Eventually("the real time of sending", func() bool {
		r := s.As(rig.BridgeToken, "GET", rig.StableDelayed+"/"+id+"?"+as, nil)
		return r.JSON.Get("finalised.finalised_ts").Int() >= before+soon.Milliseconds()
	})
	s.ID(s.Alice.Do("PUT", s.At(stable, "delayed_event/m.room.message/t")+"?ts=1234567", nil, delayed("new", soon)))
	if ts := s.Sees("new").Get("origin_server_ts").Int(); ts == 1234567 {
		s.Error("a user may set origin_server_ts")
	}
}

func oldNames(s *rig.Scene) {
	body := map[string]any{"delay": later.Milliseconds(), "content": rig.Text("x")}
	id := s.ID(put(s, unstable, "test", body))
	if got := s.Lookup(id).Get("delay_ms").Int(); got != later.Milliseconds() {
		s.Errorf("the delay is %d", got)
	}
	s.Wants(put(s, stable, "test", body), 400, "M_MISSING_PARAM")
}
