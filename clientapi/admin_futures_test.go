package clientapi

import (
	"errors"
	"strings"
	"testing"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
)

const adminPath = "/_dendrite/admin/futures"

func TestAdminList(t *testing.T) {
	h := newHarness()
	topic, action := timeoutFuture(alice), timeoutFuture("@bob:test")
	topic.StateKey, topic.Type = ptr(""), "m.room.topic"
	action.NID, action.State, action.Timeout, action.Deadline = 8, api.Sending, 0, 0
	action.Policy = api.Managed
	h.listed = []*api.Future{topic, action}
	h.counts = api.Counts{Scheduled: 5, Sending: 1, Users: 2, Rooms: 3}
	t.Run("whole answer", func(t *testing.T) {
		const want = `{"counts":{"scheduled":5,"sending":1,"users":2,"rooms":3},"futures":[` +
			`{"id":7,"kind":"future","state":"scheduled","user_id":"@alice:test","room_id":"!r:test","type":"m.room.topic","state_key":"",` +
			`"timeout_ms":10000,"deadline_ts":1700000010000,"created_ts":1700000000000},` +
			`{"id":8,"kind":"delayed_event","state":"sending","user_id":"@bob:test","room_id":"!r:test","type":"m.room.message","created_ts":1700000000000}]}`
		a := h.do("GET", adminPath, "admin", "").wantOK(t)
		if a.body != want {
			t.Errorf("got  %s\nwant %s", a.body, want)
		}
		for _, f := range h.listed { // neither tokens nor content
			for _, k := range []api.TokenKind{api.SendToken, api.CancelToken, api.RefreshToken} {
				if strings.Contains(a.body, f.Token(k).String()) {
					t.Error("a token leaks")
				}
			}
		}
	})
	t.Run("finished", func(t *testing.T) {
		h := newHarness()
		failed, sent := timeoutFuture(alice), timeoutFuture(alice)
		failed.State, failed.Finished, failed.Failure = api.Failed, 5, &api.Refusal{Kind: api.Forbidden, Message: "No."}
		sent.NID, sent.State, sent.Finished, sent.Event = 8, api.Sent, 6, &api.Event{ID: "$e"}
		h.listed = []*api.Future{failed, sent}
		a := h.do("GET", adminPath+"?state=finished&limit=2", "admin", "").wantOK(t)
		for _, want := range []string{
			`"created_ts":1700000000000,"finished_ts":5,"reason":"forbidden","error":"No."}`,
			`"state":"sent"`, `"finished_ts":6,"event_id":"$e"}`, `"next":8}`,
		} {
			if !strings.Contains(a.body, want) {
				t.Errorf("%s lacks %s", a.body, want)
			}
		}
	})
	t.Run("none", func(t *testing.T) {
		if a := newHarness().do("GET", adminPath, "admin", ""); !strings.Contains(a.body, `"futures":[]`) {
			t.Errorf("got %s", a.body)
		}
	})
}

func TestAdminFilters(t *testing.T) {
	h := newHarness()
	t.Run("filters", func(t *testing.T) {
		for query, want := range map[string]api.Filter{
			"":                          {Limit: 100},
			"?user_id=%40alice:test":    {UserID: alice, Limit: 100},
			"?room_id=!r:test&limit=5":  {RoomID: room, Limit: 5},
			"?id=9&user_id=@alice:test": {NID: 9, UserID: alice, States: api.Live | api.Finished, Limit: 100},
			"?limit=100000":             {Limit: 1000},
			"?from=7&dir=b":             {After: 7, Backwards: true, Limit: 100},
			"?id=9":                     {NID: 9, States: api.Live | api.Finished, Limit: 100},
			"?id=9&state=live":          {NID: 9, States: api.Live, Limit: 100},
			"?state=failed,sending":     {States: 1<<api.Failed | 1<<api.Sending, Limit: 100},
			"?state=finished&kind=future&from_ts=5&until_ts=9": {
				States: api.Finished, Kind: api.OneOfGroup, From: 5, Until: 9, Limit: 100},
			"?kind=delayed_event": {Kind: api.DelayedKind, Limit: 100},
		} {
			h.do("GET", adminPath+query, "admin", "").wantOK(t)
			if h.filter != want {
				t.Errorf("%s: filter %+v, want %+v", query, h.filter, want)
			}
		}
	})
	t.Run("token in the query", func(t *testing.T) {
		h.do("GET", adminPath+"?access_token=admin", "", "").wantOK(t)
	})
	t.Run("bad filters", func(t *testing.T) {
		h.filter = api.Filter{}
		for _, query := range []string{
			"id=x", "id=0", "id=", "limit=0", "limit=x", "user_id=", "room_id=a&room_id=b", "user=@nobody:test", "kind=x",
			"from_ts=x", "from_ts=5&until_ts=5", "dir=x", "state=x", "state=live,", "from=x", "User_ID=@alice:test",
		} {
			for _, method := range []string{"GET", "DELETE"} {
				h.do(method, adminPath+"?room_id=!other:test&"+query, "admin", "").want(t, 400, "M_INVALID_PARAM")
			}
		}
		if h.filter != (api.Filter{}) {
			t.Errorf("asked for %+v", h.filter)
		}
		if a := h.do("DELETE", adminPath+"?room_id=!r:test&user=@nobody:test", "admin", ""); !strings.Contains(a.body, `\"user\"`) || !strings.Contains(a.body, "user_id") {
			t.Errorf("it does not say what is wrong: %s", a.body)
		}
		h.do("GET", adminPath+"?dry_run=true", "admin", "").want(t, 400, "M_INVALID_PARAM")
		h.do("DELETE", adminPath+"?id=1&dry_run=x", "admin", "").want(t, 400, "M_INVALID_PARAM")
	})
}

func TestAdminCancel(t *testing.T) {
	h := newHarness()
	h.canceled = 3
	h.listed = []*api.Future{timeoutFuture(alice), timeoutFuture(alice)}
	if a := h.do("DELETE", adminPath+"?user_id=@alice:test&dry_run=true", "admin", ""); a.body != `{"dry_run":true,"would_cancel":2}` ||
		h.filter != (api.Filter{UserID: alice, States: 1 << api.Scheduled, Limit: adminMaxLimit}) {
		t.Errorf("%d %s, filter %+v", a.code, a.body, h.filter)
	}
	for query, want := range map[string]api.Filter{
		"user_id=@alice:test":                 {UserID: alice},
		"room_id=!r:test":                     {RoomID: room},
		"id=9":                                {NID: 9},
		"user_id=@alice:test&room_id=!r:test": {UserID: alice, RoomID: room},
		"id=9&dry_run=false":                  {NID: 9},
		"room_id=!r:test&kind=future":         {RoomID: room, Kind: api.OneOfGroup},
	} {
		want.States = 1 << api.Scheduled
		if a := h.do("DELETE", adminPath+"?"+query, "admin", ""); a.code != 200 || a.body != `{"cancelled":3}` || h.filter != want {
			t.Errorf("%s: %d %s, filter %+v", query, a.code, a.body, h.filter)
		}
	}
	h.filter = api.Filter{}
	h.do("DELETE", adminPath, "admin", "").want(t, 400, "M_MISSING_PARAM")
	h.do("DELETE", adminPath+"?limit=1", "admin", "").want(t, 400, "M_INVALID_PARAM")
	for _, query := range []string{"kind=future", "from_ts=1", "dry_run=true"} { // would match too many futures
		h.do("DELETE", adminPath+"?"+query, "admin", "").want(t, 400, "M_MISSING_PARAM")
	}
	if h.filter != (api.Filter{}) {
		t.Errorf("cancelled %+v", h.filter)
	}
}

func TestAdminAccess(t *testing.T) {
	h := newHarness()
	for _, method := range []string{"GET", "DELETE"} {
		for _, nobody := range []string{"alice", "guest", "exempt", "bridge"} {
			if a := h.do(method, adminPath+"?user_id=@alice:test", nobody, ""); a.code != 403 {
				t.Errorf("%s by %s: %d", method, nobody, a.code)
			}
		}
		h.do(method, adminPath+"?id=1", "", "").want(t, 401, "M_MISSING_TOKEN")
		h.fail = errors.New("disk full")
		h.do(method, adminPath+"?id=1", "admin", "").want(t, 500, "M_UNKNOWN")
		h.fail = nil
	}
}
