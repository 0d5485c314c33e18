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
	t.Run("filters", func(t *testing.T) {
		for query, want := range map[string]api.Filter{
			"":                          {Limit: 100},
			"?user_id=%40alice:test":    {UserID: alice, Limit: 100},
			"?room_id=!r:test&limit=5":  {RoomID: room, Limit: 5},
			"?id=9&user_id=@alice:test": {NID: 9, UserID: alice, Limit: 100},
			"?limit=100000":             {Limit: 1000},
		} {
			h.do("GET", adminPath+query, "admin", "").wantOK(t)
			if h.filter != want {
				t.Errorf("%s: filter %+v, want %+v", query, h.filter, want)
			}
		}
	})
	t.Run("bad filters", func(t *testing.T) {
		for _, query := range []string{"id=x", "id=0", "id=", "limit=0", "limit=x", "user_id=", "room_id=a&room_id=b"} {
			for _, method := range []string{"GET", "DELETE"} {
				h.do(method, adminPath+"?"+query, "admin", "").want(t, 400, "M_INVALID_PARAM")
			}
		}
	})
	t.Run("none", func(t *testing.T) {
		if a := newHarness().do("GET", adminPath, "admin", ""); !strings.Contains(a.body, `"futures":[]`) {
			t.Errorf("got %s", a.body)
		}
	})
}

func TestAdminCancel(t *testing.T) {
	h := newHarness()
	h.canceled = 3
	for query, want := range map[string]api.Filter{
		"user_id=@alice:test":                 {UserID: alice},
		"room_id=!r:test":                     {RoomID: room},
		"id=9":                                {NID: 9},
		"user_id=@alice:test&room_id=!r:test": {UserID: alice, RoomID: room},
	} {
		if a := h.do("DELETE", adminPath+"?"+query, "admin", ""); a.code != 200 || a.body != `{"cancelled":3}` || h.filter != want {
			t.Errorf("%s: %d %s, filter %+v", query, a.code, a.body, h.filter)
		}
	}
	h.filter = api.Filter{}
	h.do("DELETE", adminPath, "admin", "").want(t, 400, "M_MISSING_PARAM")
	h.do("DELETE", adminPath+"?limit=1", "admin", "").want(t, 400, "M_MISSING_PARAM")
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
