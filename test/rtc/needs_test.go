package rtc_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/tidwall/gjson"

	"github.com/matrix-org/dendrite/futures/test/rig"
)

const (
	callMember = "org.matrix.msc3401.call.member"
	rtcMember  = "org.matrix.msc4143.rtc.member"
	rtcSlot    = "org.matrix.msc4143.rtc.slot"
	callSlot   = "m.call#ROOM"
)

// TestClientNeeds tests sections 5 to 7 of what clients need of a homeserver for calls.
func TestClientNeeds(t *testing.T) {
	s := rig.New(t, rig.Config{Set: map[string]any{"user_api.push_gateway_disable_tls_validation": true}})
	t.Run("5.4 rules", func(t *testing.T) { testRules(t, s) })
	t.Run("5.5 ringing", func(t *testing.T) { testRinging(t, s) })
	t.Run("7.1 power levels", func(t *testing.T) { testLevels(t, s) })
	t.Run("7.2 upgrades", func(t *testing.T) { testUpgrades(t, s) })
	t.Run("5.3 accounts from before", func(t *testing.T) { testStoredRules(t, s) }) // restarts the server

	limited := rig.New(t, rig.Config{Set: map[string]any{
		"client_api.rate_limiting.enabled":     true,
		"client_api.rate_limiting.threshold":   5,
		"future_server.rate_limits.call_token": map[string]any{}, // the default
		"future_server.new_room_event_levels":  map[string]any{"com.example.game": 7},
	}})
	t.Run("6.3 OpenID tokens", func(t *testing.T) { testOpenIDLimit(t, limited) })
	t.Run("7.1 power levels as configured", func(t *testing.T) { testConfiguredLevels(t, limited) })
}

// testOpenIDLimit: in a call with many homeservers a client requests a token for each of them at once.
func testOpenIDLimit(t *testing.T, s *rig.Server) {
	alice := s.Register(t, "alice")
	ask := func() rig.Response {
		return alice.Do(http.MethodPost, rig.Path("user", alice.ID, "openid", "request_token"), nil, map[string]any{})
	}
	for n := range 10 {
		r := ask()
		if seconds := r.JSON.Get("expires_in").Int(); r.Status != http.StatusOK || seconds < 3590 || seconds > 3600 {
			t.Fatalf("token %d: %d %s", n+1, r.Status, r.Body)
		}
	}
	for n := 10; ; n++ {
		if r := ask(); r.Status != http.StatusOK {
			wants(t, r, http.StatusTooManyRequests, "M_LIMIT_EXCEEDED")
			if n < 30 || r.JSON.Get("retry_after_ms").Int() > 1000 {
				t.Errorf("refused after %d: %s", n, r.Body)
			}
			break
		}
		if n > 300 {
			t.Fatalf("%d tokens, and no limit", n)
		}
	}
	wants(t, alice.Do(http.MethodGet, rig.Path("account", "whoami"), nil, nil), http.StatusOK, "")
}

// testLevels: members of a new room may take part in calls there, unless its creator decides otherwise.
func testLevels(t *testing.T, s *rig.Server) {
	alice, bob := s.Register(t, "lisa"), s.Register(t, "leo")
	key := "_" + bob.ID + "_" + bob.DeviceID + "_m.call"
	for _, version := range []string{"10", "12"} {
		room := alice.CreateRoom(map[string]any{"preset": "public_chat", "room_version": version})
		bob.Join(room)
		for _, kind := range []string{callMember, rtcMember, "m.rtc.member"} {
			wants(t, bob.Do(http.MethodPut, rig.Path("rooms", room, "state", kind, key), nil, map[string]any{}), 200, "")
		}
		levels := alice.GetState(room, "m.room.power_levels", "").Get("events").Map()
		if len(levels) != 11 || levels["m.room.name"].Int() != 50 || levels["m.room.power_levels"].Int() != 100 {
			t.Errorf("Dendrite's own levels are not there: %v", levels)
		}

		strict := alice.CreateRoom(map[string]any{"preset": "public_chat", "room_version": version,
			"power_level_content_override": map[string]any{"events": map[string]any{callMember: 25, "m.room.name": 1}}})
		bob.Join(strict)
		wants(t, bob.Do(http.MethodPut, rig.Path("rooms", strict, "state", callMember, key), nil, map[string]any{}), 403, "M_FORBIDDEN")
		wants(t, bob.Do(http.MethodPut, rig.Path("rooms", strict, "state", rtcMember, key), nil, map[string]any{}), 200, "")
		if l := alice.GetState(strict, "m.room.power_levels", "").Get("events").Map(); len(l) != 11 || l["m.room.name"].Int() != 1 || l[callMember].Int() != 25 {
			t.Errorf("the client's own levels were not kept: %v", l)
		}
	}
}

func testConfiguredLevels(t *testing.T, s *rig.Server) {
	alice := s.Register(t, "lena")
	levels := alice.GetState(alice.CreateRoom(nil), "m.room.power_levels", "").Get("events").Map()
	if levels["com.example.game"].Int() != 7 || levels[callMember].Exists() || len(levels) != 9 {
		t.Errorf("%v", levels)
	}
}

// testUpgrades: a new room has the old one's slot, and no memberships of calls: the leaves of the participants are due
// in the old room.
func testUpgrades(t *testing.T, s *rig.Server) {
	alice, bob := s.Register(t, "ulla"), s.Register(t, "udo")
	call := map[string]any{"application": "m.call", "call_id": "", "scope": "m.room", "expires": 14400000}
	for from, to := range map[string]string{"10": "11", "11": "12"} {
		room := alice.CreateRoom(map[string]any{"preset": "public_chat", "room_version": from, "topic": "kept",
			"power_level_content_override": map[string]any{"events": map[string]any{callMember: 0, rtcMember: 0, "m.rtc.member": 0}}})
		bob.Join(room)
		for _, kind := range []string{callMember, rtcMember, "m.rtc.member"} {
			for _, u := range []*rig.User{alice, bob} {
				u.SendState(room, kind, "_"+u.ID+"_"+u.DeviceID+"_m.call", call)
			}
			alice.SendState(room, kind, "of another format", call)
		}
		slots := []string{rtcSlot, "m.rtc.slot"}
		for _, kind := range slots {
			alice.SendState(room, kind, callSlot, map[string]any{"application": map[string]any{"type": "m.call"}})
		}
		r := wants(t, alice.Do(http.MethodPost, rig.Path("rooms", room, "upgrade"), nil, map[string]any{"new_version": to}), 200, "")
		upgraded := r.JSON.Get("replacement_room").Str
		for _, kind := range slots {
			if copied := alice.GetState(upgraded, kind, callSlot); copied.Get("application.type").Str != "m.call" {
				t.Errorf("%s to %s: the slot %s is %s", from, to, kind, copied.Raw)
			}
		}
		if topic := alice.GetState(upgraded, "m.room.topic", "").Get("topic").Str; topic != "kept" {
			t.Errorf("%s to %s: the topic is %q", from, to, topic)
		}
		alice.Do(http.MethodGet, rig.Path("rooms", upgraded, "state"), nil, nil).JSON.ForEach(func(_, e gjson.Result) bool {
			if strings.HasSuffix(e.Get("type").Str, ".member") && e.Get("type").Str != "m.room.member" {
				t.Errorf("%s to %s: copied: %s", from, to, e.Raw)
			}
			return true
		})
	}
}
