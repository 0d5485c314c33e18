package config

import "net/netip"

// Networks are federation_api.allow_networks and deny_networks: where the federation client may connect. Of all
// networks that contain an address, the smallest decides; if it is in both lists, Allow wins. So allow_networks can
// open a part of a denied network. A list that allows everything, as in newer Dendrites, opens nothing. An address in
// no list is allowed.
type Networks struct {
	Allow []netip.Prefix `yaml:"allow_networks"`
	Deny  []netip.Prefix `yaml:"deny_networks"`
}

// Refuses reports whether the federation client must not connect to addr. If an IPv6 address contains an IPv4 address
// that a gateway would unpack (NAT64, 6to4, Teredo), that address is checked as well.
func (n Networks) Refuses(addr netip.Addr) bool {
	addr = addr.Unmap().WithZone("")
	if smallest(n.Deny, addr) > smallest(n.Allow, addr) {
		return true
	}
	inner, ok := embedded(addr)
	return ok && n.Refuses(inner)
}

// smallest returns the length of the longest prefix that contains addr, or -1.
func smallest(list []netip.Prefix, addr netip.Addr) int {
	bits := -1
	for _, p := range list {
		if p.Contains(addr) {
			bits = max(bits, p.Bits())
		}
	}
	return bits
}

// embedded returns the IPv4 address that packets to an IPv6 address are delivered to.
func embedded(addr netip.Addr) (netip.Addr, bool) {
	if addr.Is4() {
		return addr, false
	}
	b := addr.As16()
	v4 := func(at int) (netip.Addr, bool) { return netip.AddrFrom4([4]byte(b[at : at+4])), true }
	switch {
	case netip.MustParsePrefix("64:ff9b::/96").Contains(addr): // NAT64, RFC 6052
		return v4(12)
	case netip.MustParsePrefix("2002::/16").Contains(addr): // 6to4, RFC 3056
		return v4(2)
	case netip.MustParsePrefix("2001::/32").Contains(addr): // Teredo, RFC 4380: the client's, inverted
		for i := 12; i < 16; i++ {
			b[i] = ^b[i]
		}
		return v4(12)
	}
	return addr, false
}

// PrivateNetworks is the default of deny_networks: everything that is not the public Internet (the registries of RFC
// 6890), including all networks that newer Dendrites deny.
func PrivateNetworks() []netip.Prefix {
	list := []string{
		"0.0.0.0/8",       // this network, unspecified
		"10.0.0.0/8",      // private
		"100.64.0.0/10",   // carrier-grade NAT
		"127.0.0.0/8",     // loopback
		"169.254.0.0/16",  // link-local, including the metadata services of clouds
		"172.16.0.0/12",   // private
		"192.0.0.0/24",    // protocol assignments
		"192.0.2.0/24",    // documentation
		"192.88.99.0/24",  // 6to4 relays
		"192.168.0.0/16",  // private
		"198.18.0.0/15",   // benchmarks
		"198.51.100.0/24", // documentation
		"203.0.113.0/24",  // documentation
		"224.0.0.0/4",     // multicast
		"240.0.0.0/4",     // reserved, broadcast
		"::/96",           // unspecified, loopback, IPv4-compatible
		"64:ff9b:1::/48",  // local NAT64
		"100::/64",        // discard
		"2001:db8::/32",   // documentation
		"fc00::/7",        // unique local
		"fe80::/10",       // link-local
		"fec0::/10",       // site-local, deprecated
		"ff00::/8",        // multicast
	}
	prefixes := make([]netip.Prefix, len(list))
	for i, s := range list {
		prefixes[i] = netip.MustParsePrefix(s)
	}
	return prefixes
}
