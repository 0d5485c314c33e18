package gen1

import (
	"slices"
	"time"

	"github.com/matrix-org/dendrite/futures/test/rig"
)

func management() map[string]func(*rig.Scene) {
	return map[string]func(*rig.Scene){
		"4.1,4.2,4.6,7.8 without a token": openActions,
		"4.3,4.4,4.5 requests":            requests,
		"4.4 the chain of matrix-js-sdk":  chain,
		"4.5,4.11,8 finished ones":        finished,
		"4.6,8 tokens":                    tokens,
		"4.10":                            failedSend,
		"4.12 heartbeats":                 heartbeats,
		"7.5,7.6,7.7":                     unknownID,
		"8 delegation is not offered":     noDelegation,
	}
}

// act performs an action with an access token, or without one.
func act(s *rig.Scene, accessToken, id, action string) rig.Response {
	s.Helper()
	return s.As(accessToken, "POST", rig.UnstableDelayed+"/"+id+"/"+action, nil)
}

func done(s *rig.Scene, r rig.Response) {
	s.Helper()
	if r.Status != 200 || string(r.Body) != "{}" {
		s.Errorf("an action is answered %d %s", r.Status, r.Body)
	}
}

// openActions is also Complement's (8).
func openActions(s *rig.Scene) {
	const delay = 1500 * time.Millisecond
	start := time.Now()
	sent, cancelled := s.Message("sent", later), s.Message("cancelled", delay)
	restarted := s.Message("restarted", delay)
	done(s, act(s, "", sent, "send"))
	if event := s.Sees("sent"); event.Get("origin_server_ts").Int() > time.Now().UnixMilli() {
		s.Errorf("got %s", event.Raw)
	}
	done(s, act(s, "", cancelled, "cancel"))
	<-time.After(time.Until(start.Add(delay * 2 / 3)))
	again := time.Now()
	done(s, act(s, "", restarted, "restart"))
	event := s.Sees("restarted")
	if early := again.Add(delay).UnixMilli() - event.Get("origin_server_ts").Int(); early > 0 {
		s.Errorf("it came %d ms early", early)
	}
	s.Has(0, "cancelled")
	s.Has(1, "sent")
	s.Has(1, "restarted")
}

func requests(s *rig.Scene) {
	id := s.Message("x", later)
	body := rig.UnstableDelayed + "/" + id
	for _, accessToken := range []string{"", s.Alice.Token} {
		for _, content := range []any{nil, "{}", `{"x":1}`} {
			done(s, s.As(accessToken, "POST", body+"/restart", content))
		}
		done(s, s.As(accessToken, "POST", body, `{"action":"restart"}`))
		s.Wants(s.As(accessToken, "POST", body, nil), 400, "M_NOT_JSON")
		s.Wants(s.As(accessToken, "POST", body, "{}"), 400, "M_MISSING_PARAM")
		s.Wants(s.As(accessToken, "POST", body, `{"action":"oops"}`), 400, "M_INVALID_PARAM")
		s.Wants(s.As(accessToken, "POST", body+"/oops", "{}"), 404, "M_UNRECOGNIZED")
		s.Wants(s.As(accessToken, "POST", rig.UnstableDelayed+"/", "{}"), 404, "M_UNRECOGNIZED")
	}
	if r := s.As("", "OPTIONS", body+"/restart", nil); r.Status != 200 || r.Header.Get("Access-Control-Allow-Origin") != "*" {
		s.Errorf("OPTIONS is answered %d %v", r.Status, r.Header)
	}
	done(s, s.As("", "POST", body, `{"action":"send"}`))
	s.Sees("x")
}

// chain: answers that clients read as "no such path" and as "no such event" are never mixed up.
func chain(s *rig.Scene) {
	s.Wants(act(s, s.Alice.Token, "abc", "oops"), 404, "M_UNRECOGNIZED")
	s.Wants(act(s, s.Alice.Token, "abc", "restart"), 404, "M_NOT_FOUND")
	s.Wants(s.As("", "POST", rig.UnstableDelayed+"/abc", `{"action":"restart"}`), 404, "M_NOT_FOUND")
}

// finished: any answer but M_NOT_FOUND ends the call of a client whose leave was sent.
func finished(s *rig.Scene) {
	sent, cancelled, failed := s.Message("sent", soon), s.Message("cancelled", later), s.ID(s.Bob.Delay(s.Room, "send/m.room.message/t", rig.Text("failed"), 2*soon))
	done(s, act(s, s.Alice.Token, cancelled, "cancel"))
	s.SetPower("events_default", 50)
	s.Sees("sent")
	s.Passes(2 * soon)
	for _, accessToken := range []bool{true, false} {
		token := func(u *rig.User) string {
			if accessToken {
				return u.Token
			}
			return ""
		}
		s.Wants(act(s, token(s.Alice), sent, "restart"), 404, "M_NOT_FOUND")
		s.Wants(act(s, token(s.Alice), sent, "cancel"), 404, "M_NOT_FOUND")
		done(s, act(s, token(s.Alice), sent, "send"))
		s.Wants(act(s, token(s.Alice), cancelled, "restart"), 404, "M_NOT_FOUND")
		s.Wants(act(s, token(s.Alice), cancelled, "send"), 404, "M_NOT_FOUND")
		done(s, act(s, token(s.Alice), cancelled, "cancel"))
		s.Wants(act(s, token(s.Bob), failed, "restart"), 404, "M_NOT_FOUND")
		s.Wants(act(s, token(s.Bob), failed, "send"), 404, "M_NOT_FOUND")
		done(s, act(s, token(s.Bob), failed, "cancel"))
	}
	s.Wants(s.As(s.Alice.Token, "POST", rig.StableDelayed+"/"+sent+"/restart", nil), 409, "M_UNKNOWN")
	s.Has(1, "sent", "cancelled", "failed")
}

func tokens(s *rig.Scene) {
	id := s.Message("x", later)
	for _, action := range actions {
		s.Wants(act(s, s.Bob.Token, id, action), 404, "M_NOT_FOUND")
		s.Wants(act(s, "nobody's", id, action), 401, "M_UNKNOWN_TOKEN")
		s.Wants(s.As("", "POST", rig.StableDelayed+"/"+id+"/"+action, nil), 401, "M_MISSING_TOKEN")
	}
	second := s.Server.Login(s, s.Alice)
	done(s, act(s, second.Token, id, "restart"))
	second.Do("POST", rig.Path("logout"), nil, map[string]any{})
	s.Wants(act(s, second.Token, id, "restart"), 401, "M_UNKNOWN_TOKEN") // at once
	done(s, act(s, "", id, "send"))                                      // an account's events outlive its devices
	s.Sees("x")
}

// failedSend: the event is not lost.
func failedSend(s *rig.Scene) {
	id := s.ID(s.Bob.Delay(s.Room, "send/m.room.message/t", rig.Text("x"), later))
	s.SetPower("events_default", 50)
	s.Wants(act(s, s.Bob.Token, id, "send"), 403, "M_FORBIDDEN")
	s.Wants(act(s, "", id, "send"), 403, "M_FORBIDDEN")
	if !slices.Equal(s.Listed(s.Bob, ""), []string{id}) {
		s.Error("it is not scheduled any more")
	}
	s.SetPower("events_default", 0)
	done(s, act(s, "", id, "send"))
	s.Sees("x")
}

func heartbeats(s *rig.Scene) {
	id := s.State("org.matrix.msc3401.call.member", "_"+s.Alice.ID+"_PHONE_m.call", "left", 2*soon)
	for range 6 {
		<-time.After(soon)
		done(s, act(s, s.Alice.Token, id, "restart"))
		s.Has(0, "left")
	}
	s.Sees("left")
	s.Eventually("the restart to find nothing", func() bool { return act(s, "", id, "restart").ErrCode() == "M_NOT_FOUND" })
}

func unknownID(s *rig.Scene) {
	s.Wants(s.As("", "POST", rig.UnstableDelayed+"/abc", "{}"), 400, "M_MISSING_PARAM")
	s.Wants(s.As("", "POST", rig.UnstableDelayed+"/abc/oops", "{}"), 404, "M_UNRECOGNIZED")
	for _, action := range actions {
		s.Wants(s.As("", "POST", rig.UnstableDelayed+"/abc/"+action, "{}"), 404, "M_NOT_FOUND")
	}
}

// noDelegation: Element Call takes any other answer for an offer, and relies on it.
func noDelegation(s *rig.Scene) {
	for _, path := range []string{"v1", "unstable/io.element.msc4195"} {
		s.Wants(s.As("", "POST", "/_matrix/client/"+path+"/rtc/livekit/delegate_delayed_leave", map[string]any{}), 404, "M_UNRECOGNIZED")
	}
}
