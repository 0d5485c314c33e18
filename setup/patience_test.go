package setup

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/setup/config"

	fconfig "github.com/matrix-org/dendrite/futures/setup/config"
)

// impatientFront answers with the part of the body that it has read, and the error that ended it.
func impatientFront(t *testing.T, p patience, futures *fconfig.FutureServer) *front {
	t.Helper()
	o := Options{HTTP: config.ServerAddress{Address: "127.0.0.1:0", Scheme: "http"}, Futures: futures}
	f, err := listen(o)
	if err != nil {
		t.Fatal(err)
	}
	f.patience = p
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, err := io.Copy(io.Discard, r.Body)
		fmt.Fprintf(w, "%d bytes, error %t", n, err != nil)
	})
	f.serve(t.Context(), o, slowBodies(p.body, handler), func(err error) { t.Error(err) })
	t.Cleanup(f.close)
	return f
}

func dial(t *testing.T, f *front, from string) net.Conn {
	t.Helper()
	d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(from), 0))}
	c, err := d.DialContext(t.Context(), "tcp", f.http.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(time.Minute))
	return c
}

// exchange writes the parts of a request, with pauses, and returns everything that comes back.
func exchange(t *testing.T, c net.Conn, pause time.Duration, parts ...string) string {
	t.Helper()
	for i, part := range parts {
		if i > 0 {
			time.Sleep(pause)
		}
		io.WriteString(c, part) //nolint:errcheck // what comes back tells
	}
	answer, _ := io.ReadAll(c)
	return string(answer)
}

const upload = "POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"

// A client that stops in the middle of a request is disconnected, wherever it stops.
func TestStalledRequestsEnd(t *testing.T) {
	f := impatientFront(t, patience{header: 100 * time.Millisecond, body: 200 * time.Millisecond, idle: 100 * time.Millisecond}, nil)
	for name, c := range map[string]struct{ request, want string }{
		"silent":       {"", ""},
		"half header":  {"POST / HTTP/1.1\r\nHost:", ""},
		"half length":  {"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n123", "3 bytes, error true"},
		"half chunked": {upload + "2\r\nab\r\n", "2 bytes, error true"},
		"idle":         {"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "0 bytes, error false"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := exchange(t, dial(t, f, "127.0.0.1"), 0, c.request); !strings.HasSuffix(got, c.want) || c.want == "" && got != "" {
				t.Errorf("got %q", got)
			}
		})
	}
}

// An upload may take many times the limit, as long as it makes progress.
func TestSlowUploads(t *testing.T) {
	f := impatientFront(t, patience{header: time.Minute, body: 4 * time.Second, idle: time.Minute}, nil)
	parts := []string{upload}
	for range 6 {
		parts = append(parts, "1\r\nx\r\n")
	}
	if got := exchange(t, dial(t, f, "127.0.0.1"), time.Second, append(parts, "0\r\n\r\n")...); !strings.HasSuffix(got, "6 bytes, error false") {
		t.Errorf("got %q", got)
	}
}

func roundTrip(t *testing.T, c net.Conn) error {
	t.Helper()
	if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		return err
	}
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, res.Body)
	return err
}

// A client that opens too many connections loses its idle ones, and no other client does.
func TestConnectionsOfOneAddress(t *testing.T) {
	futures := &fconfig.FutureServer{MaxConnectionsPerAddress: 3, TrustedProxies: []netip.Prefix{netip.MustParsePrefix("127.0.0.9/32")}}
	f := impatientFront(t, usualPatience(), futures)
	other := dial(t, f, "127.0.0.1")
	if err := roundTrip(t, other); err != nil {
		t.Fatal(err)
	}
	crowd := make([]net.Conn, 3)
	for i := range crowd {
		crowd[i] = dial(t, f, "127.0.0.2")
		if err := roundTrip(t, crowd[i]); err != nil {
			t.Fatal(err)
		}
	}
	if err := roundTrip(t, dial(t, f, "127.0.0.2")); err != nil {
		t.Errorf("the fourth finds no place: %v", err)
	}
	if _, err := crowd[0].Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("the one that waits for longest: %v", err)
	}
	for _, c := range append(crowd[1:], other) {
		if err := roundTrip(t, c); err != nil {
			t.Error(err)
		}
	}
	for range 10 {
		c := dial(t, f, "127.0.0.9")
		if err := roundTrip(t, c); err != nil {
			t.Errorf("a trusted proxy: %v", err)
		}
		defer roundTrip(t, c) //nolint:errcheck // it stays open
	}
}

// If all are in use, the new one is closed.
func TestNoPlaceAmongWorkingConnections(t *testing.T) {
	f := impatientFront(t, usualPatience(), &fconfig.FutureServer{MaxConnectionsPerAddress: 2})
	for range 2 {
		c := dial(t, f, "127.0.0.2")
		io.WriteString(c, strings.Replace(upload, "\r\n\r\n", "\r\nExpect: 100-continue\r\n\r\n", 1)) //nolint:errcheck // the next line tells
		if line, err := bufio.NewReader(c).ReadString('\n'); !strings.Contains(line, "100 Continue") {
			t.Fatalf("%q, %v", line, err)
		}
	}
	if err := roundTrip(t, dial(t, f, "127.0.0.2")); err == nil {
		t.Error("a third was served")
	}
	if err := roundTrip(t, dial(t, f, "127.0.0.1")); err != nil {
		t.Error(err)
	}
}
