package clientapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
	fconfig "github.com/matrix-org/dendrite/futures/setup/config"
)

const (
	unstableAt = client + "/unstable/org.matrix.msc4140/delayed_events/"
	stableAt   = client + "/v1/delayed_events/"
)

func closed(c *fconfig.FutureServer) { c.DelayedEvents.OpenManagement = false }

// event adds a delayed event of alice in that state and returns it.
func (h *harness) event(s api.State) *api.Future {
	f := timeoutFuture(alice)
	f.NID, f.State, f.Policy = api.NID(len(h.events)+1), s, api.Managed
	f.Created -= 60_000 // it has been restarted since
	f.GroupID = f.Token(api.GroupToken).String()
	switch s {
	case api.Sent, api.Sending:
		f.Event = &api.Event{ID: "$sent"}
	case api.Failed:
		f.Failure = &api.Refusal{Kind: api.Forbidden, Message: "no power"}
	}
	if !s.Live() {
		f.Finished = 1_700_000_005_000
	}
	h.events = append(h.events, f)
	return f
}

// TestOutcomes is the table of docs/gen2-requirements.md, 5.2, on both paths.
func TestOutcomes(t *testing.T) {
	for _, c := range []struct {
		state               api.State
		send, cancel, again int // status codes on the stable path
		cancelUnstable      int // 0: as on the stable path
	}{
		{api.Scheduled, 200, 200, 200, 0},
		{api.Sent, 200, 409, 409, 0},
		{api.Sending, 200, 409, 409, 0},
		{api.Cancelled, 409, 200, 409, 0},
		{api.Failed, 409, 200, 409, 0},
		{api.Discarded, 409, 200, 409, 0},
		{api.Invalidated, 409, 200, 409, 404},
		{0, 404, 404, 404, 0}, // no such event
	} {
		for name, code := range map[string]int{"send": c.send, "cancel": c.cancel, "restart": c.again} {
			t.Run(fmt.Sprintf("5.2 %s of one that is %s", name, c.state), func(t *testing.T) {
				h := newHarness(unlimited)
				id := api.NewSecret().Token(api.GroupToken).String()
				if c.state != 0 {
					id = h.event(c.state).GroupID
				}
				check := func(a answer, code int, conflict string) {
					t.Helper()
					want := map[int]string{200: "", 404: "M_NOT_FOUND", 409: conflict}[code]
					if a.code != code || a.errcode() != want || code == 200 && a.body != "{}" || a.header.Get("Content-Type") != "application/json" {
						t.Errorf("got %d %s, want %d", a.code, a.body, code)
					}
				}
				check(h.do("POST", stableAt+id+"/"+name, "alice", ""), code, "M_UNKNOWN")
				if code == 409 {
					code = 404
				}
				if name == "cancel" && c.cancelUnstable != 0 {
					code = c.cancelUnstable
				}
				for _, token := range []string{"alice", ""} {
					check(h.do("POST", unstableAt+id+"/"+name, token, "{}"), code, "")
					check(h.do("POST", unstableAt+id, token, `{"action":"`+name+`"}`), code, "")
				}
			})
		}
	}
}

// A managementRequest is a request and its expected answer. id is that of a scheduled event of alice.
type managementRequest struct {
	name, path, token, body string
	code                    int
	errcode                 string
}

func managementRequests(id string) []managementRequest {
	return []managementRequest{

		{"gen1 4.3 no body", unstableAt + id + "/restart", "", "", 200, ""},
		{"gen1 4.3 empty object", unstableAt + id + "/restart", "", "{}", 200, ""},
		{"gen2 5.1 any body", stableAt + id + "/restart", "alice", "[", 200, ""},
		{"gen1 4.5 G3 no body", unstableAt + id, "", "", 400, "M_NOT_JSON"},
		{"gen1 4.5 G3 no JSON", unstableAt + id, "", "{", 400, "M_NOT_JSON"},
		{"gen1 4.5 G3 empty object", unstableAt + id, "", "{}", 400, "M_MISSING_PARAM"},
		{"gen1 4.5 G3 unknown action", unstableAt + id, "", `{"action":"oops"}`, 400, "M_INVALID_PARAM"},
		{"gen1 4.5 G3 no text", unstableAt + id, "", `{"action":1}`, 400, "M_INVALID_PARAM"},
		{"gen1 4.5 G3 too large", unstableAt + id, "", strings.Repeat(" ", maxBody+1), 413, "M_TOO_LARGE"},
		{"gen1 4.5 G3 unknown ID", unstableAt + "abc", "", `{"action":"send"}`, 404, "M_NOT_FOUND"},
		{"gen1 4.4 unknown action", unstableAt + "abc/oops", "", "", 404, "M_UNRECOGNIZED"},
		{"gen1 4.4 unknown action of one that exists", unstableAt + id + "/oops", "alice", "", 404, "M_UNRECOGNIZED"},
		{"gen2 5.5 unknown action", stableAt + id + "/oops", "alice", "", 404, "M_UNRECOGNIZED"},
		{"gen1 8 no action in the body on the stable path", stableAt + id, "alice", `{"action":"send"}`, 404, "M_UNRECOGNIZED"},
		{"gen1 4.5 no ID", unstableAt, "", "{}", 404, "M_UNRECOGNIZED"},
		{"gen1 4.5 no ID, stable", stableAt, "alice", "{}", 404, "M_UNRECOGNIZED"},
		{"an empty ID", unstableAt + "/send", "", "{}", 404, "M_UNRECOGNIZED"},
		{"too deep", unstableAt + id + "/send/now", "", "{}", 404, "M_UNRECOGNIZED"},
		{"gen1 4.5 unknown ID", unstableAt + "abc/send", "", "{}", 404, "M_NOT_FOUND"},
		{"gen2 1.6 traversal", stableAt + "..%2F..%2Fx/send", "alice", "{}", 404, "M_NOT_FOUND"},
		{"gen2 5.5 somebody else's", stableAt + id + "/send", "bob", "{}", 404, "M_NOT_FOUND"},
		{"gen1 8 somebody else's", unstableAt + id + "/send", "bob", "{}", 404, "M_NOT_FOUND"},
		{"gen1 8 somebody else's, G3", unstableAt + id, "bob", `{"action":"send"}`, 404, "M_NOT_FOUND"},
		{"gen2 5.5 no token", stableAt + id + "/send", "", "{}", 401, "M_MISSING_TOKEN"},
		{"gen2 5.5 bad token", stableAt + id + "/send", "nobody", "{}", 401, "M_UNKNOWN_TOKEN"},
		{"gen1 4.6 bad token", unstableAt + id + "/send", "nobody", "{}", 401, "M_UNKNOWN_TOKEN"},
		{"gen1 4.6 bad token, G3", unstableAt + id, "nobody", `{"action":"send"}`, 401, "M_UNKNOWN_TOKEN"},
		{"gen1 4.6 bad token in the query", unstableAt + id + "/send?access_token=nobody", "", "{}", 401, "M_UNKNOWN_TOKEN"},
		{"gen1 4.6 good token in the query", unstableAt + id + "/send?access_token=alice", "", "{}", 200, ""},
		{"gen1 4.9 a guest finds no other's", unstableAt + id + "/send", "guest", "{}", 404, "M_NOT_FOUND"},
	}
}

func TestManagementRequests(t *testing.T) {
	h := newHarness(unlimited)
	id := h.event(api.Scheduled).GroupID
	t.Run("gen1 4.1 what reaches the core", func(t *testing.T) {
		for name, a := range map[string]api.Action{"send": api.Send, "cancel": api.Cancel, "restart": api.Restart} {
			for _, r := range []struct{ path, body, token, owner string }{
				{unstableAt + id + "/" + name, "", "", ""},
				{unstableAt + id + "/" + name, "", "alice2", alice},
				{unstableAt + id, `{"action":"` + name + `"}`, "", ""},
				{unstableAt + id, `{"action":"` + name + `"}`, "alice", alice},
				{stableAt + id + "/" + name, "{}", "alice", alice},
				{stableAt + "%" + fmt.Sprintf("%X", id[0]) + id[1:] + "/" + name, "{}", "alice", alice},
			} {
				h.acts = nil
				h.do("POST", r.path, r.token, r.body).wantOK(t)
				if len(h.acts) != 1 || h.acts[0] != (act{id, r.owner, a}) {
					t.Errorf("%s: %v", r.path, h.acts)
				}
			}
		}
	})
}

func TestManagementAnswers(t *testing.T) {
	h := newHarness(unlimited)
	id := h.event(api.Scheduled).GroupID
	for _, c := range managementRequests(id) {
		t.Run(c.name, func(t *testing.T) {
			a := h.do("POST", c.path, c.token, c.body)
			if a.code != c.code || a.errcode() != c.errcode || a.header.Get("Access-Control-Allow-Origin") != "*" {
				t.Errorf("got %d %s, want %d %s", a.code, a.body, c.code, c.errcode)
			}
			direct := httptest.NewRequest("POST", c.path, strings.NewReader(c.body))
			if !h.management.Matches(direct) {
				t.Fatal("Matches does not know the path")
			}
			if c.token != "" {
				direct.Header.Set("Authorization", "Bearer "+c.token)
			}
			rec := httptest.NewRecorder()
			h.management.ServeHTTP(rec, direct)
			if rec.Code != c.code {
				t.Errorf("in front of the router: %d", rec.Code)
			}
		})
	}
	t.Run("gen2 1.4 a guest's own", func(t *testing.T) {
		h.event(api.Scheduled).UserID = "@1:test"
		h.do("POST", stableAt+h.events[1].GroupID+"/send", "guest", "").wantOK(t)
	})
	t.Run("CORS", func(t *testing.T) {
		for _, path := range []string{unstableAt + id, unstableAt + id + "/send", stableAt + id + "/send"} {
			if a := h.do("OPTIONS", path, "", ""); a.code != 200 || !strings.Contains(a.header.Get("Access-Control-Allow-Headers"), "Authorization") {
				t.Errorf("%s: %d %v", path, a.code, a.header)
			}
		}
	})
	t.Run("not for this handler", func(t *testing.T) {
		for _, r := range []*http.Request{
			httptest.NewRequest("GET", unstableAt+id, nil), httptest.NewRequest("OPTIONS", stableAt+id+"/send", nil),
			httptest.NewRequest("POST", client+"/unstable/org.matrix.msc4140/delayed_events", nil),
			httptest.NewRequest("POST", client+"/v3/delayed_events/x/send", nil),
		} {
			if h.management.Matches(r) {
				t.Errorf("Matches takes %s %s", r.Method, r.URL)
			}
		}
	})
}

// If management is closed, matrix-js-sdk must proceed from call to call until it sends a token
// (docs/gen1-requirements.md, 4.4).
func TestManagementClosed(t *testing.T) {
	h := newHarness(unlimited, closed)
	id := h.event(api.Scheduled).GroupID
	h.do("POST", unstableAt+id+"/restart", "", "").want(t, 404, "M_UNRECOGNIZED")
	h.do("POST", unstableAt+id, "", `{"action":"restart"}`).want(t, 401, "M_MISSING_TOKEN")
	if len(h.acts) > 0 {
		t.Error(h.acts)
	}
	h.do("POST", unstableAt+id, "alice", `{"action":"restart"}`).wantOK(t)
	h.do("POST", unstableAt+id+"/restart", "alice", "").wantOK(t)
	h.do("POST", stableAt+id+"/restart", "alice", "").wantOK(t)
}

func TestManagementFailures(t *testing.T) {
	log := captureLog(t)
	const secretive = "@alice:test may not send to !r:test ($event)"
	for _, c := range []struct {
		name    string
		err     error
		code    int
		errcode string
	}{
		{"forbidden", &api.Refusal{Kind: api.Forbidden, Message: secretive}, 403, "M_FORBIDDEN"},
		{"room gone", &api.Refusal{Kind: api.RoomNotFound, Message: secretive}, 404, "M_NOT_FOUND"},
		{"too large", &api.Refusal{Kind: api.TooLarge, Message: secretive}, 413, "M_TOO_LARGE"},
		{"impossible", &api.Refusal{Kind: api.BadEvent, Message: secretive}, 400, "M_BAD_JSON"},
		{"internal", errors.New(secretive), 500, "M_UNKNOWN"},
		{"shutting down", api.ErrStopping, 503, "M_UNKNOWN"},
	} {
		t.Run("gen1 4.5, gen2 5.4 send that fails: "+c.name, func(t *testing.T) {
			h := newHarness(unlimited)
			h.refusal = c.err
			id := h.event(api.Scheduled).GroupID
			for _, path := range []string{unstableAt, stableAt} {
				a := h.do("POST", path+id+"/send", "alice", "")
				a.want(t, c.code, c.errcode)
				if refusal, ok := errors.AsType[*api.Refusal](c.err); ok && a.json["error"] != refusal.Message {
					t.Errorf("the owner is told %s", a.body)
				}
			}
			a := h.do("POST", unstableAt+id+"/send", "", "")
			a.want(t, c.code, c.errcode)
			if strings.ContainsAny(a.body, "@!$") {
				t.Errorf("whoever knows the ID is told %s", a.body)
			}
			if strings.Contains(log.String(), id) {
				t.Errorf("the delay_id is in the log: %s", log)
			}
		})
	}
}

func TestManagementLimits(t *testing.T) {
	h := newHarness(func(c *fconfig.FutureServer) { c.RateLimits.Token = fconfig.RateLimit{PerSecond: 0.01, Burst: 3} })
	one, two, over := h.event(api.Scheduled).GroupID, h.event(api.Scheduled).GroupID, h.event(api.Sent).GroupID
	restart := func(id string) answer { return h.do("POST", unstableAt+id+"/restart", "", "") }
	t.Run("gen1 4.7, 4.8, gen2 5.6 by delay_id", func(t *testing.T) {
		for range 3 {
			restart(one).wantOK(t)
		}
		before := len(h.acts)
		a := restart(one)
		a.want(t, 429, "M_LIMIT_EXCEEDED")
		if a.header.Get("Retry-After") != "100" || a.json["retry_after_ms"] == nil {
			t.Errorf("got %s", a.body)
		}
		h.do("POST", stableAt+one+"/restart", "alice", "").want(t, 429, "M_LIMIT_EXCEEDED") // the same bucket
		if len(h.acts) != before {
			t.Error("a limited call was carried out")
		}
		restart(two).wantOK(t)
	})
	t.Run("gen1 4.8 unknown ones by address", func(t *testing.T) {
		restart(over).want(t, 404, "M_NOT_FOUND") // does not count as unknown
		for range 5 {
			restart("abc").want(t, 404, "M_NOT_FOUND")
		}
		restart("abc").want(t, 429, "M_LIMIT_EXCEEDED")
		restart(api.NewSecret().Token(api.GroupToken).String()).want(t, 429, "M_LIMIT_EXCEEDED")
		restart(two).wantOK(t) // another user behind the same address is not affected
		if n := h.management.valid.size(); n != 3 {
			t.Errorf("%d buckets", n)
		}
	})
}

// A call's heartbeat must not allocate.
func TestManagementAllocations(t *testing.T) {
	h := newHarness(muchUsed)
	h.management.futures = allManaged{}
	req := httptest.NewRequest("POST", unstableAt+api.NewSecret().Token(0).String()+"/restart", nil)
	w := &nullWriter{header: http.Header{}}
	if n := testing.AllocsPerRun(100, func() { h.management.ServeHTTP(w, req) }); n > 0 {
		t.Errorf("%v allocations for one restart", n)
	}
	sessions := rememberedSessions{NewSessions(new(tokenUsers))}
	h.management.users, h.management.known = sessions, sessions
	req.Header.Set("Authorization", "Bearer alice")
	if n := testing.AllocsPerRun(100, func() { h.management.ServeHTTP(w, req) }); n > 0 { // the first call is not counted
		t.Errorf("%v allocations for one restart with an access token", n)
	}
}

type allManaged struct{ api.ClientAPI }

func (allManaged) PerformDelayedEventAction(context.Context, string, string, api.Action) error {
	return nil
}

func BenchmarkRestart(b *testing.B) {
	h := newHarness(muchUsed)
	h.management.futures = allManaged{}
	benchmarkHeartbeats(b, h.management, func(id string) *http.Request {
		return httptest.NewRequest("POST", unstableAt+id+"/restart", nil)
	})
}
