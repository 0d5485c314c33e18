package clientapi

import (
	"errors"
	"fmt"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
	fconfig "github.com/matrix-org/dendrite/futures/setup/config"
)

func TestLookup(t *testing.T) {
	for _, c := range []struct {
		state     api.State
		finalised string
	}{
		{api.Scheduled, ``},
		{api.Sending, ``},
		{api.Sent, `,"finalised":{"finalised_ts":1700000005000,"event_id":"$sent"}`},
		{api.Failed, `,"finalised":{"finalised_ts":1700000005000,"error":{"errcode":"M_FORBIDDEN","error":"no power"}}`},
		{api.Cancelled, `,"finalised":{"finalised_ts":1700000005000}`},
		{api.Invalidated, `,"finalised":{"finalised_ts":1700000005000}`},
		{api.Discarded, `,"finalised":{"finalised_ts":1700000005000}`},
	} {
		t.Run("gen2 6.2 "+c.state.String(), func(t *testing.T) {
			h := newHarness(unlimited)
			f := h.event(c.state)
			for _, stateKey := range []string{"", `"state_key":"",`} {
				if stateKey != "" {
					f.StateKey = ptr("")
				}
				want := `{"delay_id":"` + f.GroupID + `","room_id":"!r:test","type":"m.room.message",` + stateKey +
					`"delay_ms":10000,"delayed_since_ts":1700000000000,"content":{"body":"bye"}` + c.finalised + `}`
				for _, path := range []string{unstableAt, stableAt} {
					for _, token := range []string{"alice", "alice2"} {
						if a := h.do("GET", path+f.GroupID, token, "").wantOK(t); a.body != want {
							t.Errorf("got  %s\nwant %s", a.body, want)
						}
					}
				}
			}
		})
	}
	h := newHarness(unlimited)
	id := h.event(api.Scheduled).GroupID
	for _, path := range []string{unstableAt, stableAt} {
		t.Run("gen2 6.1, gen1 5.5 "+path, func(t *testing.T) {
			h.do("GET", path+id, "bob", "").want(t, 404, "M_NOT_FOUND")
			h.do("GET", path+"abc", "alice", "").want(t, 404, "M_NOT_FOUND")
			h.do("GET", path+"..%2F..%2Fx", "alice", "").want(t, 404, "M_NOT_FOUND") // gen2 1.6
			h.do("GET", path+"%ff", "alice", "").want(t, 404, "M_NOT_FOUND")
			h.do("GET", path+id, "", "").want(t, 401, "M_MISSING_TOKEN")
			h.do("GET", path+id, "nobody", "").want(t, 401, "M_UNKNOWN_TOKEN")
			h.do("GET", path+id, "guest", "").want(t, 404, "M_NOT_FOUND") // gen2 1.4: not 403
		})
	}
}

func TestLookupTrouble(t *testing.T) {
	h := newHarness(unlimited)
	id := h.event(api.Scheduled).GroupID
	t.Run("the error is the one that sending would have had", func(t *testing.T) {
		for kind, want := range map[api.RefusalKind]string{
			api.RoomNotFound: "M_NOT_FOUND", api.TooLarge: "M_TOO_LARGE", api.BadEvent: "M_BAD_JSON", api.Internal: "M_UNKNOWN",
		} {
			f := h.event(api.Failed)
			f.Failure = &api.Refusal{Kind: kind, Message: "x"}
			if a := h.do("GET", stableAt+f.GroupID, "alice", ""); !strings.Contains(a.body, `"error":{"errcode":"`+want+`","error":"`) {
				t.Errorf("%v: %s", kind, a.body)
			}
		}
	})
	t.Run("no delay_id in the log", func(t *testing.T) {
		log := captureLog(t)
		h.fail = errors.New("disk full")
		h.do("GET", stableAt+id, "alice", "").want(t, 500, "M_UNKNOWN")
		if log.Len() == 0 || strings.Contains(log.String(), id) {
			t.Error(log)
		}
	})
	t.Run("gen1 5.5, gen2 8.2 looking is rate limited", func(t *testing.T) {
		h := newHarness(func(c *fconfig.FutureServer) { c.RateLimits.Token = fconfig.RateLimit{PerSecond: 0.01, Burst: 2} })
		id := h.event(api.Scheduled).GroupID
		h.do("GET", stableAt+id, "alice", "").wantOK(t)
		h.do("GET", strings.TrimSuffix(unstableAt, "/"), "alice", "").wantOK(t)
		h.do("GET", stableAt+id, "alice", "").want(t, 429, "M_LIMIT_EXCEEDED")
		h.do("GET", strings.TrimSuffix(unstableAt, "/"), "alice2", "").want(t, 429, "M_LIMIT_EXCEEDED")
		h.do("GET", stableAt+id, "bob", "").want(t, 404, "M_NOT_FOUND")
	})
}

const listAt = client + "/unstable/org.matrix.msc4140/delayed_events"

// listedIDs returns which of the events, by their place in h.events, an answer lists.
func (h *harness) listedIDs(t *testing.T, a answer) (found []int) {
	t.Helper()
	for _, e := range a.wantOK(t).json["delayed_events"].([]any) {
		id := e.(map[string]any)["delay_id"]
		found = append(found, slices.IndexFunc(h.events, func(f *api.Future) bool { return f.GroupID == id }))
	}
	return found
}

func TestListDelayed(t *testing.T) {
	t.Run("gen1 5.1, 5.2 one element", func(t *testing.T) {
		h := newHarness(unlimited)
		f := h.event(api.Scheduled)
		f.StateKey = ptr("k")
		want := `{"delayed_events":[{"delay_id":"` + f.GroupID + `","room_id":"!r:test","type":"m.room.message","state_key":"k",` +
			`"delay_ms":10000,"delayed_since_ts":1700000000000,"content":{"body":"bye"},` +
			`"delay":10000,"running_since":1700000000000,"scheduled_at":1700000000000}]}`
		for _, body := range []string{"", "{}"} { // mautrix-go sends a body with GET
			if a := h.do("GET", listAt, "alice2", body).wantOK(t); a.body != want {
				t.Errorf("got  %s\nwant %s", a.body, want)
			}
		}
		for _, other := range []string{"bob", "guest"} {
			if a := h.do("GET", listAt, other, ""); a.body != `{"delayed_events":[]}` {
				t.Errorf("%s: %s", other, a.body)
			}
		}
		h.do("GET", listAt, "", "").want(t, 401, "M_MISSING_TOKEN")
		h.do("GET", listAt, "nobody", "").want(t, 401, "M_UNKNOWN_TOKEN")
		if a := h.do("OPTIONS", listAt, "", ""); a.code != 200 || a.header.Get("Access-Control-Allow-Origin") != "*" {
			t.Errorf("CORS: %d", a.code)
		}
		h.fail = errors.New("disk full")
		h.do("GET", listAt, "alice", "").want(t, 500, "M_UNKNOWN")
	})
}

func TestListParameters(t *testing.T) {
	h := newHarness(unlimited)
	for i, state := range []api.State{api.Scheduled, api.Sent, api.Failed, api.Cancelled, api.Scheduled, api.Sending, api.Invalidated, api.Discarded} {
		f := h.event(state)
		f.Deadline -= int64(i) * 1000 // those scheduled later are due earlier
	}
	h.events[4].RoomID, h.events[4].Type = "!s:test", "m.room.topic"
	id := func(i int) string { return "delay_id=" + h.events[i].GroupID }
	for _, c := range []struct {
		name, query string
		want        []int
	}{
		{"gen1 5.1 scheduled ones by send time", "", []int{4, 0}},
		{"parameters of others mean nothing", "?user_id=x&foo=bar", []int{4, 0}},
		{"limit: by scheduling", "?limit=5", []int{0, 4}},
		{"dir=f", "?dir=f", []int{0, 4}},
		{"dir=b", "?dir=b", []int{4, 0}},
		{"status=scheduled", "?status=scheduled", []int{0, 4}},
		{"status=sent", "?status=sent", []int{1}},
		{"status=failed", "?status=failed", []int{2}},
		{"status=cancelled", "?status=cancelled", []int{3, 6, 7}},
		{"status=finalised", "?status=finalised", []int{1, 2, 3, 6, 7}},
		{"two of status", "?status=sent&status=failed&dir=b", []int{2, 1}},
		{"room_id", "?room_id=%21s%3Atest", []int{4}},
		{"type", "?type=m.room.message", []int{0}},
		{"from_ts", "?from_ts=1700000007000", []int{0}},
		{"to_ts", "?to_ts=1700000006000", []int{4}},
		{"both", "?to_ts=1700000006000&from_ts=1700000006000", []int{4}},
		{"gen1 1.3 delay_id", "?" + id(0), []int{0}},
		{"gen1 1.3 delay_id of any status", "?" + id(0) + "&" + id(1) + "&delay_id=unknown", []int{0, 1}},
		{"gen1 1.3 delay_id and status", "?status=finalised&" + id(0) + "&" + id(1), []int{1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := h.do("GET", listAt+c.query, "alice", "")
			if got := h.listedIDs(t, a); !slices.Equal(got, c.want) || a.json["next_batch"] != nil {
				t.Errorf("got %v %v, want %v", got, a.json["next_batch"], c.want)
			}
		})
	}
	t.Run("bad parameters", func(t *testing.T) {
		for _, query := range []string{
			"status=", "status=oops", "status=sent&status=oops", "dir=x", "limit=0", "limit=x", "limit=-1", "limit=", "from=x", "from=0",
			"next_batch=x", "from_ts=x", "from_ts=-1", "to_ts=x",
		} {
			h.do("GET", listAt+"?"+query, "alice", "").want(t, 400, "M_INVALID_PARAM")
		}
	})
}

func TestListDelayedPages(t *testing.T) {
	h := newHarness(unlimited)
	for range 250 {
		h.event(api.Scheduled)
	}
	var forwards, backwards []int
	for i := range h.events {
		if i%5 == 0 {
			h.events[i].Type = "fifth"
		}
		forwards, backwards = append(forwards, i), append(backwards, len(h.events)-1-i)
	}
	for _, c := range []struct {
		query       string
		from        string
		pages, want int
		order       []int
	}{
		{"limit=7", "from", 36, 250, forwards},
		{"limit=7&dir=b", "from", 36, 250, backwards},
		{"limit=250", "next_batch", 1, 250, forwards},
		{"dir=f", "next_batch", 3, 250, forwards}, // 100 unless asked for
		{"limit=9999", "from", 1, 250, forwards},
		{"type=fifth&limit=7", "from", 8, 50, nil},
		{"type=fifth&limit=50", "from", 1, 50, nil},
	} {
		t.Run("gen1 5.4 "+c.query, func(t *testing.T) {
			var all []int
			pages, next := 0, ""
			for {
				a := h.do("GET", listAt+"?"+c.query+next, "alice", "")
				page := h.listedIDs(t, a)
				pages++
				all = append(all, page...)
				batch, more := a.json["next_batch"].(string)
				if !more || len(page) == 0 {
					break
				}
				next = fmt.Sprintf("&%s=%s", c.from, batch)
			}
			if pages != c.pages || len(all) != c.want || c.order != nil && !slices.Equal(all, c.order) {
				t.Errorf("%d pages, %d events: %v", pages, len(all), all)
			}
		})
	}
	t.Run("without parameters all of them", func(t *testing.T) {
		if n := len(h.listedIDs(t, h.do("GET", listAt, "alice", ""))); n != 250 {
			t.Error(n)
		}
		for range 800 {
			h.event(api.Scheduled)
		}
		a := h.do("GET", listAt, "alice", "")
		if n := len(h.listedIDs(t, a)); n != 1000 || a.json["next_batch"] == nil {
			t.Errorf("%d, then %v", n, a.json["next_batch"])
		}
	})
}

func TestDiscovery(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*fconfig.FutureServer)
		on     bool
	}{
		"on":              {unlimited, true},
		"max_delay 0":     {delayOff, false},
		"max_scheduled 0": {func(c *fconfig.FutureServer) { c.DelayedEvents.MaxScheduled = 0 }, false},
		"all off":         {func(c *fconfig.FutureServer) { c.Enabled = false }, false},
	} {
		t.Run("gen1 2.1, gen2 2.1 flags, "+name, func(t *testing.T) {
			h := newHarness(c.change)
			a := h.do("GET", client+"/versions", "", "").wantOK(t)
			want := fmt.Sprintf(`{"unstable_features":{"org.matrix.msc4140":%t,"org.matrix.msc4140.stable":%[1]t,"org.matrix.msc4222":true,"org.matrix.other":true},"versions":["v1.2"]}`, c.on)
			if a.body != want || a.header.Get("Access-Control-Allow-Origin") != "*" {
				t.Errorf("got %s", a.body)
			}
		})
		t.Run("gen1 2.3, gen2 2.2 to 2.5 capabilities, "+name, func(t *testing.T) {
			h := newHarness(c.change)
			limits := `{"max_delay_ms":0,"max_scheduled":0}`
			if c.on {
				limits = fmt.Sprintf(`{"max_delay_ms":%d,"max_scheduled":100}`, (7 * 24 * time.Hour).Milliseconds())
			}
			want := `{"capabilities":{"m.delayed_events":` + limits + `,"m.other":{"enabled":true},"org.matrix.msc4140.delayed_events":` + limits + `}}`
			for _, version := range []string{"/v3", "/r0"} {
				if a := h.do("GET", client+version+"/capabilities", "alice", "").wantOK(t); a.body != want {
					t.Errorf("got %s", a.body)
				}
				if a := h.do("GET", client+version+"/capabilities", "", ""); a.code != 401 || strings.Contains(a.body, "delayed") {
					t.Errorf("got %d %s", a.code, a.body)
				}
			}
		})
	}
	t.Run("other methods are Dendrite's", func(t *testing.T) {
		h := newHarness()
		if a := h.do("OPTIONS", client+"/versions", "", ""); a.code != 200 {
			t.Error(a.code)
		}
		h.do("PUT", client+"/versions", "", "").want(t, 405, "M_UNRECOGNIZED")
	})
	t.Run("what is no object stays as it is", func(t *testing.T) {
		for _, body := range []string{"", "x", "[]", `{"a":1}`, `{"a":[]}`, `{"b":{}}`} {
			if got := string(withMembers([]byte(body), "a", map[string]any{"x": 1})); got != body {
				t.Errorf("%s became %s", body, got)
			}
		}
		if got := string(withMembers([]byte(`{"a":{"y":2}}`), "a", map[string]any{"x": 1})); got != `{"a":{"x":1,"y":2}}` {
			t.Error(got)
		}
	})
}

// Whatever is not 404 there counts as an offer to act on delayed events for clients.
func TestNoDelegation(t *testing.T) {
	h := newHarness()
	for _, path := range []string{
		client + "/v1/rtc/livekit/delegate_delayed_leave", client + "/unstable/io.element.msc4195/rtc/livekit/delegate_delayed_leave",
	} {
		h.do("POST", path, "", "{}").want(t, 404, "M_UNRECOGNIZED")
		if h.management.Matches(httptest.NewRequest("POST", path, nil)) {
			t.Error("taken for an action")
		}
	}
}

func TestDelayedDisabled(t *testing.T) {
	h := newHarness(func(c *fconfig.FutureServer) { c.Enabled = false }, unlimited)
	h.event(api.Scheduled) // the core is not asked
	id := h.events[0].GroupID
	for _, path := range []string{unstableAt, stableAt} {
		h.do("POST", path+id+"/send", "alice", "").want(t, 404, "M_NOT_FOUND")
		h.do("GET", path+id, "alice", "").want(t, 404, "M_NOT_FOUND")
	}
	h.do("POST", unstableAt+id, "", `{"action":"send"}`).want(t, 404, "M_NOT_FOUND")
	if a := h.do("GET", listAt, "alice", ""); a.body != `{"delayed_events":[]}` {
		t.Error(a.body)
	}
	t.Run("what was scheduled before max_delay became 0 can be managed", func(t *testing.T) {
		h := newHarness(delayOff)
		h.do("POST", stableAt+h.event(api.Scheduled).GroupID+"/cancel", "alice", "").wantOK(t)
	})
}
