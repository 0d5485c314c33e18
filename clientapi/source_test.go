package clientapi

import (
	"net/http/httptest"
	"net/netip"
	"testing"
)

func TestSource(t *testing.T) {
	proxies := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")}
	for _, c := range []struct {
		name, remote string
		forwarded    []string
		want         string
	}{
		{"the peer, without its port", "192.0.2.1:4711", nil, "192.0.2.1"},
		{"a stranger's header is not believed", "192.0.2.1:4711", []string{"1.2.3.4"}, "192.0.2.1"},
		{"a proxy's is", "10.0.0.1:4711", []string{"1.2.3.4"}, "1.2.3.4"},
		{"the right-most that is no proxy", "10.0.0.1:1", []string{"6.6.6.6, 1.2.3.4, 10.2.2.2"}, "1.2.3.4"},
		{"over several headers", "10.0.0.1:1", []string{"6.6.6.6", "1.2.3.4", "fd00::1,10.2.2.2"}, "1.2.3.4"},
		{"all of them proxies", "10.0.0.1:1", []string{"10.0.0.3, 10.0.0.2"}, "10.0.0.3"},
		{"a proxy that says nothing", "10.0.0.1:1", nil, "10.0.0.1"},
		{"what cannot be read ends the search", "10.0.0.1:1", []string{"1.2.3.4, unknown, 10.0.0.2"}, "10.0.0.2"},
		{"with port", "10.0.0.1:1", []string{"1.2.3.4:99"}, "1.2.3.4"},
		{"IPv6 with port", "10.0.0.1:1", []string{"[2001:db8::1]:99"}, "2001:db8::"},
		{"IPv6 is its network", "[2001:db8:1:2:3:4:5:6]:1", nil, "2001:db8:1:2::"},
		{"IPv6 zone", "[fe80::1%eth0]:1", nil, "fe80::"},
		{"IPv4 in IPv6", "[::ffff:192.0.2.1]:1", nil, "192.0.2.1"},
		{"IPv4 in IPv6 proxy", "[::ffff:10.0.0.1]:1", []string{"1.2.3.4"}, "1.2.3.4"},
		{"Unix socket", "@", []string{"6.6.6.6, 1.2.3.4"}, "1.2.3.4"},
		{"Unix socket that says nothing", "@", nil, "invalid IP"},
	} {
		t.Run("4.9 "+c.name, func(t *testing.T) {
			req := httptest.NewRequest("POST", "/", nil)
			req.RemoteAddr = c.remote
			req.Header["X-Forwarded-For"] = c.forwarded
			if got := source(req, proxies); got.String() != c.want {
				t.Errorf("got %v, want %s", got, c.want)
			}
		})
	}
}
