package gen2

import (
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/futures/test/rig"
)

// alone has the tests that need a server of their own, because they stop it or need other settings.
func alone() map[string]func(*testing.T) {
	return map[string]func(*testing.T){
		"2.3,3.6,11.6":          switchedOff,
		"3.5,7.2,8.1,11.5":      tooMany,
		"3.10,4.5,8.2,11.11":    rateLimits,
		"4.2,11.19":             restart,
		"5.6":                   manageTooFast,
		"9 exactly once,11.20":  crashWhileSending,
		"4.7 another's cancels": othersCancel,
	}
}

func ownScene(t *testing.T, set map[string]any) *rig.Scene {
	all := map[string]any{}
	for key, value := range set {
		all["future_server."+key] = value
	}
	return rig.NewScene(t, rig.New(t, rig.Config{Set: all}), new(atomic.Int64))
}

func switchedOff(t *testing.T) {
	for _, set := range []map[string]any{{"delayed_events.max_scheduled": 0}, {"enabled": false}} {
		s := ownScene(t, set)
		for _, version := range []string{stable, unstable} {
			s.Wants(put(s, version, "m.room.message", delayed("early", soon)), 403, "M_FORBIDDEN")
		}
		all := s.Alice.Do("GET", rig.Path("capabilities"), nil, nil).JSON.Get("capabilities")
		for _, name := range []string{`m\.delayed_events`, `org\.matrix\.msc4140\.delayed_events`} {
			if limits := all.Get(name); limits.Raw != `{"max_delay_ms":0,"max_scheduled":0}` {
				s.Errorf("%s is %s", name, limits.Raw)
			}
		}
		s.Wants(act(s, s.Alice, "abc", "send"), 404, "M_NOT_FOUND")
		s.Wants(s.Alice.Do("GET", rig.StableDelayed+"/abc", nil, nil), 404, "M_NOT_FOUND")
		s.Has(0, "early")
	}
}

func tooMany(t *testing.T) {
	s := ownScene(t, map[string]any{"delayed_events.max_scheduled": 2})
	path := s.At(stable, "delayed_event/m.room.message/same")
	first, start := s.ID(s.Alice.Do("PUT", path, nil, delayed("first", 3*time.Second))), time.Now()
	schedule(s, "second", later)
	r := s.Wants(put(s, stable, "m.room.message", delayed("third", later)), 429, "M_LIMIT_EXCEEDED")
	left := 3*time.Second - time.Since(start)
	wait, err := strconv.Atoi(r.Header.Get("Retry-After"))
	if err != nil || time.Duration(wait)*time.Second < left || wait > 3 || r.JSON.Get("retry_after_ms").Int() > 3000 {
		s.Errorf("%s are left, the answer is %s %s", left, r.Header.Get("Retry-After"), r.Body)
	}
	if s.ID(s.Alice.Do("PUT", path, nil, delayed("first", later))) != first { // also at the limit
		s.Error("a repeat gets another delay_id")
	}
	<-time.After(time.Until(start.Add(time.Duration(wait) * time.Second)))
	s.Eventually("room for one more", func() bool {
		return put(s, stable, "m.room.message", delayed("third", later)).Status == 200
	})
	s.Has(1, "first")
}

func rateLimits(t *testing.T) {
	slow := map[string]any{"per_second": 0.01, "burst": 2}
	s := ownScene(t, map[string]any{"rate_limits.create": slow, "rate_limits.token": slow})
	first, second := schedule(s, "first", soon), schedule(s, "second", soon)
	limited := func(r rig.Response) {
		s.Helper()
		s.Wants(r, 429, "M_LIMIT_EXCEEDED")
		if r.Header.Get("Retry-After") == "" || r.JSON.Get("retry_after_ms").Int() <= 0 {
			s.Errorf("got %s", r.Body)
		}
	}
	limited(put(s, stable, "m.room.message", delayed("third", soon)))
	// All accepted events are sent, even if the user may send no more at that moment.
	s.Sees("first")
	s.Sees("second")
	for _, id := range []string{first, second} {
		s.Lookup(id)
	}
	limited(s.Alice.Do("GET", rig.StableDelayed+"/"+first, nil, nil))
}

func manageTooFast(t *testing.T) {
	s := ownScene(t, map[string]any{"rate_limits.token": map[string]any{"per_second": 0.01, "burst": 2}})
	one, two := schedule(s, "x", later), schedule(s, "y", later)
	done(s, act(s, s.Alice, one, "restart"))
	done(s, act(s, s.Alice, one, "restart"))
	r := s.Wants(act(s, s.Alice, one, "send"), 429, "M_LIMIT_EXCEEDED")
	if r.Header.Get("Retry-After") == "" || r.JSON.Get("retry_after_ms").Int() <= 0 {
		s.Errorf("got %s", r.Body)
	}
	done(s, act(s, s.Alice, two, "restart"))
	s.Has(0, "x")
}

func restart(t *testing.T) {
	s := ownScene(t, nil)
	sent, cancelled := schedule(s, "sent", later), schedule(s, "cancelled", later)
	done(s, act(s, s.Alice, sent, "send"))
	done(s, act(s, s.Alice, cancelled, "cancel"))
	wasSent, wasCancelled := s.Finalised(sent).Raw, s.Finalised(cancelled).Raw
	schedule(s, "second", 1100*time.Millisecond)
	schedule(s, "first", 900*time.Millisecond)
	pending, start := schedule(s, "pending", 10*time.Second), time.Now()
	was := s.Lookup(pending)
	s.Server.Kill()
	<-time.After(time.Until(start.Add(1200 * time.Millisecond))) // the server is down while two delays end
	s.Server.Start()
	s.Sees("first")
	s.Sees("second")
	if got := s.Bodies("first", "second", "pending"); !slices.Equal(got, []string{"first", "second"}) {
		s.Errorf("after the start there are %v", got)
	}
	got := s.Lookup(pending)
	if moved := got.Get("delayed_since_ts").Int() - was.Get("delayed_since_ts").Int(); moved < -2 || moved > 2 || keys(got) != keys(was) {
		s.Errorf("%s has become %s", was.Raw, got.Raw)
	}
	if got := s.Lookup(sent).Get("finalised").Raw; got != wasSent {
		s.Errorf("%s has become %s", wasSent, got)
	}
	if got := s.Lookup(cancelled).Get("finalised").Raw; got != wasCancelled {
		s.Errorf("%s has become %s", wasCancelled, got)
	}
	s.Sees("pending")
	s.Wants(act(s, s.Alice, cancelled, "send"), 409, "M_UNKNOWN")
	done(s, act(s, s.Alice, sent, "send"))
	s.Has(1, "sent", "cancelled")
}

// crashWhileSending kills the server between expiry and send, at each step in turn. The event arrives once.
func crashWhileSending(t *testing.T) {
	s := ownScene(t, nil)
	for _, step := range []string{"built", "claimed", "submitted", "proved"} {
		s.Server.CrashAt(step, 1)
		id := schedule(s, step, soon)
		if !s.Server.WaitExit(rig.Patience) {
			s.Fatalf("the server did not pass %q", step)
		}
		s.Server.Start()
		event := s.Sees(step)
		if got := s.Finalised(id).Get("event_id").String(); got != event.Get("event_id").String() {
			s.Errorf("the lookup names %s", got)
		}
		s.Has(1, step)
	}
}

func othersCancel(t *testing.T) {
	s := ownScene(t, map[string]any{"delayed_events.cancel_on_others_state": true})
	s.SetPower("state_default", 0)
	body := delayed("x", later)
	body["state_key"] = ""
	id := s.ID(put(s, stable, "test", body))
	s.Alice.SendState(s.Room, "test", "", rig.Text("alice's"))
	done(s, act(s, s.Alice, id, "restart"))
	s.Bob.SendState(s.Room, "test", "", rig.Text("bob's"))
	if f := s.Finalised(id); keys(f) != "finalised_ts" {
		s.Errorf("got %s", f.Raw)
	}
	s.Wants(act(s, s.Alice, id, "send"), 409, "M_UNKNOWN")
	done(s, act(s, s.Alice, id, "cancel"))
	s.Has(0, "x")
}
