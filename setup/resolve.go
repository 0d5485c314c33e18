package setup

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/matrix-org/gomatrixserverlib/fclient"
	"github.com/matrix-org/gomatrixserverlib/spec"
)

const (
	wellKnownTimeout = 30 * time.Second
	wellKnownSize    = 50 << 10 // bytes; the maximum in the specification
	federationPort   = 8448
)

// resolve finds where the Matrix server of that name listens (server-server API, 2.1).
func (t *transport) resolve(ctx context.Context, name spec.ServerName) ([]fclient.ResolutionResult, error) {
	if named, err := complete(ctx, name); named != nil || err != nil {
		return named, err
	}
	if delegate, err := t.lookUpWellKnown(ctx, name); err == nil {
		if named, err := complete(ctx, delegate); named != nil || err != nil {
			return named, err
		}
		name = delegate
	}
	return t.lookUpSRV(ctx, name), nil
}

// complete returns the address if the name is an IP address or has a port; otherwise nil. It does no I/O.
func complete(ctx context.Context, name spec.ServerName) ([]fclient.ResolutionResult, error) {
	host, port, valid := spec.ParseAndValidateServerName(name)
	if !valid {
		return nil, fmt.Errorf("invalid server name %q", name)
	}
	if port < 0 && net.ParseIP(strings.Trim(host, "[]")) == nil {
		return nil, nil
	}
	return fclient.ResolveServer(ctx, name)
}

// lookUpWellKnown returns the m.server of the name's /.well-known/matrix/server.
func (t *transport) lookUpWellKnown(ctx context.Context, name spec.ServerName) (spec.ServerName, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+string(name)+"/.well-known/matrix/server", nil)
	if err != nil {
		return "", err
	}
	resp, err := t.wellKnown.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s has no .well-known file: %s", name, resp.Status)
	}
	var file struct {
		Server spec.ServerName `json:"m.server"`
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, wellKnownSize)).Decode(&file); err != nil {
		return "", err
	}
	if _, _, valid := spec.ParseAndValidateServerName(file.Server); !valid {
		return "", fmt.Errorf("the .well-known file of %s names no server", name)
	}
	return file.Server, nil
}

// lookUpSRV returns the targets of the name's SRV records, of the current or the deprecated service. Without records it
// returns the name itself with the default port.
func (t *transport) lookUpSRV(ctx context.Context, name spec.ServerName) (results []fclient.ResolutionResult) {
	at := func(host string, port uint16) {
		results = append(results, fclient.ResolutionResult{
			Destination:   net.JoinHostPort(strings.TrimSuffix(host, "."), fmt.Sprint(port)),
			Host:          name,
			TLSServerName: string(name),
		})
	}
	for _, service := range []string{"matrix-fed", "matrix"} {
		_, records, err := t.srv(ctx, service, "tcp", string(name))
		for _, record := range records {
			at(record.Target, record.Port)
		}
		var dns *net.DNSError
		if len(results) > 0 || err != nil && !(errors.As(err, &dns) && dns.IsNotFound) {
			break
		}
	}
	if len(results) == 0 {
		at(string(name), federationPort)
	}
	return results
}

type dialFunc = func(ctx context.Context, network, address string) (net.Conn, error)

// dnsCache caches the addresses of names (global.dns_cache). The dialer checks all addresses, so their source does not
// matter.
type dnsCache struct {
	lookUp   func(ctx context.Context, host string) ([]string, error)
	lifetime time.Duration
	dial     dialFunc
	names    *lru.Cache[string, dnsEntry]
}

type dnsEntry struct {
	addresses []string
	until     time.Time
}

func newDNSCache(size int, lifetime time.Duration, dial dialFunc) *dnsCache {
	names, _ := lru.New[string, dnsEntry](max(size, 1)) // the only error is a size below 1
	return &dnsCache{net.DefaultResolver.LookupHost, lifetime, dial, names}
}

// DialContext connects to the first of the host's addresses that answers. If no cached address does, it looks up the
// name again.
func (c *dnsCache) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	if entry, ok := c.names.Get(host); ok && time.Now().Before(entry.until) {
		if conn, err := c.any(ctx, network, entry.addresses, port); err == nil || ctx.Err() != nil {
			return conn, err
		}
	}
	addresses, err := c.lookUp(ctx, host)
	if err != nil {
		return nil, err
	}
	c.names.Add(host, dnsEntry{addresses, time.Now().Add(c.lifetime)})
	return c.any(ctx, network, addresses, port)
}

func (c *dnsCache) any(ctx context.Context, network string, addresses []string, port string) (net.Conn, error) {
	var errs []error
	for _, address := range addresses {
		conn, err := c.dial(ctx, network, net.JoinHostPort(address, port))
		if err == nil {
			return conn, nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}
