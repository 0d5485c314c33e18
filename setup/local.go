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

// Local says who may use a quick start from a browser. The server is open to every program on this machine, and a
// browser runs the programs of web pages.
type Local struct {
	// Hosts are further names of this server.
	Hosts []string
	// Origins are web pages that may use the server, in addition to those served by this machine. Example:
	// https://app.element.io.
	Origins []string
}

// NewLocal parses the origins, separated by commas.
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

// guard answers 403 to requests for another host, and to requests with which a web page of another machine would change
// something, such as register. The answer has no CORS headers, so a page cannot read it. Requests for another host come
// from a page whose own name suddenly resolves to this machine (DNS rebinding), so that the browser takes the server
// for a part of the page. Reading is allowed from everywhere: it needs an access token, which a page cannot get without
// a request of the second kind.
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

// isHost reports whether the name, with or without a port, stands for this server.
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

// isOrigin reports whether a request has no Origin header, or only an allowed one. Desktop programs that are built like
// web pages, such as Element, have an origin with a scheme of their own.
func (l *Local) isOrigin(origins []string) bool {
	return !slices.ContainsFunc(origins, func(origin string) bool {
		u, err := url.Parse(origin)
		if err != nil || u.Scheme == "" {
			return true // "null": a page that hides its origin
		}
		isPage := u.Scheme == "http" || u.Scheme == "https"
		return isPage && !isThisMachine(strings.ToLower(u.Hostname())) && !slices.Contains(l.Origins, origin)
	})
}
