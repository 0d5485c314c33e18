package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"

	"github.com/sirupsen/logrus"
	"gopkg.in/yaml.v3"
)

// LegacyPath is where this server answers the API of lk-jwt-service, LiveKit's authorisation service, which today's
// clients use.
const LegacyPath = "/_matrix/livekit/jwt"

// SignalPath is where this server passes on the signalling connections of clients to SFUs without a URL of their own.
const SignalPath = "/_matrix/livekit/sfu"

const (
	typeLiveKit       = "m.livekit" // MSC4195: url alone
	typeLegacyLiveKit = "livekit"   // today's clients: livekit_service_url
)

// MatrixRTC is the matrix_rtc section. It names the SFUs that carry the media of calls.
type MatrixRTC struct {
	// Enabled announces the transports. If it is off, nothing of this section is served.
	Enabled bool `yaml:"enabled"`
	// Public announces the transports to everybody, also without an access token.
	Public bool `yaml:"public"`
	// Transports are announced as they are here (MSC4143).
	Transports []map[string]any `yaml:"transports,omitempty"`
	// WellKnown also announces the transports in /.well-known/matrix/client, where older clients look.
	WellKnown bool `yaml:"well_known"`
	// WellKnownExtra are further members of /.well-known/matrix/client.
	WellKnownExtra map[string]any `yaml:"well_known_extra,omitempty"`
	// TrustedDelegation says that the other services among Transports send the delayed leaves of those who lose their
	// connection, as this server does.
	TrustedDelegation bool `yaml:"trusted_delegation"`
	// LiveKit are the SFUs for which this server issues tokens (MSC4195).
	LiveKit []LiveKit `yaml:"livekit,omitempty"`
}

// LiveKit is one SFU.
type LiveKit struct {
	// URL is the WebSocket address for clients.
	URL string `yaml:"url"`
	// APIURL is where this server reaches the SFU; the default is URL.
	APIURL string `yaml:"api_url,omitempty"`
	// APIKey and APISecret are a pair of the SFU's keys.
	APIKey    string `yaml:"api_key"`
	APISecret string `yaml:"api_secret"`
	// ServiceURL is where clients reach LegacyPath of this server; "" switches that API off for this SFU.
	ServiceURL string `yaml:"service_url"`
	// RemotePublish says which other homeservers' users may publish here.
	RemotePublish RemotePublish `yaml:"remote_publish"`
	// Signalling says that URL is this server's: it passes on the connections that clients make there.
	Signalling bool `yaml:"-"`
}

// RemotePublish stands for all servers, none, or the listed ones.
type RemotePublish struct {
	All     bool
	Servers []string
}

// MarshalYAML implements yaml.Marshaler.
func (p RemotePublish) MarshalYAML() (any, error) {
	if len(p.Servers) > 0 {
		return p.Servers, nil
	}
	return p.All, nil
}

// Allows reports whether users of that homeserver may publish.
func (p RemotePublish) Allows(server string) bool {
	return p.All || slices.Contains(p.Servers, server)
}

// Delegates reports whether clients may delegate their leaves to this server (delegate_delayed_leave of MSC4195). Clients
// then trust that somebody watches the SFU, whichever service gave them their token. So it is false if the operator
// announces another service, unless TrustedDelegation says that it watches, too.
func (m *MatrixRTC) Delegates() bool {
	return m.Issues() && (m.TrustedDelegation || !slices.ContainsFunc(m.Transports, func(t map[string]any) bool {
		service, ok := t["livekit_service_url"].(string)
		service = strings.TrimRight(service, "/")
		return ok && !slices.ContainsFunc(m.LiveKit, func(sfu LiveKit) bool { return service == sfu.ServiceURL })
	}))
}

// Announced returns the transports for clients: the operator's, then those of our own SFUs. Each SFU has up to two
// transports. They are separate because a client that finds both URLs in one transport derives other participant names.
// Clients take m.livekit as a promise that leaves can be delegated.
func (m *MatrixRTC) Announced() []map[string]any {
	delegates := m.Delegates()
	if !m.Enabled {
		return nil
	}
	all := slices.Clone(m.Transports)
	has := func(kind, key, value string) bool {
		return slices.ContainsFunc(m.Transports, func(t map[string]any) bool { return t["type"] == kind && t[key] == value })
	}
	for _, sfu := range m.LiveKit {
		if delegates && !has(typeLiveKit, "url", sfu.URL) {
			all = append(all, map[string]any{"type": typeLiveKit, "url": sfu.URL})
		}
		if sfu.ServiceURL != "" && !has(typeLegacyLiveKit, "livekit_service_url", sfu.ServiceURL) {
			all = append(all, map[string]any{"type": typeLegacyLiveKit, "livekit_service_url": sfu.ServiceURL})
		}
	}
	return all
}

// Foci returns the transports for /.well-known/matrix/client: those that its readers understand.
func (m *MatrixRTC) Foci() (foci []map[string]any) {
	if !m.WellKnown {
		return nil
	}
	for _, t := range m.Announced() {
		if t["type"] == typeLegacyLiveKit && t["livekit_service_url"] != nil {
			foci = append(foci, t)
		}
	}
	return foci
}

// Issues reports whether this server issues LiveKit tokens.
func (m *MatrixRTC) Issues() bool { return m.Enabled && len(m.LiveKit) > 0 }

// AddDevelopment adds the SFU of somebody who tries calls on one machine. base is where clients reach this server. sfu is the
// SFU's address with its key and secret, as in http://KEY:SECRET@127.0.0.1:7880; "dev" stands for what livekit-server --dev
// listens on.
func (m *MatrixRTC) AddDevelopment(base, sfu string) error {
	if sfu == "dev" {
		sfu = "http://devkey:secret@127.0.0.1:7880"
	}
	u, err := url.Parse(sfu)
	if err != nil || u.Host == "" || u.User == nil || u.Scheme != "http" && u.Scheme != "https" {
		return errors.New(`should be "dev" or an address as in http://KEY:SECRET@127.0.0.1:7880`)
	}
	secret, _ := u.User.Password()
	if u.User.Username() == "" || secret == "" {
		return errors.New("has no key or no secret")
	}
	added := LiveKit{APIKey: u.User.Username(), APISecret: secret, RemotePublish: RemotePublish{All: true}, Signalling: true}
	u.User = nil
	added.APIURL = strings.TrimRight(u.String(), "/")
	added.URL = "ws" + strings.TrimPrefix(base, "http") + SignalPath + m.number()
	added.ServiceURL = base + LegacyPath + m.number()
	m.LiveKit = append(m.LiveKit, added)
	return nil
}

// fields lists the keys of the section with their parsers. base is the URL under which clients reach this server, or ""
// if dendrite.yaml does not say.
func (m *MatrixRTC) fields(r *reader, base string) fields {
	return fields{
		"enabled":            r.boolean(&m.Enabled),
		"public":             r.boolean(&m.Public),
		"transports":         r.list(func(key string, node *yaml.Node) { m.readTransport(r, key, node) }),
		"well_known":         r.boolean(&m.WellKnown),
		"well_known_extra":   r.object(&m.WellKnownExtra),
		"trusted_delegation": r.boolean(&m.TrustedDelegation),
		"livekit":            r.list(func(key string, node *yaml.Node) { m.readLiveKit(r, key, node, base) }),
	}
}

func (m *MatrixRTC) readTransport(r *reader, key string, node *yaml.Node) {
	var t map[string]any
	before := len(r.errs)
	r.object(&t)(key, node)
	if len(r.errs) > before {
		return
	}
	kind, ok := t["type"].(string)
	if !ok || kind == "" {
		r.fail(key+".type", node, "is missing; every transport has one, as in type: livekit")
		return
	}
	if kind == typeLegacyLiveKit || kind == typeLiveKit {
		checkTransport(r, key, node, t)
	}
	m.Transports = append(m.Transports, t)
}

// checkTransport refuses transports that clients of LiveKit could not use.
func checkTransport(r *reader, key string, node *yaml.Node, t map[string]any) {
	needed := []string{"url", "livekit_service_url"}
	if t["type"] == typeLiveKit {
		needed = needed[:1]
	}
	if !slices.ContainsFunc(needed, func(k string) bool { return t[k] != nil }) {
		r.fail(key, node, "has no %s", strings.Join(needed, " and no "))
	}
	for k, schemes := range map[string][]string{"url": {"wss", "ws"}, "livekit_service_url": {"https", "http"}} {
		if at := member(node, k); at != nil {
			scalar(r, new(string), urlParser(key+"."+k, schemes))(key+"."+k, at)
		}
	}
}

func (m *MatrixRTC) readLiveKit(r *reader, key string, node *yaml.Node, base string) {
	sfu := LiveKit{RemotePublish: RemotePublish{All: true}}
	var secretFile string
	before := len(r.errs)
	address := func(to *string, name string, schemes ...string) field {
		return scalar(r, to, urlParser(key+"."+name, schemes))
	}
	r.section(key, node, fields{
		"url":             address(&sfu.URL, "url", "wss", "ws"),
		"api_url":         address(&sfu.APIURL, "api_url", "https", "http"),
		"api_key":         r.text(&sfu.APIKey),
		"api_secret":      r.text(&sfu.APISecret),
		"api_secret_file": r.text(&secretFile),
		"remote_publish":  r.remotePublish(&sfu.RemotePublish),
		"service_url": func(full string, node *yaml.Node) {
			if node != nil && node.Value != "" {
				address(&sfu.ServiceURL, "service_url", "https", "http")(full, node)
			}
		},
	})
	if secretFile != "" && sfu.APISecret == "" {
		sfu.APISecret = r.secret(key+".api_secret_file", member(node, "api_secret_file"))
	}
	if sfu.URL == "" && sfu.APIURL != "" && base != "" {
		sfu.Signalling = true
		sfu.URL = "ws" + strings.TrimPrefix(base, "http") + SignalPath + m.number()
	}
	for _, needed := range [][2]string{{"url", sfu.URL}, {"api_key", sfu.APIKey}, {"api_secret", sfu.APISecret}} {
		if needed[1] == "" && len(r.errs) == before {
			r.fail(key+"."+needed[0], node, "is missing")
		}
	}
	if member(node, "service_url") == nil {
		if base == "" {
			r.fail(key+".service_url", node, `is missing: say where clients reach %s of this server, or set global.well_known_client_name; "" switches that API off`, LegacyPath)
		}
		sfu.ServiceURL = base + LegacyPath + m.number()
	}
	if slices.ContainsFunc(m.LiveKit, func(other LiveKit) bool { return other.URL == sfu.URL }) {
		r.fail(key+".url", node, "%q stands here twice", sfu.URL)
	}
	m.LiveKit = append(m.LiveKit, sfu)
}

// number returns what is appended to the paths of the next SFU, because requests do not name one.
func (m *MatrixRTC) number() string {
	if n := len(m.LiveKit); n > 0 {
		return fmt.Sprintf("/%d", n+1)
	}
	return ""
}

// list parses each element of a list. The key of an element is that of the list with a number, as in livekit[0].
func (r *reader) list(each field) field {
	return func(key string, node *yaml.Node) {
		if node == nil {
			return
		}
		if node.Kind != yaml.SequenceNode {
			r.fail(key, node, "should be a list")
			return
		}
		for i, item := range node.Content {
			full := fmt.Sprintf("%s[%d]", key, i)
			if resolved(item) == nil || resolved(item).Kind != yaml.MappingNode {
				r.fail(full, item, "should hold keys and values")
				continue
			}
			each(full, resolved(item))
		}
	}
}

// object parses a mapping that is passed on as JSON.
func (r *reader) object(to *map[string]any) field {
	return func(key string, node *yaml.Node) {
		if node == nil {
			return
		}
		if node.Kind != yaml.MappingNode {
			r.fail(key, node, "should hold keys and values")
			return
		}
		var v map[string]any
		if err := node.Decode(&v); err != nil {
			r.fail(key, node, "cannot be read: %v", err)
			return
		}
		if _, err := json.Marshal(v); err != nil {
			r.fail(key, node, "cannot be written as JSON: %v", err)
			return
		}
		*to = v
	}
}

func (r *reader) remotePublish(to *RemotePublish) field {
	return func(key string, node *yaml.Node) {
		if node == nil {
			return
		}
		if node.Kind == yaml.ScalarNode {
			r.boolean(&to.All)(key, node)
			return
		}
		var servers []string
		if node.Kind != yaml.SequenceNode || node.Decode(&servers) != nil {
			r.fail(key, node, "should be true, false or a list of server names")
			return
		}
		*to = RemotePublish{Servers: servers}
	}
}

// secret reads a file that contains nothing but a secret.
func (r *reader) secret(key string, node *yaml.Node) string {
	data, err := os.ReadFile(node.Value)
	if err == nil && strings.TrimSpace(string(data)) == "" {
		err = errors.New("the file is empty")
	}
	if err != nil {
		r.fail(key, node, "%v", err)
	}
	return strings.TrimSpace(string(data))
}

// urlParser parses an absolute URL with one of two schemes; the first is the encrypted one. It removes a trailing
// slash, because clients append paths.
func urlParser(key string, schemes []string) func(string) (string, error) {
	return func(s string) (string, error) {
		u, err := url.Parse(s)
		if err != nil || !slices.Contains(schemes, u.Scheme) || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
			return "", fmt.Errorf("is no URL as in %s://rtc.example.com", schemes[0])
		}
		if u.Scheme != schemes[0] && !isLoopback(u.Hostname()) {
			logrus.Warnf("%s is %s: the connection is not encrypted", key, s)
		}
		return strings.TrimRight(s, "/"), nil
	}
}

func isLoopback(host string) bool {
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && net.IP(addr.AsSlice()).IsLoopback()
}
