package config

import (
	"net/netip"
	"testing"
)

func TestPrivateNetworksAreRefused(t *testing.T) {
	n := Networks{Deny: PrivateNetworks()}
	for _, addr := range []string{
		"0.0.0.0", "10.1.2.3", "100.64.0.1", "127.0.0.1", "127.255.255.254", "169.254.169.254", "172.31.0.1",
		"192.168.1.1", "198.18.0.1", "224.0.0.1", "255.255.255.255", "::", "::1", "::127.0.0.1",
		"::ffff:127.0.0.1", "::ffff:169.254.169.254", "64:ff9b::10.0.0.1", "64:ff9b:1::1", "2002:7f00:1::1",
		"2001:0:1:2:3:4:80ff:fffe", // Teredo for 127.0.0.1
		"fc00::1", "fd00:ec2::254", "fe80::1", "fe80::1%eth0", "febf::1", "fec0::1", "ff02::1",
	} {
		if !n.Refuses(netip.MustParseAddr(addr)) {
			t.Errorf("%s may be connected to", addr)
		}
	}
	for _, addr := range []string{
		"1.1.1.1", "9.255.255.255", "11.0.0.0", "100.128.0.0", "172.32.0.1", "192.169.0.1", "223.255.255.255",
		"2606:4700::1111", "64:ff9b::1.1.1.1", "2002:101:101::1",
	} {
		if n.Refuses(netip.MustParseAddr(addr)) {
			t.Errorf("%s is refused", addr)
		}
	}
}

func TestSmallestNetworkDecides(t *testing.T) {
	list := func(s ...string) (l []netip.Prefix) {
		for _, p := range s {
			l = append(l, netip.MustParsePrefix(p))
		}
		return l
	}
	for _, c := range []struct {
		n       Networks
		addr    string
		refused bool
	}{
		{Networks{Allow: list("127.0.0.0/8"), Deny: PrivateNetworks()}, "127.0.0.1", false},
		{Networks{Allow: list("127.0.0.0/8"), Deny: PrivateNetworks()}, "10.0.0.1", true},
		{Networks{Allow: list("10.1.2.0/24"), Deny: PrivateNetworks()}, "10.1.2.3", false},
		{Networks{Allow: list("10.1.2.0/24"), Deny: PrivateNetworks()}, "10.1.3.3", true},
		{Networks{Allow: list("10.1.2.0/24"), Deny: PrivateNetworks()}, "64:ff9b::10.1.2.3", false},
		{Networks{Allow: list("0.0.0.0/0", "::/0"), Deny: PrivateNetworks()}, "10.0.0.1", true}, // as newer Dendrites' default
		{Networks{Allow: list("0.0.0.0/0", "::/0"), Deny: PrivateNetworks()}, "fe80::1", true},
		{Networks{Allow: list("10.0.0.0/8"), Deny: list("10.1.0.0/16")}, "10.1.0.1", true},
		{Networks{}, "127.0.0.1", false},
	} {
		if got := c.n.Refuses(netip.MustParseAddr(c.addr)); got != c.refused {
			t.Errorf("%s with allow %v: refused %v", c.addr, c.n.Allow, got)
		}
	}
}
