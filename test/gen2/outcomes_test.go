package gen2

import (
	"strings"
	"sync"
	"time"

	"github.com/tidwall/gjson"

	"github.com/matrix-org/dendrite/futures/test/rig"
)

func management() map[string]func(*rig.Scene) {
	return map[string]func(*rig.Scene){
		"5.1,11.17,11.22 actions": actions,
		"5.2,5.3,11.8":            outcomeTable,
		"5.4,11.9":                failedSend,
		"5.5":                     strangers,
		"5.7,11.18":               redundantActions,
		"1.6":                     oddIDs,
		"1.5,8.3 no delegation":   noDelegation,
		"11.23":                   races,
	}
}

func outcomes() map[string]func(*rig.Scene) {
	return map[string]func(*rig.Scene){
		"1.2,6.4 lists are of generation 1": lists,
		"1.3,6.1,6.2,6.3,11.12 sent":        lookUpSent,
		"6.2,6.3 cancelled":                 lookUpCancelled,
		"4.3,4.6,6.2,6.3,11.10 failed":      lookUpFailed,
		"4.3 power gained":                  powerGained,
		"4.7,11.16":                         newerState,
		"9 left":                            leftRoom,
		"9 deactivated":                     deactivated,
		"9 logout":                          logout,
		"9 order":                           order,
	}
}

func actions(s *rig.Scene) {
	sent, cancelled, restarted := schedule(s, "sent", later), schedule(s, "cancelled", later), schedule(s, "restarted", later)
	since := s.Lookup(restarted).Get("delayed_since_ts").Int()
	done(s, act(s, s.Alice, sent, "send"))
	s.Has(1, "sent")
	done(s, s.Alice.Do("POST", rig.StableDelayed+"/"+cancelled+"/cancel", nil, "{}"))
	s.Eventually("a later start", func() bool {
		done(s, s.Alice.Do("POST", rig.UnstableDelayed+"/"+restarted+"/restart", nil, nil))
		return s.Lookup(restarted).Get("delayed_since_ts").Int() > since
	})
	if got := s.Lookup(restarted); got.Get("delay_ms").Int() != later.Milliseconds() || got.Get("finalised").Exists() {
		s.Errorf("got %s", got.Raw)
	}
	s.Has(0, "cancelled", "restarted")
}

// outcomeTable tests all cells of 5.2 except the first row, on both paths.
func outcomeTable(s *rig.Scene) {
	s.SetPower("events", map[string]any{"m.room.message": 0, "powerful": 50})
	sent, cancelled := by(s, s.Bob, "sent", soon), by(s, s.Bob, "cancelled", later)
	failed := s.ID(s.Bob.Do("PUT", s.At(stable, "delayed_event/powerful/t"), nil, delayed("failed", soon)))
	done(s, act(s, s.Bob, cancelled, "cancel"))
	s.Sees("sent")
	s.Eventually("the end of all", func() bool {
		for _, id := range []string{sent, failed} {
			if !s.Bob.Do("GET", rig.StableDelayed+"/"+id, nil, nil).JSON.Get("finalised").Exists() {
				return false
			}
		}
		return true
	})
	for id, want := range map[string]map[string]int{
		sent:      {"send": 200, "cancel": 409, "restart": 409},
		cancelled: {"send": 409, "cancel": 200, "restart": 409},
		failed:    {"send": 409, "cancel": 200, "restart": 409},
		"unknown": {"send": 404, "cancel": 404, "restart": 404},
	} {
		before := s.Bob.Do("GET", rig.StableDelayed+"/"+id, nil, nil)
		for action, status := range want {
			r := act(s, s.Bob, id, action)
			s.Wants(r, status, map[int]string{200: "", 404: "M_NOT_FOUND", 409: "M_UNKNOWN"}[status])
			if status == 409 {
				status = 404 // docs/gen1-requirements.md, section 8
			}
			r = s.Bob.Do("POST", rig.UnstableDelayed+"/"+id+"/"+action, nil, nil)
			s.Wants(r, status, map[int]string{200: "", 404: "M_NOT_FOUND"}[status])
		}
		if after := s.Bob.Do("GET", rig.StableDelayed+"/"+id, nil, nil); string(after.Body) != string(before.Body) {
			s.Errorf("%s has become %s", before.Body, after.Body)
		}
	}
	s.Has(1, "sent", "cancelled", "failed")
}

func failedSend(s *rig.Scene) {
	id := by(s, s.Bob, "x", later)
	s.Wants(s.Alice.Do("POST", rig.Path("rooms", s.Room, "kick"), nil, map[string]any{"user_id": s.Bob.ID}), 200, "")
	r := s.Wants(act(s, s.Bob, id, "send"), 403, "M_FORBIDDEN")
	if plain := s.Bob.Do("PUT", s.At("v3", "send/m.room.message/plain"), nil, rig.Text("x")); plain.Status != r.Status || plain.ErrCode() != r.ErrCode() {
		s.Errorf("/send is answered %d %s", plain.Status, plain.Body)
	}
	if got := s.Bob.Do("GET", rig.StableDelayed+"/"+id, nil, nil); got.JSON.Get("finalised").Exists() {
		s.Errorf("it is not scheduled any more: %s", got.Body)
	}
	s.Alice.Invite(s.Room, s.Bob.ID)
	s.Bob.Join(s.Room)
	done(s, act(s, s.Bob, id, "send"))
	s.Has(1, "x")
}

func strangers(s *rig.Scene) {
	id := schedule(s, "x", later)
	for _, action := range []string{"send", "cancel", "restart"} {
		s.Wants(act(s, s.Bob, id, action), 404, "M_NOT_FOUND")
		s.Wants(s.As("", "POST", rig.StableDelayed+"/"+id+"/"+action, nil), 401, "M_MISSING_TOKEN")
		s.Wants(s.As("x", "POST", rig.StableDelayed+"/"+id+"/"+action, nil), 401, "M_UNKNOWN_TOKEN")
	}
	s.Wants(act(s, s.Alice, id, "oops"), 404, "M_UNRECOGNIZED")
	s.Wants(s.Alice.Do("POST", rig.StableDelayed+"/"+id, nil, `{"action":"send"}`), 404, "M_UNRECOGNIZED")
	for _, path := range []string{rig.StableDelayed, rig.UnstableDelayed} {
		s.Wants(s.Bob.Do("GET", path+"/"+id, nil, nil), 404, "M_NOT_FOUND")
		s.Wants(s.As("", "GET", path+"/"+id, nil), 401, "M_MISSING_TOKEN")
	}
	if got := s.Lookup(id); got.Get("finalised").Exists() {
		s.Errorf("got %s", got.Raw)
	}
}

func redundantActions(s *rig.Scene) {
	pending, over := schedule(s, "pending", 2*soon), schedule(s, "over", later)
	cancelled := schedule(s, "cancelled", later)
	done(s, act(s, s.Alice, over, "send"))
	done(s, act(s, s.Alice, cancelled, "cancel"))
	for range 3 {
		done(s, act(s, s.Alice, over, "send"))
		done(s, act(s, s.Alice, cancelled, "cancel"))
	}
	s.Sees("pending")
	if got := s.Finalised(pending); got.Get("event_id").String() == "" {
		s.Errorf("got %s", got.Raw)
	}
	s.Has(1, "over", "cancelled")
}

func oddIDs(s *rig.Scene) {
	id := schedule(s, "x", later)
	s.Wants(s.Alice.Do("GET", rig.StableDelayed+"/%"+strings.ToUpper(hex(id[0]))+id[1:], nil, nil), 200, "")
	for _, odd := range []string{"..%2F..%2Fversions", "%2e%2e", "a.b_c~d-e", "%00", "%ff", strings.Repeat("a", 300)} {
		for _, path := range []string{rig.StableDelayed, rig.UnstableDelayed} {
			s.Wants(s.Alice.Do("GET", path+"/"+odd, nil, nil), 404, "M_NOT_FOUND")
			s.Wants(s.Alice.Do("POST", path+"/"+odd+"/send", nil, nil), 404, "M_NOT_FOUND")
		}
	}
}

func hex(b byte) string { return string([]byte{"0123456789abcdef"[b>>4], "0123456789abcdef"[b&15]}) }

func noDelegation(s *rig.Scene) {
	for _, path := range []string{"v1", "unstable/io.element.msc4195"} {
		s.Wants(s.As("", "POST", "/_matrix/client/"+path+"/rtc/livekit/delegate_delayed_leave", map[string]any{}), 404, "M_UNRECOGNIZED")
	}
	id := schedule(s, "x", later)
	s.Wants(s.As("", "POST", rig.StableDelayed+"/"+id+"/send", nil), 401, "M_MISSING_TOKEN")
	s.Has(0, "x")
}

// races performs actions at the moment of the deadline: there is one outcome, and the lookup agrees with the room.
func races(s *rig.Scene) {
	const delay = 300 * time.Millisecond
	var wait sync.WaitGroup
	for i := range 20 {
		action := []string{"send", "cancel"}[i%2]
		body := action + s.Alice.NextTxn()
		id := schedule(s, body, delay)
		wait.Go(func() {
			<-time.After(delay - 5*time.Millisecond + time.Duration(i)*time.Millisecond)
			r := act(s, s.Alice, id, action)
			got := s.Finalised(id).Get("event_id").Exists()
			if got {
				s.Has(1, body) // the roomserver has it before /messages shows it
			}
			if sent := len(s.Bodies(body)); sent > 1 || (sent == 1) != got || action == "send" && (r.Status != 200 || sent != 1) ||
				action == "cancel" && (r.Status == 200) == got {
				s.Errorf("%s is answered %d %s; %d events, the lookup says %t", action, r.Status, r.Body, sent, got)
			}
		})
	}
	wait.Wait()
}

func lists(s *rig.Scene) {
	id := schedule(s, "x", later)
	s.Wants(s.Alice.Do("GET", rig.StableDelayed, nil, nil), 404, "M_UNRECOGNIZED")
	if got := s.Listed(s.Alice, ""); len(got) != 1 || got[0] != id {
		s.Errorf("%v are listed", got)
	}
	for _, path := range []string{rig.StableDelayed, rig.UnstableDelayed} { // some clients refuse other fields
		r := s.Wants(s.Alice.Do("GET", path+"/"+id, nil, nil), 200, "")
		if got := keys(r.JSON); got != "content delay_id delay_ms delayed_since_ts room_id type" {
			s.Errorf("the fields are %s", got)
		}
	}
}

func lookUpSent(s *rig.Scene) {
	before := time.Now().UnixMilli()
	id, early := schedule(s, "x", soon), schedule(s, "early", later)
	e := s.Lookup(id)
	if e.Get("delay_id").String() != id || e.Get("room_id").String() != s.Room || e.Get("type").String() != "m.room.message" ||
		e.Get("delay_ms").Int() != soon.Milliseconds() || e.Get("delayed_since_ts").Int() < before ||
		e.Get("content").Raw != `{"body":"x","msgtype":"m.text"}` || e.Get("finalised").Exists() {
		s.Errorf("got %s", e.Raw)
	}
	event, f := s.Sees("x"), s.Finalised(id)
	if keys(f) != "event_id finalised_ts" || f.Get("event_id").String() != event.Get("event_id").String() ||
		f.Get("finalised_ts").Int() < e.Get("delayed_since_ts").Int()+soon.Milliseconds() {
		s.Errorf("got %s", f.Raw)
	}
	done(s, act(s, s.Alice, early, "send"))
	if f = s.Finalised(early); f.Get("finalised_ts").Int() >= s.Lookup(early).Get("delayed_since_ts").Int()+later.Milliseconds() {
		s.Errorf("it was not sent early: %s", f.Raw)
	}
	unstable := s.Wants(s.Alice.Do("GET", rig.UnstableDelayed+"/"+id, nil, nil), 200, "")
	if string(unstable.Body) != s.Lookup(id).Raw {
		s.Errorf("the unstable path says %s", unstable.Body)
	}
}

func lookUpCancelled(s *rig.Scene) {
	id := schedule(s, "x", later)
	done(s, act(s, s.Alice, id, "cancel"))
	if f := s.Lookup(id).Get("finalised"); keys(f) != "finalised_ts" {
		s.Errorf("got %s", f.Raw)
	}
}

func lookUpFailed(s *rig.Scene) {
	const delay = 2 * soon
	id := by(s, s.Bob, "x", delay)
	s.SetPower("events_default", 50)
	s.Passes(delay)
	var f gjson.Result
	s.Eventually("the failure", func() bool {
		f = s.Bob.Do("GET", rig.StableDelayed+"/"+id, nil, nil).JSON.Get("finalised")
		return f.Exists()
	})
	if keys(f) != "error finalised_ts" || keys(f.Get("error")) != "errcode error" || f.Get("error.errcode").String() != "M_FORBIDDEN" {
		s.Errorf("got %s", f.Raw)
	}
	s.SetPower("events_default", 0)
	s.Passes(soon) // it is not retried
	s.Has(0, "x")
}

func powerGained(s *rig.Scene) {
	body := delayed("x", 2*soon)
	body["state_key"] = ""
	s.ID(s.Bob.Do("PUT", s.At(stable, "delayed_event/test/t"), nil, body))
	s.SetPower("state_default", 0)
	s.Sees("x")
}

func newerState(s *rig.Scene) {
	s.SetPower("state_default", 0)
	body := delayed("x", 2*soon)
	body["state_key"] = ""
	s.ID(put(s, stable, "test", body))
	s.Alice.SendState(s.Room, "test", "", rig.Text("alice's"))
	s.Bob.SendState(s.Room, "test", "", rig.Text("bob's"))
	s.Sees("x")
	if got := s.Alice.GetState(s.Room, "test", ""); got.Get("body").String() != "x" {
		s.Errorf("the state is %s", got.Raw)
	}
}

func leftRoom(s *rig.Scene) {
	id := by(s, s.Bob, "x", soon)
	s.Bob.Leave(s.Room)
	s.Eventually("the failure", func() bool {
		return s.Bob.Do("GET", rig.StableDelayed+"/"+id, nil, nil).JSON.Get("finalised.error.errcode").String() == "M_FORBIDDEN"
	})
	s.Has(0, "x")
}

func deactivated(s *rig.Scene) {
	id := by(s, s.Bob, "x", 5*time.Second)
	r := s.Bob.Do("POST", rig.Path("account", "deactivate"), nil, map[string]any{"auth": map[string]any{
		"type": "m.login.password", "identifier": map[string]any{"type": "m.id.user", "user": s.Bob.ID}, "password": "a long password",
	}})
	s.Wants(r, 200, "")
	s.Wants(s.As("", "POST", rig.UnstableDelayed+"/"+id+"/restart", nil), 404, "M_NOT_FOUND")
	done(s, s.As("", "POST", rig.UnstableDelayed+"/"+id+"/cancel", nil))
}

func logout(s *rig.Scene) {
	device := s.Server.Login(s, s.Alice)
	id := by(s, device, "x", soon)
	device.Do("POST", rig.Path("logout"), nil, map[string]any{})
	s.Sees("x")
	if f := s.Finalised(id); !f.Get("event_id").Exists() {
		s.Errorf("got %s", f.Raw)
	}
}

// order: events that are due together are sent in order of their deadlines, then of scheduling.
func order(s *rig.Scene) {
	due := time.Now().Add(2 * soon)
	left := func() time.Duration { return time.Until(due) }
	schedule(s, "third", left()+100*time.Millisecond)
	schedule(s, "first", left())
	schedule(s, "second", left()+50*time.Millisecond)
	s.Sees("third")
	if got := strings.Join(s.Bodies("first", "second", "third"), " "); got != "first second third" {
		s.Errorf("they came as %s", got)
	}
}
