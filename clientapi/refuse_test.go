package clientapi

import (
	"strings"
	"testing"

	fconfig "github.com/matrix-org/dendrite/futures/setup/config"
)

func TestRefuse(t *testing.T) {
	type request struct{ method, path string }
	var requests []request
	for _, version := range []string{"/v3", "/r0"} {
		rooms := client + version + "/rooms/!r:test"
		requests = append(requests,
			request{"PUT", rooms + "/send/m.room.message/t1"},
			request{"POST", rooms + "/send/m.room.message"},
			request{"PUT", rooms + "/state/m.room.topic"},
			request{"PUT", rooms + "/state/m.room.topic/"},
			request{"PUT", rooms + "/state/m.room.topic/key"},
			request{"PUT", rooms + "/state/a%2Fb/c%2Fd"},
		)
	}
	for _, enabled := range []bool{true, false} {
		h := newHarness(unlimited, func(c *fconfig.FutureServer) { c.Enabled = enabled })
		for _, r := range requests {
			for _, query := range []string{
				"future_timeout=10", "future_timeout=", "future_timeout", "future_group_id=g", "a=b&future_group_id=g",
				"org.matrix.msc4140.future_timeout=10", "org.matrix.msc4140.future_group_id=g",
				"f%75ture_timeout=10", "future_timeout=%zz", "a=b;future_timeout=10", "future_timeout=10;a", "%zz&future_timeout",
			} {
				t.Run("9 refused: "+r.method+" "+r.path+" "+query, func(t *testing.T) {
					a := h.do(r.method, r.path+"?"+query, "alice", "{}")
					a.want(t, 400, "M_INVALID_PARAM")
					if strings.Contains(a.body, "stock") {
						t.Error("it reached Dendrite")
					}
				})
			}
			for _, query := range []string{
				"", "?", "?ts=1000", "?delay=1000", "?parent_delay_id=x", "?xfuture_timeout=1", "?a=future_timeout", "?timeout=1",
				"?future_timeout2=1", "?future%5Ftimeou", "?user_id=future_group_id",
			} {
				t.Run("9 left alone: "+r.method+" "+r.path+query, func(t *testing.T) {
					if a := h.do(r.method, r.path+query, "", "{"); a.code != 200 || a.body != `{"stock":true}` {
						t.Errorf("got %d %s", a.code, a.body)
					}
				})
			}
		}
	}
	t.Run("9 reading state is left alone", func(t *testing.T) {
		for _, path := range []string{"m.room.topic", "m.room.topic/", "m.room.topic/key"} {
			a := newHarness().do("GET", client+"/v3/rooms/!r:test/state/"+path+"?future_timeout=10", "alice", "")
			if a.code != 200 || a.body != `{"stock":true}` {
				t.Errorf("got %d %s", a.code, a.body)
			}
		}
	})
	t.Run("8 batches are plain events of type future", func(t *testing.T) {
		if a := newHarness().put(client + "/v3/rooms/!r:test/send/future/t1"); a.body != `{"stock":true}` {
			t.Errorf("got %d %s", a.code, a.body)
		}
	})
	t.Run("9 without credentials it is 401 as ever", func(t *testing.T) {
		newHarness().do("PUT", requests[0].path+"?future_timeout=10", "", "{}").want(t, 401, "M_MISSING_TOKEN")
	})
}

// TestRefuseRedaction: a redaction that is to be delayed is never sent at once (generation 1, 3.12).
func TestRefuseRedaction(t *testing.T) {
	for _, enabled := range []bool{true, false} {
		h := newHarness(unlimited, func(c *fconfig.FutureServer) { c.Enabled = enabled })
		for _, version := range []string{"/v3", "/r0"} {
			rooms := client + version + "/rooms/!r:test/redact/$event"
			for path, method := range map[string]string{rooms: "POST", rooms + "/t1": "PUT"} {
				for _, query := range []string{
					"org.matrix.msc4140.delay=10", "org.matrix.msc4140.delay", "org.matrix.msc4140%2Edelay=0",
					"org.matrix.msc4140.parent_delay_id=x", "future_timeout=10", "org.matrix.msc4140.future_group_id=g",
				} {
					a := h.do(method, path+"?"+query, "alice", "{}")
					a.want(t, 400, "M_INVALID_PARAM")
					if strings.Contains(a.body, "stock") {
						t.Errorf("%s %s?%s reached Dendrite", method, path, query)
					}
				}
				if a := h.do(method, path+"?ts=1", "", "{"); a.body != `{"stock":true}` {
					t.Errorf("%s %s: got %d %s", method, path, a.code, a.body)
				}
			}
		}
	}
}
