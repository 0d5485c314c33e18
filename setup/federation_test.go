package setup

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/setup/config"
	"github.com/matrix-org/gomatrixserverlib/fclient"
	"github.com/matrix-org/gomatrixserverlib/spec"

	fconfig "github.com/matrix-org/dendrite/futures/setup/config"
)

var loopback = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}

// A matrixServer is a Matrix server on loopback that counts its requests.
type matrixServer struct {
	*httptest.Server
	requests, connections atomic.Int32
	host, agent, sni      atomic.Value
	wellKnown             http.HandlerFunc
}

func newMatrixServer(t *testing.T) *matrixServer {
	s := &matrixServer{}
	s.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.requests.Add(1)
		s.host.Store(r.Host)
		s.agent.Store(r.UserAgent())
		s.sni.Store(r.TLS.ServerName)
		if strings.HasPrefix(r.URL.Path, "/.well-known/") {
			s.wellKnown(w, r)
			return
		}
		fmt.Fprint(w, `{"server":{"name":"there","version":"1"}}`)
	}))
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			s.connections.Add(1)
		}
	}
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

func (s *matrixServer) port() string { return s.URL[strings.LastIndex(s.URL, ":")+1:] }

func federationConfig() *config.Dendrite {
	cfg := &config.Dendrite{}
	cfg.Defaults(config.DefaultOpts{Generate: true})
	_, cfg.Global.PrivateKey, _ = ed25519.GenerateKey(nil)
	cfg.FederationAPI.DisableTLSValidation = true
	return cfg
}

// Each client is refused for each kind of name by default, and allowed with allow_networks.
func TestFederationIsKeptOffPrivateNetworks(t *testing.T) {
	for _, dns := range []bool{false, true} {
		for _, allowed := range []bool{false, true} {
			networks := fconfig.Networks{Deny: fconfig.PrivateNetworks()}
			if allowed {
				networks.Allow = loopback
			}
			cfg := federationConfig()
			cfg.Global.DNSCache.Enabled = dns
			federation, media := newClients(cfg, networks)
			for _, host := range []string{"127.0.0.1", "localhost"} {
				for way, ask := range map[string]func(spec.ServerName) error{
					"federation": func(s spec.ServerName) error {
						_, err := federation.GetServerKeys(t.Context(), s)
						return err
					},
					"signed federation": func(s spec.ServerName) error {
						_, err := federation.GetUserDevices(t.Context(), "localhost", s, "@a:b")
						return err
					},
					"media": func(s spec.ServerName) error {
						resp, err := media.CreateMediaDownloadRequest(t.Context(), s, "x")
						if err == nil {
							resp.Body.Close()
						}
						return err
					},
				} {
					server := newMatrixServer(t)
					err := ask(spec.ServerName(host + ":" + server.port()))
					name := fmt.Sprintf("%s to %s (dns cache %v)", way, host, dns)
					if allowed && (err != nil || server.requests.Load() == 0) {
						t.Errorf("%s: allowed, but %v", name, err)
					}
					if !allowed && (err == nil || !strings.Contains(err.Error(), "federation_api.allow_networks") || server.connections.Load() > 0) {
						t.Errorf("%s: denied, but %v, %d connections", name, err, server.connections.Load())
					}
				}
			}
		}
	}
}

// newTestTransport resolves names that do not exist: addresses maps host:port to the real address.
func newTestTransport(t *testing.T, networks fconfig.Networks, roots *x509.CertPool, addresses map[string]string) *transport {
	dialer := guardedDialer(networks)
	tr := newTransport(func(ctx context.Context, network, address string) (net.Conn, error) {
		if to, ok := addresses[address]; ok {
			return dialer.DialContext(ctx, network, to)
		}
		return nil, fmt.Errorf("no such host: %s", address)
	}, networks, true, true)
	tr.wellKnown.Transport.(*http.Transport).TLSClientConfig = &tls.Config{RootCAs: roots}
	tr.srv = func(context.Context, string, string, string) (string, []*net.SRV, error) {
		return "", nil, &net.DNSError{IsNotFound: true}
	}
	t.Cleanup(tr.base.CloseIdleConnections)
	return tr
}

func get(t *testing.T, tr *transport, server string) error {
	t.Helper()
	client := fclient.NewClient(fclient.WithTransport(tr), fclient.WithUserAgent("test"))
	_, err := client.GetVersion(t.Context(), spec.ServerName(server))
	return err
}

func roots(s *matrixServer) *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(s.Certificate())
	return pool
}

func TestWellKnownIsGuardedToo(t *testing.T) {
	for _, allowed := range []bool{false, true} {
		networks := fconfig.Networks{Deny: fconfig.PrivateNetworks()}
		if allowed {
			networks.Allow = loopback
		}
		server := newMatrixServer(t)
		server.wellKnown = func(w http.ResponseWriter, r *http.Request) {
			json.NewEncoder(w).Encode(map[string]string{"m.server": "matrix.example.com:443"})
		}
		address := server.Listener.Addr().String()
		tr := newTestTransport(t, networks, roots(server), map[string]string{"example.com:443": address, "example.com:8448": address, "matrix.example.com:443": address})
		err := get(t, tr, "example.com")
		if allowed {
			if err != nil || server.requests.Load() != 2 || server.host.Load() != "matrix.example.com:443" || server.sni.Load() != "matrix.example.com" || server.agent.Load() != "test" {
				t.Errorf("%v: %d requests, host %v, SNI %v, agent %v", err, server.requests.Load(), server.host.Load(), server.sni.Load(), server.agent.Load())
			}
		} else if err == nil || server.connections.Load() > 0 {
			t.Errorf("%v, %d connections", err, server.connections.Load())
		}
	}
}

// A public server's .well-known file may redirect or delegate to a private address.
func TestWellKnownCannotLeadInside(t *testing.T) {
	inside := newMatrixServer(t)
	for name, wellKnown := range map[string]http.HandlerFunc{
		"redirect": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://inside.example/", http.StatusFound)
		},
		"delegate": func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, `{"m.server":"inside.example:443"}`) },
		"literal": func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintf(w, `{"m.server":"127.0.0.2:%s"}`, inside.port())
		},
	} {
		public := newMatrixServer(t)
		public.wellKnown = wellKnown
		inside.wellKnown = wellKnown
		networks := fconfig.Networks{Deny: []netip.Prefix{netip.MustParsePrefix("127.0.0.2/32")}}
		tr := newTestTransport(t, networks, roots(public), map[string]string{
			"example.com:443":            public.Listener.Addr().String(),
			"inside.example:443":         "127.0.0.2:" + inside.port(),
			"127.0.0.2:" + inside.port(): "127.0.0.2:" + inside.port(),
		})
		if err := get(t, tr, "example.com"); err == nil || inside.connections.Load() > 0 || public.requests.Load() == 0 {
			t.Errorf("%s: %v, %d connections inside", name, err, inside.connections.Load())
		}
	}
}

func TestSRVTargetsAreGuarded(t *testing.T) {
	server := newMatrixServer(t)
	addresses := map[string]string{"target.example:4711": server.Listener.Addr().String()}
	for _, allowed := range []bool{false, true} {
		networks := fconfig.Networks{Deny: fconfig.PrivateNetworks()}
		if allowed {
			networks.Allow = loopback
		}
		tr := newTestTransport(t, networks, nil, addresses)
		tr.srv = func(_ context.Context, service, proto, name string) (string, []*net.SRV, error) {
			if service != "matrix-fed" || proto != "tcp" || name != "example.com" {
				t.Errorf("looked up %s %s %s", service, proto, name)
			}
			return "", []*net.SRV{{Target: "dead.example.", Port: 1}, {Target: "target.example.", Port: 4711}}, nil
		}
		err := get(t, tr, "example.com")
		if allowed && (err != nil || server.host.Load() != "example.com" || server.sni.Load() != "example.com") {
			t.Errorf("%v, host %v, SNI %v", err, server.host.Load(), server.sni.Load())
		}
		if !allowed && (err == nil || server.connections.Load() > 0) {
			t.Errorf("denied, but %v, %d connections", err, server.connections.Load())
		}
	}
}

// A name that pointed outside when it was cached is checked again when it points inside.
func TestRebindingIsJudgedAtEachConnection(t *testing.T) {
	server := newMatrixServer(t)
	answers := []string{"127.0.0.2"}
	networks := fconfig.Networks{Deny: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}}
	cache := newDNSCache(8, time.Hour, guardedDialer(networks).DialContext)
	cache.lookUp = func(context.Context, string) ([]string, error) { return answers, nil }
	_, err := cache.DialContext(t.Context(), "tcp", "rebind.example:1")
	if err == nil || strings.Contains(err.Error(), "deny_networks") {
		t.Fatalf("an allowed address where nobody listens: %v", err)
	}
	answers = []string{"127.0.0.1"}
	if _, err := cache.DialContext(t.Context(), "tcp", "rebind.example:"+server.port()); err == nil || !strings.Contains(err.Error(), "deny_networks") {
		t.Errorf("got inside: %v", err)
	}
}

func TestDNSCacheAsksOnce(t *testing.T) {
	server := newMatrixServer(t)
	var lookUps int
	cache := newDNSCache(8, time.Hour, new(net.Dialer).DialContext)
	cache.lookUp = func(context.Context, string) ([]string, error) { lookUps++; return []string{"127.0.0.1"}, nil }
	for range 3 {
		conn, err := cache.DialContext(t.Context(), "tcp", "name.example:"+server.port())
		if err != nil {
			t.Fatal(err)
		}
		conn.Close()
	}
	if lookUps != 1 {
		t.Errorf("%d look-ups", lookUps)
	}
}

func TestKeepAlivesAndResolutionsAreReused(t *testing.T) {
	server := newMatrixServer(t)
	server.wellKnown = func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, `{"m.server":"matrix.example.com:443"}`) }
	address := server.Listener.Addr().String()
	tr := newTestTransport(t, fconfig.Networks{}, roots(server), map[string]string{"example.com:443": address, "matrix.example.com:443": address})
	for range 3 {
		if err := get(t, tr, "example.com"); err != nil {
			t.Fatal(err)
		}
	}
	if r, c := server.requests.Load(), server.connections.Load(); r != 4 || c != 2 {
		t.Errorf("%d requests over %d connections, want 1+3 over 2", r, c)
	}
}

func TestStaleResolutionIsRenewed(t *testing.T) {
	server := newMatrixServer(t)
	tr := newTestTransport(t, fconfig.Networks{}, nil, map[string]string{"new.example.com:443": server.Listener.Addr().String()})
	tr.srv = func(context.Context, string, string, string) (string, []*net.SRV, error) {
		return "", []*net.SRV{{Target: "new.example.com.", Port: 443}}, nil
	}
	tr.resolved.Add("example.com", []fclient.ResolutionResult{{Destination: "old.example.com:443"}})
	if err := get(t, tr, "example.com"); err != nil {
		t.Error(err)
	}
}

func TestDisabledFederationGoesNowhere(t *testing.T) {
	server := newMatrixServer(t)
	cfg := federationConfig()
	cfg.Global.DisableFederation = true
	federation, media := newClients(cfg, fconfig.Networks{})
	name := spec.ServerName("127.0.0.1:" + server.port())
	_, err1 := federation.GetServerKeys(t.Context(), name)
	_, err2 := media.GetVersion(t.Context(), name)
	if err1 == nil || err2 == nil || server.connections.Load() > 0 {
		t.Error(err1, err2, server.connections.Load())
	}
}
