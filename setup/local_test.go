package setup

import (
	"net/http"
	"net/http/httptest"
	"testing"
)

func TestLocalKeepsWebPagesOut(t *testing.T) {
	l, err := NewLocal([]string{"example.com:8448", "192.0.2.1"}, "https://app.element.io, http://dev.example:3000/")
	if err != nil {
		t.Fatal(err)
	}
	h := l.guard(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }))
	for _, c := range []struct {
		host, origin string
		in           bool
	}{
		{"localhost", "", true},
		{"LOCALHOST:8008", "", true},
		{"localhost.", "", true},
		{"127.0.0.1:8008", "", true},
		{"127.0.0.1", "", true},
		{"[::1]:8008", "", true},
		{"[::1]", "", true},
		{"example.com:8448", "", true},
		{"example.com", "", false},
		{"192.0.2.1:8008", "", true},
		{"192.0.2.2:8008", "", false},
		{"rebound.example:8008", "", false},
		{"rebound.example:8008", "http://rebound.example:8008", false},
		{"localhost.rebound.example", "", false},
		{"127.0.0.1.rebound.example", "", false},
		{"", "", false},
		{"localhost", "http://localhost:3000", true},
		{"localhost", "https://127.0.0.1", true},
		{"localhost", "http://[::1]:3000", true},
		{"localhost", "https://app.element.io", true},
		{"localhost", "http://dev.example:3000", true},
		{"localhost", "vector://vector", true},
		{"localhost", "http://app.element.io", false},
		{"localhost", "https://app.element.io.rebound.example", false},
		{"localhost", "https://elsewhere.example", false},
		{"localhost", "http://localhost.rebound.example", false},
		{"localhost", "http://localhost@elsewhere.example", false},
		{"localhost", "null", false},
		{"localhost", "", true},
	} {
		r := httptest.NewRequest("POST", "/_matrix/client/v3/register", nil)
		r.Host = c.host
		if c.origin != "" {
			r.Header.Set("Origin", c.origin)
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if in := w.Code == http.StatusNoContent; in != c.in {
			t.Errorf("host %q, origin %q: got %d", c.host, c.origin, w.Code)
		}
		if w.Code == http.StatusForbidden && w.Header().Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("host %q, origin %q: the page may read the refusal", c.host, c.origin)
		}
	}
}

func TestLocalLetsWebPagesRead(t *testing.T) {
	h := new(Local).guard(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }))
	for method, want := range map[string]int{"GET": 204, "HEAD": 204, "OPTIONS": 204, "POST": 403, "PUT": 403, "DELETE": 403, "PATCH": 403} {
		r := httptest.NewRequest(method, "http://localhost/_matrix/client/v3/sync", nil)
		r.Header.Set("Origin", "https://elsewhere.example")
		w := httptest.NewRecorder()
		if h.ServeHTTP(w, r); w.Code != want {
			t.Errorf("%s: got %d", method, w.Code)
		}
		r.Host = "rebound.example"
		w = httptest.NewRecorder()
		if h.ServeHTTP(w, r); w.Code != http.StatusForbidden {
			t.Errorf("%s for another host: got %d", method, w.Code)
		}
	}
}

func TestOriginsAreChecked(t *testing.T) {
	for _, bad := range []string{"app.element.io", "https://", "https://a/b", "*", "https://a,b"} {
		if _, err := NewLocal(nil, bad); err == nil {
			t.Errorf("no error for %q", bad)
		}
	}
}
