package setup

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"github.com/matrix-org/gomatrixserverlib/spec"
)

// Local is who may talk to a quick start by a browser. Its door is open to every program on this machine, and a browser
// runs programs of strangers: web pages.
type Local struct {
	// Hosts are names of the server besides those that mean this machine.
	Hosts []string
	// Origins are web pages that may use the server besides those that this machine serves, as https://app.element.io.
	Origins []string
}

// NewLocal reads the origins, which commas separate.
func NewLocal(hosts []string, origins string) (*Local, error) {
	l := &Local{Hosts: hosts}
	for _, origin := range strings.Split(origins, ",") {
		if origin = strings.TrimSuffix(strings.TrimSpace(origin), "/"); origin == "" {
			continue
		}
		u, err := url.Parse(origin)
		if err != nil || u.Host == "" || origin != u.Scheme+"://"+u.Host {
			return nil, fmt.Errorf("%q is no origin; write it as in https://app.element.io", origin)
		}
		l.Origins = append(l.Origins, strings.ToLower(origin))
	}
	return l, nil
}

// guard answers 403, without the CORS headers that would let a page read it, to requests for another host, and to
// requests by which another machine's web page would change something, such as register. A page sends the first if its own
// name suddenly leads here (DNS rebinding): a browser then takes the server for a part of the page. Reading stays open:
// it takes an access token, which a page gets by the second only.
func (l *Local) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case !l.isHost(r.Host):
			forbid(w, "This server answers to the names of this machine only, such as localhost")
		case !reads(r.Method) && !l.isOrigin(r.Header.Values("Origin")):
			forbid(w, "This server does nothing for web pages from elsewhere, unless it is started with -allow-origin")
		default:
			next.ServeHTTP(w, r)
		}
	})
}

// reads reports whether a request changes nothing.
func reads(method string) bool {
	return method == http.MethodGet || method == http.MethodHead || method == http.MethodOptions
}

func forbid(w http.ResponseWriter, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusForbidden)
	json.NewEncoder(w).Encode(spec.Forbidden(message)) //nolint:errcheck // the client may be gone
}

// isHost reports whether the name, with a port or without, means this server.
func (l *Local) isHost(host string) bool {
	name := host
	if h, _, err := net.SplitHostPort(host); err == nil {
		name = h
	}
	name = strings.ToLower(strings.TrimSuffix(strings.Trim(name, "[]"), "."))
	return isThisMachine(name) || name != "" && slices.ContainsFunc(l.Hosts, func(h string) bool {
		return strings.EqualFold(h, name) || strings.EqualFold(h, host)
	})
}

func isThisMachine(name string) bool {
	addr, err := netip.ParseAddr(name)
	return name == "localhost" || err == nil && addr.Unmap().IsLoopback()
}

// isOrigin reports whether the Origin headers of a request are none, or name one whose requests are wanted. Programs that are
// no web pages but made like one, as Element on the desktop, name an origin with a scheme of their own.
func (l *Local) isOrigin(origins []string) bool {
	return !slices.ContainsFunc(origins, func(origin string) bool {
		u, err := url.Parse(origin)
		if err != nil || u.Scheme == "" {
			return true // "null": a page that does not say from where it is
		}
		isPage := u.Scheme == "http" || u.Scheme == "https"
		return isPage && !isThisMachine(strings.ToLower(u.Hostname())) && !slices.Contains(l.Origins, origin)
	})
}
