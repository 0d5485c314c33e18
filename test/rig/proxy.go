package rig

import (
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
)

// Proxy is in front of a server's federation port and can be cut, like a network. It forwards bytes; TLS is between the
// servers.
type Proxy struct {
	Port int

	target   string
	listener net.Listener

	mu    sync.Mutex
	cut   bool
	conns map[net.Conn]bool // both sides of all forwarded connections
	wg    sync.WaitGroup
}

// newProxy forwards connections from a free port to the target until the test ends.
func newProxy(t testing.TB, target string) *Proxy {
	t.Helper()
	p := &Proxy{Port: ReservePort(t), target: target, conns: make(map[net.Conn]bool)}
	var err error
	if p.listener, err = net.Listen("tcp4", fmt.Sprintf("127.0.0.1:%d", p.Port)); err != nil {
		t.Fatal(err)
	}
	p.wg.Go(p.accept)
	t.Cleanup(func() {
		p.listener.Close()
		p.Cut()
		p.wg.Wait()
	})
	return p
}

func (p *Proxy) accept() {
	for {
		conn, err := p.listener.Accept()
		if err != nil {
			return // closed: the test is over
		}
		p.wg.Go(func() { p.forward(conn) })
	}
}

func (p *Proxy) forward(from net.Conn) {
	defer from.Close()
	if !p.hold(from) {
		return
	}
	defer p.release(from)
	to, err := net.Dial("tcp4", p.target)
	if err != nil {
		return
	}
	defer to.Close()
	if !p.hold(to) {
		return
	}
	defer p.release(to)
	var both sync.WaitGroup
	both.Go(func() { pour(to, from) })
	both.Go(func() { pour(from, to) })
	both.Wait()
}

// pour copies one direction to its end and then closes the other, because HTTP needs both.
func pour(to, from net.Conn) {
	io.Copy(to, from) //nolint:errcheck // a cut connection is what this is for
	to.Close()
	from.Close()
}

// hold registers the connection, so that Cut finds it. It returns false if the proxy is already cut.
func (p *Proxy) hold(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.cut {
		p.conns[c] = true
	}
	return !p.cut
}

func (p *Proxy) release(c net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, c)
}

// Cut closes all connections, and new ones at once, until Mend.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cut = true
	for c := range p.conns {
		c.Close()
	}
}

// Mend lets connections pass again.
func (p *Proxy) Mend() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cut = false
}
