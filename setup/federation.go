package setup

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"syscall"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/matrix-org/dendrite/internal"
	"github.com/matrix-org/dendrite/setup/base"
	"github.com/matrix-org/dendrite/setup/config"
	"github.com/matrix-org/gomatrixserverlib/fclient"
	"github.com/matrix-org/gomatrixserverlib/spec"

	fconfig "github.com/matrix-org/dendrite/futures/setup/config"
)

const (
	dialTimeout       = 5 * time.Second // for a server to answer
	idleTimeout       = 5 * time.Minute // of a connection kept for the next request
	federationTimeout = 5 * time.Minute // of a request to another server
	serversRemembered = 4096            // servers whose resolved names and connections are kept
)

// newClients returns the two clients for requests to other servers: the federation client, and the client that fetches
// media without a signature. Other servers and users choose where they connect (by a server name in an event, an
// m.server in a .well-known file, an SRV record). So neither connects to an address that networks refuses.
func newClients(cfg *config.Dendrite, networks fconfig.Networks) (fclient.FederationClient, *fclient.Client) {
	if cfg.Global.DisableFederation {
		return base.CreateFederationClient(cfg, nil), base.CreateClient(cfg, nil)
	}
	dial := guardedDialer(networks).DialContext
	if dns := cfg.Global.DNSCache; dns.Enabled {
		dial = newDNSCache(dns.CacheSize, dns.CacheLifetime, dial).DialContext
	}
	skipVerify := cfg.FederationAPI.DisableTLSValidation
	agent := fclient.WithUserAgent("Dendrite/" + internal.VersionString())
	federation := fclient.NewFederationClient(cfg.Global.SigningIdentities(), agent,
		fclient.WithTimeout(federationTimeout),
		fclient.WithTransport(newTransport(dial, networks, skipVerify, !cfg.FederationAPI.DisableHTTPKeepalives)))
	media := fclient.NewClient(agent, fclient.WithTransport(newTransport(dial, networks, skipVerify, false)))
	return federation, media
}

// guardedDialer checks the address when the connection is made, after all names are resolved. So it does not matter
// what DNS answers, the first or the second time.
func guardedDialer(networks fconfig.Networks) *net.Dialer {
	return &net.Dialer{
		Timeout: dialTimeout,
		Control: func(_, address string, _ syscall.RawConn) error {
			addr, err := netip.ParseAddrPort(address)
			if err != nil {
				return err
			}
			return refuse(networks, addr.Addr())
		},
	}
}

func refuse(networks fconfig.Networks, addr netip.Addr) error {
	if networks.Refuses(addr) {
		return fmt.Errorf("%s is in a network that federation_api.deny_networks denies; "+
			"federation_api.allow_networks can allow it", addr)
	}
	return nil
}

// transport carries requests to Matrix servers. It resolves a server name by the rules of the specification
// (server-server API, 2.1) and connects by TLS with that name. gomatrixserverlib's own transport fetches .well-known
// files through the process-wide default transport, which no guard protects.
type transport struct {
	networks  fconfig.Networks
	base      *http.Transport
	byName    *lru.Cache[string, *http.Transport] // TLS name → connections; the name can only be set for a whole transport
	resolved  *lru.Cache[spec.ServerName, []fclient.ResolutionResult]
	wellKnown *http.Client
	srv       func(ctx context.Context, service, proto, name string) (string, []*net.SRV, error)
}

func newTransport(dial dialFunc, networks fconfig.Networks, skipVerify, keepAlives bool) *transport {
	t := &transport{
		networks: networks,
		srv:      net.DefaultResolver.LookupSRV,
		base: &http.Transport{
			DialContext:         dial,
			Proxy:               http.ProxyFromEnvironment,
			ForceAttemptHTTP2:   true, // a custom dialer would disable it
			DisableKeepAlives:   !keepAlives,
			MaxIdleConnsPerHost: 1,
			IdleConnTimeout:     idleTimeout,
			TLSHandshakeTimeout: dialTimeout * 2,
			TLSClientConfig: &tls.Config{
				InsecureSkipVerify: skipVerify, // federation_api.disable_tls_validation
				ClientSessionCache: tls.NewLRUClientSessionCache(0),
			},
		},
		wellKnown: &http.Client{Timeout: wellKnownTimeout, Transport: &http.Transport{
			DialContext:         dial,
			Proxy:               http.ProxyFromEnvironment,
			ForceAttemptHTTP2:   true,
			MaxIdleConns:        16,
			IdleConnTimeout:     dialTimeout,
			TLSHandshakeTimeout: dialTimeout * 2,
		}},
	}
	// The only error is a size below 1.
	t.byName, _ = lru.NewWithEvict(serversRemembered, func(_ string, tr *http.Transport) { tr.CloseIdleConnections() })
	t.resolved, _ = lru.New[spec.ServerName, []fclient.ResolutionResult](serversRemembered)
	return t
}

// RoundTrip sends the request to the Matrix server that its URL names, whatever the scheme. If a cached resolution no
// longer works, it resolves the name again, once.
func (t *transport) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.GetBody != nil { // then no attempt reads this body
		defer r.Body.Close()
	}
	name := spec.ServerName(r.URL.Host)
	if results, ok := t.resolved.Get(name); ok {
		if resp, err := t.try(r, results); err == nil || r.Context().Err() != nil {
			return resp, err
		}
		t.resolved.Remove(name)
	}
	results, err := t.resolve(r.Context(), name)
	if err != nil {
		return nil, err
	}
	resp, err := t.try(r, results)
	if err == nil {
		t.resolved.Add(name, results)
	}
	return resp, err
}

// try asks the server's addresses in turn and returns the first answer.
func (t *transport) try(r *http.Request, results []fclient.ResolutionResult) (*http.Response, error) {
	var errs []error
	for _, to := range results {
		resp, err := t.send(r, to)
		if err == nil {
			return resp, nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

func (t *transport) send(r *http.Request, to fclient.ResolutionResult) (*http.Response, error) {
	host, _, err := net.SplitHostPort(to.Destination)
	if err != nil {
		return nil, err
	}
	if addr, err := netip.ParseAddr(host); err == nil {
		if err := refuse(t.networks, addr); err != nil { // before a proxy is asked
			return nil, err
		}
	}
	out := r.Clone(r.Context())
	out.URL.Scheme, out.URL.Host, out.Host = "https", to.Destination, string(to.Host)
	if r.GetBody != nil { // each attempt reads the body from its start
		if out.Body, err = r.GetBody(); err != nil {
			return nil, err
		}
	}
	return t.via(to.TLSServerName).RoundTrip(out)
}

// via returns the connections for that TLS name.
func (t *transport) via(name string) *http.Transport {
	if tr, ok := t.byName.Get(name); ok {
		return tr
	}
	tr := t.base.Clone()
	tr.TLSClientConfig.ServerName = name
	if other, ok, _ := t.byName.PeekOrAdd(name, tr); ok {
		return other
	}
	return tr
}
