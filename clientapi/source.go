package clientapi

import (
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// source returns the address a request comes from: the peer's, or, where the peer is a trusted proxy, the
// right-most address of X-Forwarded-For that is not; what stands further left anybody can make up. A peer
// without an address is a proxy on the Unix socket. An IPv6 source is its /64 network, which is what one
// household or host has.
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

// parseHop reads an element of X-Forwarded-For: some proxies append a port.
func parseHop(s string) (netip.Addr, error) {
	if withPort, err := netip.ParseAddrPort(s); err == nil {
		return withPort.Addr(), nil
	}
	return netip.ParseAddr(s)
}

func plainAddr(a netip.Addr) netip.Addr { return a.Unmap().WithZone("") }
