package clientapi

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
)

// FuzzRequests sends arbitrary requests to all paths. No answer may be a 5xx, and JSON answers must be valid.
func FuzzRequests(f *testing.F) {
	for _, r := range [][4]string{
		{"PUT", "/v3/rooms/!r:test/send_future/m.room.message/t1", "future_timeout=10&future_group_id=g", `{"body":"hi"}`},
		{"PUT", "/unstable/org.matrix.msc4140/rooms/!r:test/state_future/a%2Fb/k", "future_timeout=1e3", `{"a":[1,{"b":null}]}`},
		{"PUT", "/v3/rooms/!r:test/state/m.room.topic/", "org.matrix.msc4140.delay=10", `{}`},
		{"PUT", "/v3/rooms/!r:test/redact/$e/t", "org.matrix.msc4140.delay=10", `{}`},
		{"PUT", "/unstable/org.matrix.msc4140/rooms/!r:test/delayed_event/m.room.message/t", "", `{"delay_ms":10,"content":{}}`},
		{"POST", "/unstable/org.matrix.msc4140/delayed_events/AAAAAAAAAAAAAAAAAAAAAA", "", `{"action":"restart"}`},
		{"POST", "/v1/delayed_events/AAAAAAAAAAAAAAAAAAAAAA/send", "access_token=alice", ``},
		{"GET", "/v1/delayed_events", "status=finalised&from=1&limit=x", ``},
		{"POST", "/v3/futures/AAAAAAAAAAAAAAAAAAAAAA", "", ``},
		{"GET", "/v3/futures", "", ``},
	} {
		f.Add(r[0], r[1], r[2], r[3])
	}
	f.Fuzz(func(t *testing.T, method, path, query, body string) {
		u, err := url.Parse(client + path)
		if err != nil || u.Host != "" || !strings.HasPrefix(u.Path, "/") {
			return
		}
		u.RawQuery = query
		req, err := http.NewRequest(method, u.String(), strings.NewReader(body))
		if err != nil {
			return
		}
		req.RequestURI = u.RequestURI()
		req.RemoteAddr = "192.0.2.1:1234"
		req.Header.Set("Authorization", "Bearer alice")
		rec := httptest.NewRecorder()
		h := newHarness()
		h.router.ServeHTTP(rec, req)
		if rec.Code >= http.StatusInternalServerError {
			t.Errorf("%d %s", rec.Code, rec.Body)
		}
		if rec.Header().Get("Content-Type") == "application/json" && rec.Body.Len() > 0 && !json.Valid(rec.Body.Bytes()) {
			t.Errorf("%d, and no JSON: %s", rec.Code, rec.Body)
		}
	})
}
