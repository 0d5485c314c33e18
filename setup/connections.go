package setup

import (
	"crypto/tls"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"
)

// connections limits the number of connections of one address, so that no single client can use up the process's file
// descriptors. Beyond the limit a new connection replaces one that has waited long for a request. If all are in use,
// the new connection is closed.
type connections struct {
	most   int            // for one address; 0: no limit
	exempt []netip.Prefix // proxies, behind whose address are many clients
	epoch  time.Time

	mu     sync.Mutex
	from   map[netip.Addr]map[*connection]struct{}
	warned time.Time
}

// looksForIdle is how many of an address's connections are searched for one to replace. A search through all of them
// would help those who open many.
const looksForIdle = 64

func newConnections(most int, exempt []netip.Prefix) *connections {
	return &connections{most: most, exempt: exempt, epoch: time.Now(), from: make(map[netip.Addr]map[*connection]struct{})}
}

// connection is a counted connection. It embeds *net.TCPConn, which can send files.
type connection struct {
	*net.TCPConn
	all   *connections
	addr  netip.Addr
	waits atomic.Int64 // since when it waits for a request, after the epoch; 0: it is handling one
}

// Close implements net.Conn.
func (c *connection) Close() error {
	c.all.forget(c)
	return c.TCPConn.Close()
}

// countedListener counts the connections that it accepts.
type countedListener struct {
	net.Listener
	all *connections
}

// Accept implements net.Listener.
func (l countedListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		tcp, ok := c.(*net.TCPConn)
		if !ok { // a Unix socket has no addresses
			return c, nil
		}
		if c := l.all.admit(tcp); c != nil {
			return c, nil
		}
		tcp.Close()
	}
}

// admit returns the connection to serve, or nil if it exceeds the limit.
func (s *connections) admit(tcp *net.TCPConn) net.Conn {
	peer, _ := netip.ParseAddrPort(tcp.RemoteAddr().String())
	addr := peer.Addr().Unmap().WithZone("")
	if s.most == 0 || !addr.IsValid() || slices.ContainsFunc(s.exempt, func(p netip.Prefix) bool { return p.Contains(addr) }) {
		return tcp
	}
	if addr.Is6() { // a household has a whole network of addresses
		network, _ := addr.Prefix(64)
		addr = network.Addr()
	}
	c := &connection{TCPConn: tcp, all: s, addr: addr}
	c.waits.Store(s.now())
	replaced, ok := s.add(c)
	if replaced != nil {
		replaced.TCPConn.Close()
	}
	if !ok {
		return nil
	}
	return c
}

func (s *connections) now() int64 { return max(1, int64(time.Since(s.epoch))) }

// add counts the connection, and returns the one that it replaces. ok is false if there is none to replace.
func (s *connections) add(c *connection) (replaced *connection, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := s.from[c.addr]
	if all == nil {
		all = make(map[*connection]struct{})
		s.from[c.addr] = all
	}
	if len(all) >= s.most {
		s.warn(c.addr)
		if replaced = longestWaiting(all); replaced == nil {
			return nil, false
		}
		delete(all, replaced)
	}
	all[c] = struct{}{}
	return replaced, true
}

// longestWaiting returns, among some connections, the one that has waited longest for a request; nil if all are in use.
func longestWaiting(all map[*connection]struct{}) (longest *connection) {
	looked, since := 0, int64(0)
	for c := range all {
		if w := c.waits.Load(); w != 0 && (longest == nil || w < since) {
			longest, since = c, w
		}
		if looked++; looked == looksForIdle {
			break
		}
	}
	return longest
}

func (s *connections) warn(addr netip.Addr) {
	if now := time.Now(); now.Sub(s.warned) > time.Minute {
		s.warned = now
		logrus.Warnf("%s has the %d connections that one address may have. If it is a reverse proxy, "+
			"name it in future_server.trusted_proxies; otherwise future_server.max_connections_per_address is the limit", addr, s.most)
	}
}

func (s *connections) forget(c *connection) {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := s.from[c.addr]
	if delete(all, c); len(all) == 0 {
		delete(s.from, c.addr)
	}
}

// note is the HTTP server's ConnState hook: it records when a connection begins and ends to handle a request.
func (s *connections) note(conn net.Conn, state http.ConnState) {
	if t, ok := conn.(*tls.Conn); ok {
		conn = t.NetConn()
	}
	c, ok := conn.(*connection)
	if !ok {
		return
	}
	switch state {
	case http.StateActive:
		c.waits.Store(0)
	case http.StateIdle:
		c.waits.Store(s.now())
	}
}
