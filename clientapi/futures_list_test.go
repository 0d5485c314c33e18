package clientapi

import (
	"encoding/json"
	"errors"
	"testing"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
)

func TestList(t *testing.T) {
	paths := []string{}
	for _, prefix := range []string{"v3", "r0", "v1", "unstable/org.matrix.msc4140", "unstable/io.element.msc3140"} {
		paths = append(paths, client+"/"+prefix+"/future", client+"/"+prefix+"/futures")
	}
	message, action := timeoutFuture(alice), timeoutFuture(alice)
	action.Timeout, action.Deadline = 0, 0
	h := newHarness()
	h.listed = []*api.Future{message, action}
	var want string
	for _, path := range paths {
		t.Run("6.1 "+path, func(t *testing.T) {
			a := h.do("GET", path, "alice", "").wantOK(t)
			if want == "" {
				want = a.body
			}
			if a.body != want {
				t.Errorf("got %s", a.body)
			}
			h.do("GET", path, "", "").want(t, 401, "M_MISSING_TOKEN")
			h.do("GET", path, "nobody", "").want(t, 401, "M_UNKNOWN_TOKEN")
			if a := h.do("OPTIONS", path, "", ""); a.code != 200 || a.header.Get("Access-Control-Allow-Origin") != "*" {
				t.Errorf("CORS: %d", a.code)
			}
			if a := h.do("PUT", path, "alice", ""); a.code != 405 {
				t.Errorf("PUT: %d", a.code)
			}
		})
	}
	t.Run("6.2 a bare array, 6.4 live tokens, 6.5 in the core's order", func(t *testing.T) {
		var list []map[string]json.RawMessage
		if err := json.Unmarshal([]byte(want), &list); err != nil || len(list) != 2 {
			t.Fatalf("%v: %s", err, want)
		}
		for i, f := range []*api.Future{message, action} {
			response, _ := json.Marshal(tokensOf(f))
			if len(list[i]) != 3 || string(list[i]["response"]) != string(response) || string(list[i]["body"]) != `{"body":"bye"}` {
				t.Errorf("element %d: %s", i, list[i])
			}
		}
	})
	t.Run("6.5 other users see nothing, 6.6 as []", func(t *testing.T) {
		for _, other := range []string{"bob", "guest"} {
			if a := h.do("GET", paths[0], other, ""); a.code != 200 || a.body != "[]" {
				t.Errorf("got %d %s", a.code, a.body)
			}
		}
	})
	t.Run("6.1 of all devices", func(t *testing.T) {
		if a := h.do("GET", paths[0], "alice2", ""); a.body != want {
			t.Errorf("got %s", a.body)
		}
	})
	t.Run("failure", func(t *testing.T) {
		h.fail = errors.New("disk full")
		h.do("GET", paths[0], "alice", "").want(t, 500, "M_UNKNOWN")
	})
}

// 6.3: the URL repeats the request: sent again, it schedules the same future.
func TestListURL(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*api.Future)
		want   string
	}{
		{"timeout future", func(*api.Future) {},
			"/_matrix/client/v3/rooms/%21r:test/send_future/m.room.message/t1?future_timeout=10000&future_group_id=g"},
		{"action future", func(f *api.Future) { f.Timeout = 0 },
			"/_matrix/client/v3/rooms/%21r:test/send_future/m.room.message/t1?future_group_id=g"},
		{"state", func(f *api.Future) { f.StateKey, f.TxnID = ptr("@u:h"), "" },
			"/_matrix/client/v3/rooms/%21r:test/state_future/m.room.message/@u:h?future_timeout=10000&future_group_id=g"},
		{"empty state key", func(f *api.Future) { f.StateKey, f.TxnID = ptr(""), "" },
			"/_matrix/client/v3/rooms/%21r:test/state_future/m.room.message/?future_timeout=10000&future_group_id=g"},
		{"all that needs encoding", func(f *api.Future) { f.Type, f.TxnID, f.GroupID = "a/b?c", "#d%e ü", `"g" &=+;` },
			"/_matrix/client/v3/rooms/%21r:test/send_future/a%2Fb%3Fc/%23d%25e%20%C3%BC?future_timeout=10000&future_group_id=%22g%22+%26%3D%2B%3B"},
	} {
		t.Run("6.3 "+c.name, func(t *testing.T) {
			f := timeoutFuture(alice)
			c.change(f)
			got := requestURL(f)
			if got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
			h := newHarness()
			h.put(got).wantOK(t)
			again := h.created[0]
			if again.RoomID != f.RoomID || again.Type != f.Type || again.TxnID != f.TxnID || again.GroupID != f.GroupID ||
				again.Timeout != f.Timeout || f.StateKey != nil && *again.StateKey != *f.StateKey {
				t.Errorf("it would schedule %+v", again)
			}
		})
	}
}
