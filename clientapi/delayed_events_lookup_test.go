package clientapi

import (
	"errors"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

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

// listedIDs returns the indices in h.events of the events in an answer.
func (h *harness) listedIDs(t *testing.T, a answer) (found []int) {
	t.Helper()
	for _, e := range a.wantOK(t).json["delayed_events"].([]any) {
		id := e.(map[string]any)["delay_id"]
		found = append(found, slices.IndexFunc(h.events, func(f *api.Future) bool { return f.GroupID == id }))
	}
	return found
}

// Clients take any status but 404 as an offer to act on delayed events for them.
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
	h.event(api.Scheduled) // the core must not be asked
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
