package main

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"github.com/matrix-org/dendrite/futures/test/rig"
)

const callMember = "org.matrix.msc3401.call.member"

// session is a membership in a call, as clients write it.
func session(more map[string]any) map[string]any {
	content := map[string]any{"application": "m.call", "call_id": "", "device_id": "DEVICE", "scope": "m.room"}
	for key, value := range more {
		content[key] = value
	}
	return content
}

func TestGhosts(t *testing.T) { checkGhosts(t, rig.Config{}) }

func TestGhostsOnPostgres(t *testing.T) {
	if !rig.HasPostgres() {
		t.Skip("no PostgreSQL; see test/postgres.sh")
	}
	checkGhosts(t, rig.Config{Postgres: true})
}

func checkGhosts(t *testing.T, cfg rig.Config) {
	s := rig.New(t, cfg)
	root, alice, bob := s.RegisterAdmin(t, "root"), s.Register(t, "alice"), s.Register(t, "bob")
	t.Setenv("DENDRITE_ADMIN_TOKEN", root.Token)
	o := &operator{t, s.URL}
	o.do("ghosts list", "0 ghosts")
	room := alice.CreateRoom(map[string]any{"preset": "public_chat"})
	bob.Join(room)

	now := time.Now().UnixMilli()
	over := session(map[string]any{"created_ts": now - 20_000, "expires": 10_000})
	alice.SendState(room, callMember, "_"+alice.ID+"_OVER", over)
	alice.SendState(room, callMember, alice.ID, map[string]any{"memberships": []any{over, session(map[string]any{"expires_ts": now - 5})}})
	alice.SendState(room, callMember, "_"+alice.ID+"_RUNS", session(map[string]any{"created_ts": now, "expires": 3_600_000}))
	alice.SendState(room, callMember, "_"+alice.ID+"_HALF", map[string]any{"memberships": []any{over, session(map[string]any{"expires_ts": now + 3_600_000})}})
	alice.SendState(room, callMember, "_"+alice.ID+"_LEFT", map[string]any{})
	alice.SendState(room, callMember, "_"+alice.ID+"_OPEN", session(nil))
	bob.SendState(room, callMember, "_"+bob.ID+"_KEPT", over)
	bob.StateFuture(room, callMember, "_"+bob.ID+"_KEPT", map[string]any{}, rig.Params{Timeout: time.Hour})
	bob.SendState(room, "m.rtc.member", "_"+bob.ID+"_OVER", over)
	gone := bob.CreateRoom(nil)
	bob.SendState(gone, callMember, "_"+bob.ID+"_GONE", over)
	bob.Leave(gone)
	weak := bob.CreateRoom(map[string]any{"room_version": "11"}) // in later versions its creator can do all for ever
	bob.SendState(weak, callMember, "_"+bob.ID+"_WEAK", over)
	bob.SendState(weak, "m.room.power_levels", "", map[string]any{"users": map[string]any{bob.ID: 10}, "events": map[string]any{callMember: 50}})
	eventually(o, "ghosts list -room "+weak, "1 ghost")

	out := o.do("ghosts list", "4 ghosts", alice.ID+"_OVER", bob.ID+"_OVER", bob.ID+"_WEAK")
	for _, text := range []string{"RUNS", "HALF", "LEFT", "OPEN", "KEPT", "GONE"} {
		if strings.Contains(out, text) {
			t.Errorf("%s is no ghost:\n%s", text, out)
		}
	}
	o.do("ghosts list -max-age 1d", "4 ghosts")
	o.do("ghosts list -max-age 1ms", "5 ghosts", "_OPEN")
	o.do("ghosts list -user "+bob.ID+" -room "+room, "1 ghost", "m.rtc.member")
	o.do("ghosts clear -user "+alice.ID, "2 ghosts to be cleared; -yes does it")
	o.do("ghosts list", "4 ghosts")
	o.do("ghosts clear -room "+room+" -yes", "3 ghosts cleared")
	o.fails("ghosts clear -yes", "1 ghost could not be cleared")
	for _, member := range []string{alice.ID, "_" + alice.ID + "_OVER"} {
		if got := alice.GetState(room, callMember, member); got.Raw != "{}" {
			t.Errorf("%s is still in the call: %s", member, got.Raw)
		}
	}
	if got := alice.GetState(room, callMember, "_"+alice.ID+"_RUNS"); got.Get("expires").Int() == 0 {
		t.Errorf("a membership that runs is gone: %s", got.Raw)
	}
	leave := alice.WaitFor(room, func(e gjson.Result) bool {
		return e.Get("type").Str == "m.rtc.member" && e.Get("state_key").Str == "_"+bob.ID+"_OVER" && e.Get("content").Raw == "{}"
	}, time.Minute)
	if sender := leave.Get("sender").Str; sender != bob.ID {
		t.Errorf("%s has sent the leave of %s", sender, bob.ID)
	}
	eventually(o, "ghosts list", "1 ghost\n")
	refuseMistakes(o, root, alice)
}

// eventually waits for the sync API, which learns of events a little later than those who send them.
func eventually(o *operator, args, want string) {
	o.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		out, err := o.try(args)
		if err == nil && strings.Contains(out, want) {
			return
		}
		if time.Now().After(deadline) {
			o.Fatalf("%s: no %q in %s (%v)", args, want, out, err)
		}
	}
}

func refuseMistakes(o *operator, root, alice *rig.User) {
	o.Helper()
	o.fails("ghosts", "write ghosts list or ghosts clear")
	o.fails("ghosts list -yes", "not defined: -yes")
	o.fails("ghosts clear -max-age 0s", "is no duration")
	page := root.Do(http.MethodGet, ghostsPath, url.Values{"limit": {"1"}, "max_age_ms": {"1"}}, nil)
	if n := page.JSON.Get("ghosts.#").Int(); n != 1 || page.JSON.Get("next").Str != page.JSON.Get("ghosts.0.event_id").Str {
		o.Errorf("a page of one ghost is %s", page.Body)
	}
	for param, value := range map[string]string{"usr_id": alice.ID, "user_id": "", "limit": "0", "max_age_ms": "4h"} {
		if r := root.Do(http.MethodDelete, ghostsPath, url.Values{param: {value}}, nil); r.Status != 400 || r.JSON.Get("errcode").Str != "M_INVALID_PARAM" {
			o.Errorf("%s=%s: %d %s", param, value, r.Status, r.Body)
		}
	}
	if r := alice.Do(http.MethodDelete, ghostsPath, nil, nil); r.Status != 403 {
		o.Errorf("a user who is no administrator: %d %s", r.Status, r.Body)
	}
}
