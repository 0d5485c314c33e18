package gen0

import (
	"fmt"
	"net/url"
	"time"

	"github.com/matrix-org/dendrite/futures/test/rig"
)

// lifecycle tests section 5 except newer state (invalidation_test.go) and restarts (alone_test.go).
func lifecycle() []requirement {
	return []requirement{
		{"5.1,10.17 raised", powerRaised},
		{"5.1 leaving,5.2", leftRoom},
		{"5.2,10.17 dropped", powerDropped},
		{"5.3,5.4,5.5,5.6,10.11", firstTimerWins},
		{"5.9,6.5", spentIsGone},
		{"5.10 logout", logout},
		{"5.10 deactivation", deactivation},
		{"5.10 application service", bridge},
		{"5.14,10.23 v10", func(s *scene) { redaction(s, "10") }},
		{"5.14,10.23 v11", func(s *scene) { redaction(s, "11") }},
		{"5.14 target gone", func(s *scene) { redactNothing(s) }},
		{"5.17", groupOverRooms},
		{"5.19", guest},
	}
}

func powerRaised(s *scene) {
	f := s.note(s.Bob.StateFuture(s.Room, "test", "", rig.Text("x"), rig.Params{Timeout: 2 * soon}))
	s.SetPower("state_default", 0)
	if event := s.Sees("x"); event.Get("sender").String() != s.Bob.ID {
		s.Errorf("got %s", event.Raw)
	}
	s.gone(f)
}

func powerDropped(s *scene) {
	const timeout = 2 * soon
	f := s.note(s.Bob.SendFuture(s.Room, "m.room.message", rig.Text("x"), rig.Params{Timeout: timeout, Group: "g"}))
	action := s.note(s.Bob.SendFuture(s.Room, "m.room.message", rig.Text("action"), rig.Params{Group: "g"}))
	other := s.note(s.Bob.SendFuture(s.Room, "m.room.message", rig.Text("other"), rig.Params{Timeout: later, Group: "g"}))
	s.SetPower("events_default", 50)
	s.passes(timeout)
	s.getsGone(f)
	s.gone(f, action, other) // the whole group is closed
	s.Has(0, "x", "action", "other")
	if n := len(s.futures(s.Bob)); n > 0 {
		s.Errorf("%d futures are left", n)
	}
}

func leftRoom(s *scene) {
	f := s.note(s.Bob.SendFuture(s.Room, "m.room.message", rig.Text("x"), rig.Params{Timeout: soon}))
	s.Bob.Leave(s.Room)
	s.passes(soon)
	s.getsGone(f)
	s.Has(0, "x")
}

func firstTimerWins(s *scene) {
	var all []rig.Future
	for i, timeout := range []time.Duration{3 * soon, 2 * soon, 4 * soon} {
		all = append(all, s.message(fmt.Sprint("timeout ", i), timeout, "g"), s.message(fmt.Sprint("action ", i), 0, "g"))
	}
	s.Sees("timeout 1")
	s.gone(all...)
	s.passes(5 * soon)
	s.Has(1, "timeout 0", "timeout 1", "timeout 2", "action 0", "action 1", "action 2")
}

func spentIsGone(s *scene) {
	fired, cancelled, sent := s.message("fired", 100*time.Millisecond, ""), s.message("cancelled", later, ""), s.message("sent", later, "")
	s.works(cancelled.Cancel, sent.Send)
	s.Sees("fired")
	s.gone(fired, cancelled, sent)
	if n := len(s.futures(s.Alice)); n > 0 {
		s.Errorf("%d futures are listed", n)
	}
}

func logout(s *scene) {
	f := s.note(s.Bob.SendFuture(s.Room, "m.room.message", rig.Text("x"), rig.Params{Timeout: 2 * soon}))
	s.Wants(s.Bob.Do("POST", rig.Path("logout", "all"), nil, "{}"), 200, "")
	s.Wants(s.Bob.Do("GET", rig.Path("futures"), nil, nil), 401, "M_UNKNOWN_TOKEN")
	s.works(f.Refresh)
	if event := s.Sees("x"); event.Get("sender").String() != s.Bob.ID {
		s.Errorf("got %s", event.Raw)
	}
}

func deactivation(s *scene) {
	f := s.note(s.Bob.SendFuture(s.Room, "m.room.message", rig.Text("x"), rig.Params{Timeout: later}))
	auth := map[string]any{
		"type": "m.login.password", "password": "a long password", "identifier": map[string]any{"type": "m.id.user", "user": s.Bob.ID},
	}
	s.Wants(s.Bob.Do("POST", rig.Path("account", "deactivate"), nil, map[string]any{"auth": auth}), 200, "")
	s.getsGone(f)
	s.Has(0, "x")
}

func bridge(s *scene) {
	name := fmt.Sprint("bridged_", s.world.users.Add(1))
	s.Wants(s.As(rig.BridgeToken, "POST", rig.Path("register"), map[string]any{"type": "m.login.application_service", "username": name}), 200, "")
	ghost := "@" + name + ":localhost"
	as := "user_id=" + url.QueryEscape(ghost)
	s.Wants(s.As(rig.BridgeToken, "POST", rig.Path("join", s.Room)+"?"+as, "{}"), 200, "")
	path := s.At("v3", "send_future/m.room.message/t?future_timeout=500&"+as)
	first := s.As(rig.BridgeToken, "PUT", path, rig.Text("x"))
	s.Wants(first, 200, "")
	s.note(first.Future())
	if again := s.As(rig.BridgeToken, "PUT", path, rig.Text("x")); string(again.Body) != string(first.Body) {
		s.Errorf("the repeat is answered %s", again.Body)
	}
	s.Wants(s.As(rig.BridgeToken, "PUT", s.At("v3", "send_future/m.room.message/t?future_timeout=1&user_id="+url.QueryEscape(s.Bob.ID)), rig.Text("x")), 403, "M_FORBIDDEN")
	if event := s.Sees("x"); event.Get("sender").String() != ghost {
		s.Errorf("got %s", event.Raw)
	}
	if r := s.As(rig.BridgeToken, "GET", rig.Path("futures")+"?"+as, nil); r.Status != 200 || string(r.Body) != "[]" {
		s.Errorf("the list is answered %d %s", r.Status, r.Body)
	}
}

func redaction(s *scene, version string) {
	s.Room = s.Alice.CreateRoom(map[string]any{"preset": "public_chat", "room_version": version})
	secret := s.Alice.Send(s.Room, "m.room.message", rig.Text("this will self-destruct"))
	s.note(s.Alice.SendFuture(s.Room, "m.room.redaction", map[string]any{"redacts": secret, "body": "boom"}, rig.Params{Timeout: soon}))
	s.Sees("boom")
	s.Eventually("the message to be redacted", func() bool {
		r := s.Alice.Do("GET", rig.Path("rooms", s.Room, "event", secret), nil, nil)
		return r.Status == 200 && !r.JSON.Get("content.body").Exists() && r.JSON.Get("unsigned.redacted_because").Exists()
	})
}

func redactNothing(s *scene) {
	f := s.note(s.Alice.SendFuture(s.Room, "m.room.redaction",
		map[string]any{"redacts": "$nothing", "body": "boom"}, rig.Params{Timeout: later}))
	s.works(f.Send)
	s.gone(f)
}

func groupOverRooms(s *scene) {
	other := s.Alice.CreateRoom(nil)
	s.message("here", later, "g")
	there := s.note(s.Alice.StateFuture(other, "test", "", rig.Text("there"), rig.Params{Timeout: later, Group: "g"}))
	action := s.message("action", 0, "g")
	s.works(action.Send)
	s.Sees("action")
	s.gone(there)
	s.Has(0, "here")
	if s.Alice.GetState(other, "test", "").Exists() {
		s.Error("two of the group were sent")
	}
}

func guest(s *scene) {
	s.Alice.SendState(s.Room, "m.room.guest_access", "", map[string]any{"guest_access": "can_join"})
	r := s.As("", "POST", rig.Path("register")+"?kind=guest", "{}")
	s.Wants(r, 200, "")
	token, id := r.JSON.Get("access_token").String(), r.JSON.Get("user_id").String()
	s.Wants(s.As(token, "POST", rig.Path("join", s.Room), "{}"), 200, "")
	f := s.As(token, "PUT", s.At("v3", "send_future/m.room.message/t?future_timeout=500"), rig.Text("x"))
	s.Wants(f, 200, "")
	s.note(f.Future())
	s.Wants(s.As(token, "GET", rig.Path("futures"), nil), 200, "")
	if event := s.Sees("x"); event.Get("sender").String() != id {
		s.Errorf("got %s", event.Raw)
	}
}
