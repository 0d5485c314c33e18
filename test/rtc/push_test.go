package rtc_test

import (
	"database/sql"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	_ "github.com/mattn/go-sqlite3"
	"github.com/tidwall/gjson"

	"github.com/matrix-org/dendrite/futures/test/rig"
)

const (
	patience  = time.Minute
	ring      = "org.matrix.msc4075.rtc.notification"
	userRule  = ".m.rule.is_user_mention"
	inviteMe  = ".m.rule.rtc.invite_for_me"
	edits     = ".m.rule.suppress_edits"
	pushRules = "m.push_rules"
)

// overrides are the default rules of the kind override, in the order of the specification and of MSC4075.
var overrides = []string{
	".m.rule.master", ".m.rule.suppress_notices", ".m.rule.invite_for_me", ".m.rule.member_event", inviteMe, userRule,
	".m.rule.contains_display_name", ".m.rule.rtc.invite_for_room", ".m.rule.is_room_mention", ".m.rule.roomnotif",
	".m.rule.tombstone", ".m.rule.reaction", ".m.rule.room.server_acl", edits,
}

// added are the rules that Dendrite lacks. USER stands for the user's ID.
var added = []string{
	`{"rule_id":".m.rule.rtc.invite_for_me","default":true,"enabled":true,"conditions":[{"kind":"event_match","key":"type","pattern":"m.rtc.invite"},` +
		`{"kind":"event_property_contains","key":"content.m\\.mentions.user_ids","value":"USER"}],"actions":["notify",{"set_tweak":"sound","value":"ring"}]}`,
	`{"rule_id":".m.rule.is_user_mention","default":true,"enabled":true,"conditions":[{"kind":"event_property_contains","key":"content.m\\.mentions.user_ids",` +
		`"value":"USER"}],"actions":["notify",{"set_tweak":"sound","value":"default"},{"set_tweak":"highlight"}]}`,
	`{"rule_id":".m.rule.rtc.invite_for_room","default":true,"enabled":true,"conditions":[{"kind":"event_match","key":"type","pattern":"m.rtc.invite"},` +
		`{"kind":"event_property_is","key":"content.m\\.mentions.room","value":true},{"kind":"sender_notification_permission","key":"room"}],` +
		`"actions":["notify",{"set_tweak":"sound","value":"ring"}]}`,
	`{"rule_id":".m.rule.is_room_mention","default":true,"enabled":true,"conditions":[{"kind":"event_property_is","key":"content.m\\.mentions.room","value":true},` +
		`{"kind":"sender_notification_permission","key":"room"}],"actions":["notify",{"set_tweak":"highlight"}]}`,
	`{"rule_id":".m.rule.suppress_edits","default":true,"enabled":true,"conditions":[{"kind":"event_property_is",` +
		`"key":"content.m\\.relates_to.rel_type","value":"m.replace"}],"actions":[]}`,
}

// ruleSets returns the user's override rules in each form in which clients get them.
func ruleSets(t *testing.T, u *rig.User) map[string]gjson.Result {
	t.Helper()
	get := func(segments ...string) gjson.Result {
		return wants(t, u.Do(http.MethodGet, rig.Path(segments...), nil, nil), 200, "").JSON
	}
	var sync gjson.Result
	eventually(t, pushRules+" is in /sync", func() bool { // which learns of a change a moment later
		sync = get("sync").Get(`account_data.events.#(type=="` + pushRules + `").content`)
		return sync.Exists()
	})
	return map[string]gjson.Result{
		"all":          get("pushrules", "").Get("global.override"),
		"global":       get("pushrules", "global", "").Get("override"),
		"override":     get("pushrules", "global", "override", ""),
		"account data": get("user", u.ID, "account_data", pushRules).Get("global.override"),
		"sync":         sync.Get("global.override"),
	}
}

// eventually waits until the condition holds.
func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !condition(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not in %s: %s", patience, what)
		}
	}
}

// checkRules checks that the user has all default rules in each form, after its own ones.
func checkRules(t *testing.T, u *rig.User, own ...string) {
	t.Helper()
	for form, rules := range ruleSets(t, u) {
		var ids, found []string
		for _, rule := range rules.Array() {
			ids, found = append(ids, rule.Get("rule_id").Str), append(found, rule.Raw)
		}
		if !slices.Equal(ids, append(own, overrides...)) {
			t.Errorf("%s: the rules are %q", form, ids)
		}
		for _, rule := range added {
			if rule = strings.ReplaceAll(rule, "USER", u.ID); !slices.Contains(found, rule) {
				t.Errorf("%s: not there: %s", form, rule)
			}
		}
	}
}

func testRules(t *testing.T, s *rig.Server) {
	alice, bob := s.Register(t, "rosa"), s.Register(t, "rolf")
	checkRules(t, alice)
	path := func(rule string, rest ...string) string {
		return rig.Path(append([]string{"pushrules", "global", "override", rule}, rest...)...)
	}
	for _, rule := range added {
		id := gjson.Get(rule, "rule_id").Str
		r := alice.Do(http.MethodGet, path(id), nil, nil)
		if want := strings.ReplaceAll(rule, "USER", alice.ID); r.Status != 200 || string(r.Body) != want {
			t.Errorf("%s: %d %s", id, r.Status, r.Body)
		}
		wants(t, alice.Do(http.MethodGet, path(id, "enabled"), nil, nil), 200, "")
		wants(t, alice.Do(http.MethodDelete, path(id), nil, nil), 404, "M_NOT_FOUND")
	}
	custom := path("com.example.custom")
	for _, value := range []string{"null", "true", "7", `"x"`} {
		body := `{"conditions":[{"kind":"event_property_is","key":"content.a\\.b","value":` + value + `}],"actions":["notify"]}`
		wants(t, alice.Do(http.MethodPut, custom, nil, body), 200, "")
		r := alice.Do(http.MethodGet, custom, nil, nil)
		if got := r.JSON.Get("conditions.0").Raw; got != gjson.Get(body, "conditions.0").Raw {
			t.Errorf("put %s, got %s", body, r.Body)
		}
	}
	checkRules(t, alice, "com.example.custom")

	since := alice.Do(http.MethodGet, rig.Path("sync"), nil, nil).JSON.Get("next_batch").Str
	wants(t, alice.Do(http.MethodPut, path(userRule, "enabled"), nil, map[string]any{"enabled": false}), 200, "")
	wants(t, alice.Do(http.MethodPut, path(inviteMe, "actions"), nil, map[string]any{"actions": []any{"notify"}}), 200, "")
	for form, rules := range ruleSets(t, alice) {
		if rules.Get(`#(rule_id=="`+userRule+`").enabled`).Raw != "false" || rules.Get(`#(rule_id=="`+inviteMe+`").actions`).Raw != `["notify"]` {
			t.Errorf("%s: %s", form, rules.Raw)
		}
	}
	eventually(t, "the change is in /sync", func() bool {
		r := alice.Do(http.MethodGet, rig.Path("sync"), url.Values{"since": {since}}, nil)
		return r.JSON.Get(`account_data.events.#(type=="`+pushRules+`").content.global.override.#(rule_id=="`+userRule+`").enabled`).Raw == "false"
	})
	checkRules(t, bob)
}

// testStoredRules: an old account lacks the later rules. It keeps the rules that it has.
func testStoredRules(t *testing.T, s *rig.Server) {
	alice, bob := s.Register(t, "olga"), s.Register(t, "otto")
	wants(t, alice.Do(http.MethodPut, rig.Path("pushrules", "global", "override", ".m.rule.roomnotif", "enabled"), nil, map[string]any{"enabled": false}), 200, "")
	wants(t, alice.Do(http.MethodPut, rig.Path("pushrules", "global", "override", "mine"), nil, map[string]any{"conditions": []any{}, "actions": []any{}}), 200, "")
	s.Stop()
	db, err := sql.Open("sqlite3", "file:"+filepath.Join(s.Dir, "userapi.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	forget(t, db)
	s.Start()
	checkRules(t, alice, "mine")
	if kept := ruleSets(t, alice)["all"].Get(`#(rule_id==".m.rule.roomnotif").enabled`); kept.Raw != "false" {
		t.Errorf("the rule that was switched off is now %s", kept.Raw)
	}
	wants(t, alice.Do(http.MethodPut, rig.Path("pushrules", "global", "override", userRule, "enabled"), nil, map[string]any{"enabled": false}), 200, "")
	checkRules(t, bob)
	if stored := ruleSets(t, alice)["all"].Get(`#(rule_id=="` + userRule + `").enabled`); stored.Raw != "false" {
		t.Errorf("the rule that was switched off is now %s", stored.Raw)
	}
}

// forget removes the added rules from all stored rules.
func forget(t *testing.T, db *sql.DB) {
	t.Helper()
	for _, rule := range added {
		res, err := db.Exec(`UPDATE userapi_account_datas SET content = json_set(CAST(content AS TEXT), '$.global.override', json((
			SELECT json_group_array(json(value)) FROM json_each(CAST(content AS TEXT), '$.global.override')
			WHERE json_extract(value, '$.rule_id') <> $1))) WHERE type = $2`, gjson.Get(rule, "rule_id").Str, pushRules)
		if err != nil {
			t.Fatal(err)
		}
		if n, err := res.RowsAffected(); n < 2 || err != nil {
			t.Fatalf("%d rows, %v", n, err)
		}
	}
	var left int
	err := db.QueryRow(`SELECT count(*) FROM userapi_account_datas WHERE content LIKE '%mention%' OR content LIKE '%rtc%'`).Scan(&left)
	if err != nil || left > 0 {
		t.Fatalf("%d users still have the rules, %v", left, err)
	}
}

// A gateway receives notifications like the push service of an app.
type gateway struct {
	URL string

	mu  sync.Mutex
	got []push
}

type push struct {
	gjson.Result
	at time.Time
}

func newGateway(t *testing.T) *gateway {
	g := new(gateway)
	s := httptest.NewTLSServer(g)
	t.Cleanup(s.Close)
	g.URL = s.URL + "/_matrix/push/v1/notify"
	return g
}

func (g *gateway) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	at := time.Now()
	body, _ := io.ReadAll(req.Body)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.got = append(g.got, push{gjson.GetBytes(body, "notification"), at})
	w.Write([]byte(`{"rejected":[]}`)) //nolint:errcheck // the server may be gone
}

// register makes the server send the user's notifications to the gateway, under the user's name.
func (g *gateway) register(t *testing.T, u *rig.User) {
	t.Helper()
	wants(t, u.Do(http.MethodPost, rig.Path("pushers", "set"), nil, map[string]any{
		"app_id": "app", "pushkey": u.ID, "kind": "http", "app_display_name": "app", "device_display_name": "phone", "lang": "en",
		"data": map[string]any{"url": g.URL},
	}), 200, "")
}

// find returns the notification of an event to a user, if there is one.
func (g *gateway) find(u *rig.User, event string) (push, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	i := slices.IndexFunc(g.got, func(p push) bool {
		return p.Get("devices.0.pushkey").Str == u.ID && p.Get("event_id").Str == event
	})
	if i < 0 {
		return push{}, false
	}
	return g.got[i], true
}

func (g *gateway) wait(t *testing.T, u *rig.User, event string) push {
	t.Helper()
	var p push
	eventually(t, u.ID+" is notified of "+event, func() (ok bool) {
		p, ok = g.find(u, event)
		return ok
	})
	return p
}

func tweaks(p push) string { return p.Get("devices.0.tweaks").Raw }

// testRinging: a call wakes the phones of the mentioned users, and of nobody else.
func testRinging(t *testing.T, s *rig.Server) {
	alice, bob, carol := s.Register(t, "anna"), s.Register(t, "bert"), s.Register(t, "cora")
	room := alice.CreateRoom(nil)
	g := newGateway(t)
	for _, u := range []*rig.User{bob, carol} {
		u.Join(room)
		g.register(t, u)
	}
	mentions := func(content map[string]any) map[string]any {
		return map[string]any{"m.mentions": content, "notification_type": "ring", "lifetime": 90000, "sender_ts": time.Now().UnixMilli()}
	}
	toBob, toAll := map[string]any{"user_ids": []string{bob.ID}}, map[string]any{"room": true}
	var quickest time.Duration
	var silent []string // events of which Carol is not notified
	for n := range 10 {
		start := time.Now()
		event := alice.Send(room, ring, mentions(toBob))
		silent = append(silent, event)
		took := g.wait(t, bob, event).at.Sub(start)
		if quickest == 0 || took < quickest {
			quickest = took
		}
		if quickest < 2*time.Second {
			t.Logf("push %d after %s", n+1, took)
			break
		}
	}
	if quickest >= 2*time.Second {
		t.Errorf("the quickest push took %s", quickest)
	}
	invite := alice.Send(room, "m.rtc.invite", mentions(toBob))
	if p := g.wait(t, bob, invite); tweaks(p) != `{"sound":"ring"}` {
		t.Errorf("tweaks of an invitation: %s", tweaks(p))
	}
	silent = append(silent, invite,
		bob.Send(room, ring, mentions(toAll)), // has no power to do so
		alice.Send(room, ring, mentions(map[string]any{"room": "true", "user_ids": []any{1, carol.ID + "x"}})),
		alice.Send(room, "m.room.message", map[string]any{"body": "* edit", "m.relates_to": map[string]any{"rel_type": "m.replace", "event_id": invite}}))
	named := alice.Send(room, "m.room.message", map[string]any{"body": "cora and @room", "m.mentions": map[string]any{}})
	for _, kind := range []string{ring, "m.rtc.invite"} {
		event := alice.Send(room, kind, mentions(toAll))
		g.wait(t, bob, event)
		g.wait(t, carol, event)
	}
	if p := g.wait(t, carol, named); strings.Contains(tweaks(p), "highlight") {
		t.Errorf("somebody who is named but not mentioned gets %s", p.Raw)
	}
	for n, event := range silent {
		if p, ok := g.find(carol, event); ok {
			t.Errorf("notified of no. %d: %s", n, p.Raw)
		}
	}
	counts := fmt.Sprintf("rooms.join.%s.unread_notifications.highlight_count", strings.ReplaceAll(room, ".", `\.`))
	eventually(t, "one highlight is counted", func() bool {
		return carol.Do(http.MethodGet, rig.Path("sync"), nil, nil).JSON.Get(counts).Int() == 1
	})
}
