package gen1

import (
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/futures/test/rig"
)

// alone has the tests that need a server of their own, because they stop it or need other settings.
func alone() map[string]func(*testing.T) {
	return map[string]func(*testing.T){
		"2.1,2.3,2.4,3.6 switched off": switchedOff,
		"3.8":                          tooMany,
		"3.9":                          tooFast,
		"4.4 management closed":        closedManagement,
		"4.7,4.8":                      manageTooFast,
		"6.3 another user's cancels":   othersCancel,
		"6.6":                          crashWhileSending,
		"6.7,7.9":                      restart,
	}
}

func switchedOff(t *testing.T) {
	for _, set := range []map[string]any{{"delayed_events.max_delay": 0}, {"delayed_events.max_scheduled": 0}, {"enabled": false}} {
		s := ownScene(t, set)
		features := s.As("", "GET", "/_matrix/client/versions", nil).JSON.Get("unstable_features")
		if f := features.Get(`org\.matrix\.msc4140`); !f.Exists() || f.Bool() {
			s.Errorf("%v: the flag is %s", set, f.Raw)
		}
		limits := s.Alice.Do("GET", rig.Path("capabilities"), nil, nil).JSON.Get(`capabilities.org\.matrix\.msc4140\.delayed_events`)
		if limits.Raw != `{"max_delay_ms":0,"max_scheduled":0}` {
			s.Errorf("%v: the limits are %s", set, limits.Raw)
		}
		for _, path := range []string{"send/m.room.message/t", "state/test", "state/test/key"} {
			for _, query := range []string{delay + "5", delay, parent} {
				s.Wants(s.Alice.Do("PUT", s.At("v3", path+query), nil, rig.Text("early")), 403, "M_FORBIDDEN")
			}
		}
		s.Wants(s.Alice.Do("POST", s.At("v3", "send/m.room.message"+delay+"5"), nil, rig.Text("early")), 403, "M_FORBIDDEN")
		s.Wants(act(s, "", "abc", "restart"), 404, "M_NOT_FOUND")
		if got := s.Listed(s.Alice, ""); len(got) > 0 {
			s.Errorf("%v are listed", got)
		}
		s.Alice.Send(s.Room, "m.room.message", rig.Text("stock"))
		s.Has(1, "stock", "early")
	}
}

func tooMany(t *testing.T) {
	s := ownScene(t, map[string]any{"delayed_events.max_scheduled": 2})
	schedule := func(txn string, delay time.Duration) rig.Response {
		return s.Alice.Delay(s.Room, "send/m.room.message/"+txn, rig.Text(txn), delay)
	}
	first, start := s.ID(schedule("first", 3*time.Second)), time.Now()
	s.ID(schedule("second", later))
	r := s.Wants(schedule("third", later), 429, "M_LIMIT_EXCEEDED")
	left := 3*time.Second - time.Since(start)
	wait, err := strconv.Atoi(r.Header.Get("Retry-After"))
	if err != nil || time.Duration(wait)*time.Second < left || r.JSON.Get("retry_after_ms").Int() > 3000 {
		s.Errorf("%s are left, the answer is %s %s", left, r.Header.Get("Retry-After"), r.Body)
	}
	if s.ID(schedule("first", later)) != first { // a repeat does not count
		s.Error("a repeat gets another delay_id")
	}
	s.ID(s.Bob.Delay(s.Room, "state/test/", rig.Text("x"), later))
	s.Alice.SendFuture(s.Room, "m.room.message", rig.Text("x"), rig.Params{Timeout: later}) // generation 0 has its own limit
	s.Sees("first")
	s.Eventually("room for one more", func() bool { return schedule("third", later).Status == 200 })
}

func tooFast(t *testing.T) {
	s := ownScene(t, map[string]any{"rate_limits.create": map[string]any{"per_second": 0.01, "burst": 2}})
	s.Message("x", later)
	s.Message("y", later)
	r := s.Wants(s.Alice.Delay(s.Room, "send/m.room.message/t", rig.Text("z"), later), 429, "M_LIMIT_EXCEEDED")
	if r.Header.Get("Retry-After") == "" || r.JSON.Get("retry_after_ms").Int() <= 0 {
		s.Errorf("got %s", r.Body)
	}
	s.ID(s.Bob.Delay(s.Room, "send/m.room.message/t", rig.Text("z"), later))
}

func closedManagement(t *testing.T) {
	s := ownScene(t, map[string]any{"delayed_events.open_management": false})
	id := s.Message("x", later)
	s.Wants(act(s, "", id, "restart"), 404, "M_UNRECOGNIZED")
	s.Wants(s.As("", "POST", rig.UnstableDelayed+"/"+id, `{"action":"restart"}`), 401, "M_MISSING_TOKEN")
	done(s, s.As(s.Alice.Token, "POST", rig.UnstableDelayed+"/"+id, `{"action":"restart"}`))
	done(s, act(s, s.Alice.Token, id, "send"))
	s.Has(1, "x")
}

// manageTooFast: users behind one address do not remove each other from a call.
func manageTooFast(t *testing.T) {
	s := ownScene(t, map[string]any{
		"rate_limits.token":         map[string]any{"per_second": 0.01, "burst": 3},
		"rate_limits.invalid_token": map[string]any{"per_second": 0.01, "burst": 3},
	})
	one, two := s.Message("x", later), s.Message("y", later)
	for range 3 {
		done(s, act(s, "", one, "restart"))
		s.Wants(act(s, "", "unknown", "restart"), 404, "M_NOT_FOUND")
	}
	for _, id := range []string{one, "unknown"} {
		r := s.Wants(act(s, "", id, "restart"), 429, "M_LIMIT_EXCEEDED")
		if r.Header.Get("Retry-After") == "" || r.JSON.Get("retry_after_ms").Int() <= 0 {
			s.Errorf("got %s", r.Body)
		}
	}
	done(s, act(s, "", two, "restart"))
	s.Wants(act(s, s.Alice.Token, one, "send"), 429, "M_LIMIT_EXCEEDED")
	s.Has(0, "x")
}

func othersCancel(t *testing.T) {
	s := ownScene(t, map[string]any{"delayed_events.cancel_on_others_state": true})
	s.SetPower("state_default", 0)
	own, others := s.State("test", "own", "own", 5*time.Second), s.State("test", "others", "others", 5*time.Second)
	s.Alice.SendState(s.Room, "test", "own", rig.Text("newer"))
	s.Bob.SendState(s.Room, "test", "others", rig.Text("newer"))
	s.Eventually("the other's state to cancel", func() bool { return act(s, "", others, "restart").ErrCode() == "M_NOT_FOUND" })
	for _, action := range actions {
		s.Wants(act(s, s.Alice.Token, others, action), 404, "M_NOT_FOUND")
	}
	if f := s.Finalised(others); f.Get("event_id").Exists() || f.Get("error").Exists() {
		s.Errorf("it is %s", f.Raw)
	}
	done(s, act(s, "", own, "send"))
	s.Has(1, "own", "others")
}

// crashWhileSending kills the server between expiry and send, at each step in turn. The event arrives once.
func crashWhileSending(t *testing.T) {
	s := ownScene(t, nil)
	for _, step := range []string{"built", "claimed", "submitted", "proved"} {
		s.Server.CrashAt(step, 1)
		id := s.Message(step, soon)
		if !s.Server.WaitExit(rig.Patience) {
			s.Fatalf("the server did not pass %q", step)
		}
		s.Server.Start()
		if event := s.Sees(step); s.Finalised(id).Get("event_id").String() != event.Get("event_id").String() {
			s.Errorf("the lookup names another event: %s", s.Lookup(id).Raw)
		}
		s.Has(1, step)
	}
}

// restart is also Complement's (9).
func restart(t *testing.T) {
	s := ownScene(t, nil)
	second, first := s.Message("second", 1100*time.Millisecond), s.Message("first", 900*time.Millisecond)
	pending, start := s.Message("pending", 12*time.Second), time.Now()
	s.State("test", "", "hour", later)
	s.Server.Stop()
	<-time.After(time.Until(start.Add(1200 * time.Millisecond))) // the server is down while two delays end
	s.Server.Start()
	s.Sees("first")
	s.Sees("second")
	if got := s.Bodies("first", "second", "pending"); !slices.Equal(got, []string{"first", "second"}) {
		s.Errorf("after the start there are %v", got)
	}
	for _, id := range []string{first, second} {
		s.Finalised(id)
	}
	if n := len(s.Listed(s.Alice, "")); n != 2 {
		s.Errorf("%d are pending", n)
	}
	event := s.Sees("pending")
	if early := start.Add(12*time.Second).UnixMilli() - event.Get("origin_server_ts").Int(); early > 50 {
		s.Errorf("it came %d ms early", early)
	}
	s.Wants(act(s, "", pending, "cancel"), 404, "M_NOT_FOUND")
}
