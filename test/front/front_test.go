// Package front tests the server's HTTP side from outside: clients that stop in the middle of a request, answers that
// must not be cached, browsers.
package front

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/futures/test/rig"
)

func TestMain(m *testing.M) { rig.Main(m) }

func dial(t *testing.T, server *rig.Server, from string) net.Conn {
	t.Helper()
	d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(from), 0))}
	c, err := d.DialContext(t.Context(), "tcp", strings.TrimPrefix(server.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// One client opens more connections than the server may have files, and sends half a request on each. Heartbeats of
// others still work, also on new connections.
func TestHalfOpenRequests(t *testing.T) {
	server := rig.New(t, rig.Config{Descriptors: 1024})
	alice := server.Register(t, "alice")
	f := alice.SendFuture(alice.CreateRoom(nil), "m.room.message", map[string]any{"body": "x"}, rig.Params{Timeout: 5 * time.Minute})
	for _, from := range []string{"127.0.0.2", "127.0.0.1"} {
		var attack []net.Conn
		for i := range 1100 {
			half := "POST /_matrix/client/v3/login HTTP/1.1\r\nHost: localhost\r\n"
			if i%2 == 0 && from != "127.0.0.1" { // from the address of the heartbeats they would block these for a while
				half += "Content-Length: 9\r\n\r\n{"
			}
			c := dial(t, server, from)
			io.WriteString(c, half) //nolint:errcheck // the server may have had enough
			attack = append(attack, c)
		}
		for range 5 {
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			fresh := rig.Client{URL: server.URL, HTTP: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}}
			begin := time.Now()
			r, err := fresh.Do(ctx, http.MethodPost, rig.Path("futures", f.Refresh), nil, "{}")
			cancel()
			if err != nil || r.Status != http.StatusOK {
				t.Fatalf("a heartbeat while %s has 1100 half requests: %d %v", from, r.Status, err)
			}
			t.Logf("while %s has 1100 half requests a heartbeat takes %s", from, time.Since(begin).Round(time.Millisecond))
		}
		for _, c := range attack {
			c.Close()
		}
	}
}

// An action whose body never ends is not done: its client gets no answer in time, so it must not be done afterwards.
func TestUnfinishedAction(t *testing.T) {
	server := rig.New(t, rig.Config{})
	alice := server.Register(t, "alice")
	room := alice.CreateRoom(nil)
	f := alice.SendFuture(room, "m.room.message", map[string]any{"body": "due"}, rig.Params{Timeout: 4 * time.Second})
	for _, framing := range []string{"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n", "Content-Length: 2\r\n\r\n{"} {
		fmt.Fprintf(dial(t, server, "127.0.0.1"), "POST %s HTTP/1.1\r\nHost: localhost\r\n%s", rig.Path("futures", f.Cancel), framing)
	}
	alice.WaitFor(room, rig.HasBody("due"), time.Minute)
}

// Answers with tokens are never cached.
func TestTokensAreNotCached(t *testing.T) {
	server := rig.New(t, rig.Config{})
	alice := server.Register(t, "alice")
	room := alice.CreateRoom(nil)
	timeout := rig.Params{Timeout: time.Hour}.Query()
	login := map[string]any{"type": "m.login.password", "password": "wrong", "user": "alice"}
	for _, c := range []struct {
		method, path string
		body         any
	}{
		{http.MethodPut, rig.Path("rooms", room, "send_future", "m.room.message", "1"), map[string]any{"body": "x"}},
		{http.MethodGet, rig.Path("future"), nil},
		{http.MethodPost, rig.Path("login"), login},
		{http.MethodPost, rig.Path("register"), map[string]any{}},
		{http.MethodPost, rig.Path("user", alice.ID, "openid", "request_token"), map[string]any{}},
		{http.MethodGet, "/_synapse/admin/v1/register", nil},
		{http.MethodGet, rig.Path("sync"), nil},
	} {
		r := alice.Do(c.method, c.path, timeout, c.body)
		if got := r.Header.Get("Cache-Control"); got != "no-store" || r.Status == http.StatusNotFound {
			t.Errorf("%s %s: %d, Cache-Control %q", c.method, c.path, r.Status, got)
		}
	}
}
