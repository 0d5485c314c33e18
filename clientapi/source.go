package clientapi

import (
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// source returns the address that a request comes from. It is the address of the peer or, if the peer is a trusted
// proxy, the right-most untrusted address in X-Forwarded-For; anybody can forge what stands further left. A peer
// without an address is a proxy on the Unix socket. For IPv6 the source is the /64 network, which is what one household
// or host has.
func source(req *http.Request, proxies []netip.Prefix) netip.Addr {
	trusted := func(a netip.Addr) bool {
		return !a.IsValid() || slices.ContainsFunc(proxies, func(p netip.Prefix) bool { return p.Contains(a) })
	}
	peer, _ := netip.ParseAddrPort(req.RemoteAddr)
	addr := plainAddr(peer.Addr())
	hops := strings.Split(strings.Join(req.Header.Values("X-Forwarded-For"), ","), ",")
	for _, hop := range slices.Backward(hops) {
		if !trusted(addr) {
			break
		}
		next, err := parseHop(strings.TrimSpace(hop))
		if err != nil {
			break
		}
		addr = plainAddr(next)
	}
	if addr.Is6() {
		network, _ := addr.Prefix(64)
		addr = network.Addr()
	}
	return addr
}

// NewSource returns a function that names the source of a request, with these trusted proxies.
func NewSource(proxies []netip.Prefix) func(*http.Request) string {
	return func(req *http.Request) string { return source(req, proxies).String() }
}

// parseHop parses an element of X-Forwarded-For. Some proxies append a port.
func parseHop(s string) (netip.Addr, error) {
	if withPort, err := netip.ParseAddrPort(s); err == nil {
		return withPort.Addr(), nil
	}
	return netip.ParseAddr(s)
}

func plainAddr(a netip.Addr) netip.Addr { return a.Unmap().WithZone("") }
