package setup

import (
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
)

func TestCheckHealth(t *testing.T) {
	reasons := []string{}
	h := newHealth(0)
	server := httptest.NewServer(h.monitor(http.NotFoundHandler()))
	defer server.Close()
	_, port, err := net.SplitHostPort(server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(t.TempDir(), "socket")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	go http.Serve(l, server.Config.Handler) //nolint:errcheck // ends with the listener
	defer l.Close()

	for _, healthy := range []bool{true, false} {
		if !healthy {
			reasons = []string{"database: has not answered for 3s"}
		}
		h.state.Store(&reasons)
		for _, where := range [][2]string{{":" + port}, {"0.0.0.0:" + port}, {"127.0.0.1:" + port}, {"localhost:" + port}, {"nowhere", socket}} {
			err := CheckHealth(t.Context(), where[0], where[1])
			if healthy && err != nil {
				t.Errorf("%v: %v", where, err)
			}
			if !healthy && (err == nil || !strings.Contains(err.Error(), reasons[0])) {
				t.Errorf("%v: %v", where, err)
			}
		}
	}
	l.Close()
	if err := CheckHealth(t.Context(), "", socket); err == nil {
		t.Error("nobody listens, and that is healthy")
	}
	for address, want := range map[string]string{"[::]:8008": "[::1]:8008", "10.0.0.1:80": "10.0.0.1:80", "nonsense": "nonsense"} {
		if got := reachable(address); got != want {
			t.Errorf("%s: %s", address, got)
		}
	}
}
