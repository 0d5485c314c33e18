package clientapi

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
	fconfig "github.com/matrix-org/dendrite/futures/setup/config"
)

// The numbers in the names of these tests are those of docs/gen1-requirements.md.

const (
	rooms   = client + "/v3/rooms/!r:test/"
	delay10 = "?org.matrix.msc4140.delay=10"
)

func delayOff(c *fconfig.FutureServer) { c.DelayedEvents.MaxDelay = 0 }

// delayID returns the delay_id of an answer, which must hold nothing else.
func (a answer) delayID(t *testing.T) string {
	t.Helper()
	id, _ := a.wantOK(t).json["delay_id"].(string)
	if _, ok := api.ParseToken(id); !ok || len(a.json) != 1 {
		t.Errorf("got %s", a.body)
	}
	return id
}

func TestGen1Paths(t *testing.T) {
	for _, c := range []struct {
		name, path, typ string
		stateKey        *string
	}{
		{"3.1 message", "send/m.room.message/t1", "m.room.message", nil},
		{"3.1 state", "state/m.room.topic/key", "m.room.topic", ptr("key")},
		{"1.1 no state key", "state/m.room.topic", "m.room.topic", ptr("")},
		{"1.1 empty state key", "state/m.room.topic/", "m.room.topic", ptr("")},
		{"1.1 encoded", "state/a%2Fb/st%2Fa%20te", "a/b", ptr("st/a te")},
	} {
		for _, version := range []string{"/v3", "/r0"} {
			t.Run(c.name+" "+version, func(t *testing.T) {
				h := newHarness()
				path := client + version + "/rooms/%21r%3Atest/" + c.path
				id := h.put(path + delay10).delayID(t)
				f := h.created[0]
				if f.GroupID != id || f.RoomID != room || f.Type != c.typ || f.Timeout != 10*time.Millisecond || f.UserID != alice || string(f.Content) != `{"body":"hi"}` {
					t.Errorf("got %+v", f)
				}
				if (f.StateKey == nil) != (c.stateKey == nil) || f.StateKey != nil && *f.StateKey != *c.stateKey {
					t.Errorf("state key %v", f.StateKey)
				}
				if f.Policy != api.Managed || f.TxnID != "" {
					t.Errorf("policy %v, transaction %q", f.Policy, f.TxnID)
				}
				if a := h.do("OPTIONS", path+delay10, "", ""); a.code != 200 || a.header.Get("Access-Control-Allow-Origin") != "*" {
					t.Errorf("CORS: %d", a.code)
				}
				if a := h.put(path); a.body != `{"stock":true}` {
					t.Errorf("without the parameter: %s", a.body)
				}
			})
		}
	}
	t.Run("6.3 cancelling is configured, for state alone", func(t *testing.T) {
		h := newHarness(func(c *fconfig.FutureServer) { c.DelayedEvents.CancelOnOthersState = true })
		h.put(rooms + "send/m.room.message/t1" + delay10).delayID(t)
		h.put(rooms + "state/m.room.topic" + delay10).delayID(t)
		if h.created[0].Policy != api.Managed || h.created[1].Policy != api.Managed|api.CancelOnOthersState {
			t.Errorf("policies %v, %v", h.created[0].Policy, h.created[1].Policy)
		}
	})
}

func TestGen1Delay(t *testing.T) {
	for _, c := range []struct{ name, query string }{
		{"3.4 zero", "=0"}, {"3.4 negative", "=-1"}, {"3.4 fraction", "=1.5"}, {"3.4 a word", "=soon"}, {"3.4 empty", "="},
		{"3.4 no value", ""}, {"3.4 repeated", "=10&org.matrix.msc4140.delay=10"}, {"3.4 overflow", "=9223372036854775808"},
		{"3.4 unreadable", "=10;x"}, {"3.4 badly encoded", "=%zz"}, {"3.4 in quotes", "=%2210%22"},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newHarness()
			for _, path := range []string{"send/m.room.message/t1", "state/m.room.topic", "state/m.room.topic/", "state/m.room.topic/key"} {
				h.put(rooms+path+"?org.matrix.msc4140.delay"+c.query).want(t, 400, "M_INVALID_PARAM")
			}
			if len(h.created) > 0 {
				t.Error("created nevertheless")
			}
		})
	}
	t.Run("3.4 more than a Duration", func(t *testing.T) {
		h := newHarness()
		h.put(rooms + "send/m/t?org.matrix.msc4140.delay=9223372036854775807").delayID(t)
		if h.created[0].Timeout < 1e6*time.Hour {
			t.Error(h.created[0].Timeout)
		}
	})
	for name, change := range map[string]func(*fconfig.FutureServer){
		"on": unlimited, "max_delay 0": delayOff, "max_scheduled 0": func(c *fconfig.FutureServer) { c.DelayedEvents.MaxScheduled = 0 },
		"all off": func(c *fconfig.FutureServer) { c.Enabled = false },
	} {
		t.Run("3.6 never sent at once: "+name, func(t *testing.T) {
			code, errcode := 400, "M_INVALID_PARAM"
			if name != "on" {
				code, errcode = 403, "M_FORBIDDEN"
			}
			h := newHarness(unlimited, change)
			for _, version := range []string{"/v3", "/r0"} {
				at := client + version + "/rooms/!r:test/"
				h.do("POST", at+"send/m.room.message"+delay10, "alice", "{}").want(t, code, errcode)
				h.do("POST", at+"send/m.room.message?org.matrix.msc4140.parent_delay_id=x", "alice", "{}").want(t, code, errcode)
				for _, path := range []string{"send/m.room.message/t1", "state/m.room.topic", "state/m.room.topic/key"} {
					h.put(at+path+"?org.matrix.msc4140.parent_delay_id=x").want(t, code, errcode) // 3.12
					if name != "on" {
						h.put(at+path+delay10).want(t, 403, "M_FORBIDDEN")
						h.put(at+path+"?org.matrix.msc4140.delay").want(t, 403, "M_FORBIDDEN")
					}
				}
			}
			if len(h.created) > 0 {
				t.Error("created nevertheless")
			}
		})
	}
	t.Run("3.12 beside a delay the parent is ignored", func(t *testing.T) {
		newHarness().put(rooms + "send/m/t" + delay10 + "&org.matrix.msc4140.parent_delay_id=x").delayID(t)
	})
	t.Run("3.11 sticky events are not known", func(t *testing.T) {
		newHarness().put(rooms + "send/m/t" + delay10 + "&org.matrix.msc4354.sticky_duration_ms=1000").delayID(t)
	})
	t.Run("futures and delayed events do not mix", func(t *testing.T) {
		newHarness().put(rooms+"send/m/t"+delay10+"&future_timeout=10").want(t, 400, "M_INVALID_PARAM")
	})
	t.Run("reading state is left alone", func(t *testing.T) {
		if a := newHarness().do("GET", rooms+"state/m.room.topic"+delay10, "alice", ""); a.body != `{"stock":true}` {
			t.Error(a.body)
		}
	})
}

// scheduling lists the ways to schedule the same message, by generation and path.
func scheduling() map[string]struct{ path, body string } {
	return map[string]struct{ path, body string }{
		"gen 1":          {rooms + "send/m.room.message/t1" + delay10, `{}`},
		"gen 2 stable":   {rooms + "delayed_event/m.room.message/t1", `{"delay_ms":10,"content":{}}`},
		"gen 2 unstable": {client + unstable + "/rooms/!r:test/delayed_event/m.room.message/t1", `{"delay_ms":10,"content":{}}`},
	}
}

func TestDelayedErrors(t *testing.T) {
	for _, c := range []struct {
		name       string
		err        error
		code       int
		body       string // exactly
		retryAfter string
	}{
		{"gen1 3.8, gen2 3.5 too many", &api.LimitError{Max: 100, RetryAfter: 1500 * time.Millisecond}, 429,
			`{"errcode":"M_LIMIT_EXCEEDED","error":"at most 100 futures may be scheduled at a time","retry_after_ms":1500}`, "2"},
		{"gen2 3.8 not in the room", &api.Refusal{Kind: api.Forbidden, Message: "no"}, 403, `{"errcode":"M_FORBIDDEN","error":"no"}`, ""},
		{"gen1 3.5 unknown room", &api.Refusal{Kind: api.RoomNotFound, Message: "no"}, 404, `{"errcode":"M_NOT_FOUND","error":"no"}`, ""},
		{"gen1 3.5 impossible event", &api.Refusal{Kind: api.BadEvent, Message: "no"}, 400, `{"errcode":"M_BAD_JSON","error":"no"}`, ""},
		{"anything else", errors.New("disk full"), 500, `{"errcode":"M_UNKNOWN","error":"Internal server error"}`, ""},
		{"shutting down", api.ErrStopping, 503, `{"errcode":"M_UNKNOWN","error":"The server is restarting"}`, "5"},
	} {
		for dialect, s := range scheduling() {
			t.Run(c.name+", "+dialect, func(t *testing.T) {
				h := newHarness()
				h.fail = fmt.Errorf("wrapped: %w", c.err)
				a := h.do("PUT", s.path, "alice", s.body)
				if a.code != c.code || a.body != c.body || a.header.Get("Retry-After") != c.retryAfter {
					t.Errorf("got %d %s %s", a.code, a.body, a.header.Get("Retry-After"))
				}
			})
		}
	}
	const text = `"error":"The requested delay exceeds the allowed maximum of 604800000 ms."`
	for dialect, want := range map[string]string{
		"gen 1":          `{"errcode":"M_UNKNOWN",` + text + `,"org.matrix.msc4140.errcode":"M_MAX_DELAY_EXCEEDED","org.matrix.msc4140.max_delay":604800000}`,
		"gen 2 stable":   `{"errcode":"M_DELAY_TOO_LARGE",` + text + `,"org.matrix.msc4140.max_delay":604800000}`,
		"gen 2 unstable": `{"errcode":"ORG.MATRIX.MSC4140_DELAY_TOO_LARGE",` + text + `,"org.matrix.msc4140.max_delay":604800000}`,
	} {
		t.Run("gen1 3.6 and 3.7, gen2 3.4 too long, "+dialect, func(t *testing.T) {
			h := newHarness()
			h.fail = &api.TimeoutError{Max: 7 * 24 * time.Hour}
			s := scheduling()[dialect]
			if a := h.do("PUT", s.path, "alice", s.body); a.code != 400 || a.body != want {
				t.Errorf("got  %d %s\nwant 400 %s", a.code, a.body, want)
			}
		})
	}
}

func TestDelayedUsers(t *testing.T) {
	for dialect, s := range scheduling() {
		t.Run("credentials, "+dialect, func(t *testing.T) {
			h := newHarness()
			h.do("PUT", s.path, "", s.body).want(t, 401, "M_MISSING_TOKEN")
			h.do("PUT", s.path, "nobody", s.body).want(t, 401, "M_UNKNOWN_TOKEN")
			h.do("PUT", s.path, "guest", s.body).delayID(t) // gen1 4.9, gen2 1.4
		})
		t.Run("gen1 3.9, gen2 3.10 scheduling is rate limited, "+dialect, func(t *testing.T) {
			h := newHarness(func(c *fconfig.FutureServer) { c.RateLimits.Create = fconfig.RateLimit{PerSecond: 0.1, Burst: 1} })
			h.do("PUT", s.path, "alice", s.body).delayID(t)
			a := h.do("PUT", strings.Replace(s.path, "t1", "t2", 1), "alice", s.body)
			a.want(t, 429, "M_LIMIT_EXCEEDED")
			if a.header.Get("Retry-After") != "10" || a.json["retry_after_ms"] == nil {
				t.Errorf("got %s", a.body)
			}
			for range 3 {
				h.do("PUT", s.path, "exempt", s.body).delayID(t)
			}
		})
		t.Run("gen1 3.10, gen2 3.9 ts of application services, "+dialect, func(t *testing.T) {
			h := newHarness()
			join := "?"
			if strings.Contains(s.path, "?") {
				join = "&"
			}
			h.do("PUT", s.path+join+"ts=1234&user_id=@a:test", "bridge", s.body).delayID(t)
			h.do("PUT", s.path+join+"ts=1234", "alice", s.body).delayID(t)
			if h.created[0].OriginTS != 1234 || h.created[1].OriginTS != 0 {
				t.Errorf("origin_server_ts %d and %d", h.created[0].OriginTS, h.created[1].OriginTS)
			}
			for _, bad := range []string{"x", "-1", "0", ""} {
				path := strings.Replace(s.path, "t1", "t2", 1)
				h.do("PUT", path+join+"user_id=@a:test&ts="+bad, "bridge", s.body).want(t, 400, "M_INVALID_PARAM")
			}
		})
	}
}

func TestDelayedTransactions(t *testing.T) {
	for dialect, s := range scheduling() {
		t.Run("gen1 3.3, gen2 3.3 a repeat gets the first answer, "+dialect, func(t *testing.T) {
			h := newHarness(func(c *fconfig.FutureServer) { c.RateLimits.Create = fconfig.RateLimit{PerSecond: 0.001, Burst: 2} })
			want := h.do("PUT", s.path, "alice", s.body).delayID(t)
			h.fail = errors.New("the database is on fire")
			for _, body := range []string{s.body, s.body, "", "{", `{"x":1}`, "[]"} {
				if a := h.do("PUT", s.path, "alice", body); a.delayID(t) != want {
					t.Errorf("%q: %s", body, a.body)
				}
			}
			for name, other := range map[string]string{"device": "alice2", "user": "bob"} {
				if a := h.do("PUT", s.path, other, s.body); a.code == http.StatusOK {
					t.Errorf("another %s: %d %s", name, a.code, a.body)
				}
			}
			for _, path := range []string{
				strings.Replace(s.path, "t1", "t2", 1), strings.Replace(s.path, "!r", "!s", 1), strings.Replace(s.path, "m.room.message", "m", 1),
			} {
				if a := h.do("PUT", path, "alice", ""); a.code == http.StatusOK {
					t.Errorf("%s: %s", path, a.body)
				}
			}
		})
	}
	t.Run("gen2 3.3 the spaces are apart", func(t *testing.T) {
		h := newHarness()
		s := scheduling()
		first := h.do("PUT", s["gen 1"].path, "alice", "{}").delayID(t)
		second := h.do("PUT", s["gen 2 stable"].path, "alice", s["gen 2 stable"].body).delayID(t)
		third := h.do("PUT", s["gen 2 unstable"].path, "alice", s["gen 2 unstable"].body).delayID(t)
		h.do("PUT", sending+"t1?future_timeout=10", "alice", "{}").wantOK(t)
		if first == second || second != third || len(h.created) != 3 {
			t.Errorf("%d futures", len(h.created))
		}
	})
	t.Run("gen1 3.3 state has no transactions", func(t *testing.T) {
		h := newHarness()
		first, second := h.put(rooms+"state/m.room.topic"+delay10), h.put(rooms+"state/m.room.topic"+delay10)
		if first.delayID(t) == second.delayID(t) {
			t.Error("the second request got the first delay_id")
		}
	})
}

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
