package clientapi

import (
	"strings"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
	fconfig "github.com/matrix-org/dendrite/futures/setup/config"
)

// The numbers in the names of these tests are those of docs/gen2-requirements.md.

func TestGen2Body(t *testing.T) {
	for _, c := range []struct {
		name, body string
		code       int // on the stable path
		errcode    string
	}{
		{"3.1 message", `{"delay_ms":10,"content":{"a":1}}`, 200, ""},
		{"3.1 state", `{"delay_ms":10,"content":{"a":1},"state_key":"k"}`, 200, ""},
		{"3.1 empty state key", `{"delay_ms":10,"content":{"a":1},"state_key":""}`, 200, ""},
		{"3.1 what else there is", `{"delay_ms":10,"content":{"a":1},"delay":"x","Content":1,"x":null}`, 200, ""},
		{"3.7 zero", `{"delay_ms":0,"content":{}}`, 400, "M_INVALID_PARAM"},
		{"3.7 negative", `{"delay_ms":-1,"content":{}}`, 400, "M_INVALID_PARAM"},
		{"3.7 fraction", `{"delay_ms":1.5,"content":{}}`, 400, "M_INVALID_PARAM"},
		{"3.7 exponent", `{"delay_ms":1e3,"content":{}}`, 400, "M_INVALID_PARAM"},
		{"3.7 a string", `{"delay_ms":"10","content":{}}`, 400, "M_INVALID_PARAM"},
		{"3.7 null", `{"delay_ms":null,"content":{}}`, 400, "M_INVALID_PARAM"},
		{"3.7 no delay", `{"content":{}}`, 400, "M_MISSING_PARAM"},
		{"3.7 wrong case", `{"Delay_MS":10,"content":{}}`, 400, "M_MISSING_PARAM"},
		{"3.7 no content", `{"delay_ms":10}`, 400, "M_MISSING_PARAM"},
		{"3.7 content null", `{"delay_ms":10,"content":null}`, 400, "M_INVALID_PARAM"},
		{"3.7 content an array", `{"delay_ms":10,"content":[]}`, 400, "M_INVALID_PARAM"},
		{"3.7 state key a number", `{"delay_ms":10,"content":{},"state_key":1}`, 400, "M_INVALID_PARAM"},
		{"3.7 state key null", `{"delay_ms":10,"content":{},"state_key":null}`, 400, "M_INVALID_PARAM"},
		{"3.7 state key with NUL", `{"delay_ms":10,"content":{},"state_key":"\u0000"}`, 400, "M_INVALID_PARAM"},
		{"3.7 not JSON", `{`, 400, "M_NOT_JSON"},
		{"3.7 no body", ``, 400, "M_NOT_JSON"},
		{"3.7 an array", `[]`, 400, "M_BAD_JSON"},
		{"3.7 a key twice", `{"delay_ms":10,"content":{"a":1,"a":2}}`, 400, "M_BAD_JSON"},
		{"too large", `{"delay_ms":10,"content":{"a":"` + strings.Repeat("x", maxBody) + `"}}`, 413, "M_TOO_LARGE"},
	} {
		for _, version := range []string{"/v3", unstable} {
			t.Run(c.name+" "+version, func(t *testing.T) {
				h := newHarness()
				a := h.do("PUT", client+version+"/rooms/%21r%3Atest/delayed_event/a%2Fb/t1", "alice", c.body)
				if c.code != 200 {
					a.want(t, c.code, c.errcode)
					if len(h.created) > 0 {
						t.Error("created nevertheless")
					}
					return
				}
				id := a.delayID(t)
				f := h.created[0]
				if f.GroupID != id || f.RoomID != room || f.Type != "a/b" || f.Timeout != 10*time.Millisecond ||
					string(f.Content) != `{"a":1}` || f.Policy != api.Managed || f.TxnID != "" {
					t.Errorf("got %+v", f)
				}
				_, key, isState := strings.Cut(c.body, `"state_key":"`)
				if isState != (f.StateKey != nil) || isState && *f.StateKey != strings.TrimSuffix(key, `"}`) {
					t.Errorf("state key %v", f.StateKey)
				}
			})
		}
	}
}

func TestGen2Request(t *testing.T) {
	t.Run("10 the old name, on the unstable path alone", func(t *testing.T) {
		h := newHarness()
		const path, body = "/rooms/!r:test/delayed_event/m/t1", `{"delay":20,"content":{}}`
		h.do("PUT", client+unstable+path, "alice", body).delayID(t)
		if h.created[0].Timeout != 20*time.Millisecond {
			t.Error(h.created[0].Timeout)
		}
		h.do("PUT", client+"/v3"+path+"x", "alice", body).want(t, 400, "M_MISSING_PARAM")
	})
	t.Run("4.7 cancelling is configured, for state alone", func(t *testing.T) {
		h := newHarness(func(c *fconfig.FutureServer) { c.DelayedEvents.CancelOnOthersState = true })
		h.do("PUT", rooms+"delayed_event/m/t1", "alice", `{"delay_ms":10,"content":{}}`).delayID(t)
		h.do("PUT", rooms+"delayed_event/m/t2", "alice", `{"delay_ms":10,"content":{},"state_key":""}`).delayID(t)
		if h.created[0].Policy != api.Managed || h.created[1].Policy != api.Managed|api.CancelOnOthersState {
			t.Errorf("policies %v, %v", h.created[0].Policy, h.created[1].Policy)
		}
	})
	t.Run("1.1 paths and methods", func(t *testing.T) {
		h := newHarness()
		for _, version := range []string{"/v3", unstable} {
			path := client + version + "/rooms/!r:test/delayed_event/m/t1"
			if a := h.do("OPTIONS", path, "", ""); a.code != 200 || a.header.Get("Access-Control-Allow-Origin") != "*" {
				t.Errorf("CORS: %d", a.code)
			}
			h.do("POST", path, "alice", "{}").want(t, 405, "M_UNRECOGNIZED")
		}
		h.do("PUT", client+"/v1/rooms/!r:test/delayed_event/m/t1", "alice", "{}").want(t, 404, "M_UNRECOGNIZED")
	})
	t.Run("3.6 switched off", func(t *testing.T) {
		for _, change := range []func(*fconfig.FutureServer){
			delayOff, func(c *fconfig.FutureServer) { c.DelayedEvents.MaxScheduled = 0 }, func(c *fconfig.FutureServer) { c.Enabled = false },
		} {
			h := newHarness(change)
			for _, version := range []string{"/v3", unstable} {
				a := h.do("PUT", client+version+"/rooms/!r:test/delayed_event/m/t1", "alice", `{"delay_ms":10,"content":{}}`)
				a.want(t, 403, "M_FORBIDDEN")
			}
		}
	})
}
