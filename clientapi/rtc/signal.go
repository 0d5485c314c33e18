package rtc

import (
	"context"
	"io"
	"net/http"
	"net/http/httputil"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/sirupsen/logrus"

	fconfig "github.com/matrix-org/dendrite/futures/setup/config"
)

// Signalling returns the reverse proxy for the signalling connections of clients, to be mounted at config.SignalPath. It is
// nil if every SFU has a URL of its own. Media does not pass through this server.
//
// When a client's process dies, its kernel closes this connection at once. LiveKit ignores that and waits for 20 s until
// the media connection times out. This server waits for comeBackSignal, because a live client reconnects at once.
func (s *Service) Signalling() http.Handler {
	paths := make(map[string]http.Handler)
	for i, l := range s.sfus {
		if l.Signalling {
			number := ""
			if i > 0 {
				number = "/" + strconv.Itoa(i+1)
			}
			paths[number] = s.passOn(l, fconfig.SignalPath+number)
		}
	}
	if len(paths) == 0 {
		return nil
	}
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		number, below, _ := strings.Cut(strings.TrimPrefix(req.URL.Path, fconfig.SignalPath), "/rtc")
		if h := paths[number]; h != nil && isSignalling("/rtc"+below) && (req.Method == get || req.Method == options) {
			h.ServeHTTP(w, req)
			return
		}
		respond(w, *failed(http.StatusNotFound, spec.ErrorUnrecognized, "Unrecognized request"))
	})
}

// passOn returns the proxy for one SFU. Only requests with a token of that SFU reach it.
func (s *Service) passOn(l *sfu, prefix string) http.Handler {
	target, err := url.Parse(l.api)
	if err != nil {
		return http.NotFoundHandler() // the configuration has been checked
	}
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Path, r.Out.URL.RawPath = strings.TrimPrefix(r.In.URL.Path, prefix), ""
			r.SetURL(target)
			r.SetXForwarded()
		},
		ModifyResponse: func(res *http.Response) error {
			conn, ok := res.Body.(io.ReadWriteCloser)
			if t, isTapped := res.Request.Context().Value(tapKey{}).(*tap); ok && isTapped {
				t.ReadWriteCloser, res.Body = conn, t
				t.begin()
			}
			return nil
		},
		ErrorHandler: func(w http.ResponseWriter, req *http.Request, err error) {
			if req.Context().Err() == nil { // the URL in the error would hold the token
				logrus.WithField("sfu", l.URL).Warn("The SFU does not answer a client")
			}
			w.Header().Set("Access-Control-Allow-Origin", "*")
			respond(w, *failed(http.StatusBadGateway, spec.ErrorUnknown, "The SFU does not answer"))
		},
	}
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.Method == options {
			proxy.ServeHTTP(w, req)
			return
		}
		at, expires, ok := l.bearer(req)
		if !ok {
			w.Header().Set("Access-Control-Allow-Origin", "*")
			respond(w, *failed(http.StatusUnauthorized, errorUnauthorized, "There is no token of this SFU"))
			return
		}
		if retry := s.perUser("signalling " + at.identity); retry > 0 {
			w.Header().Set("Access-Control-Allow-Origin", "*")
			respond(w, *tooFast(retry))
			return
		}
		// LiveKit loses its rooms when it restarts. A token does not create one, and a client gives up without it.
		if time.Now().Before(expires) {
			if err := l.createRoom(req.Context(), at.alias); err != nil && req.Context().Err() == nil {
				logrus.WithError(err).WithField("sfu", l.URL).Info("Cannot make a room on the SFU for somebody who connects")
			}
		}
		if strings.EqualFold(req.Header.Get("Upgrade"), "websocket") && s.delegates != nil {
			t := &tap{begin: func() { s.delegates.connected(at) }}
			req = req.WithContext(context.WithValue(req.Context(), tapKey{}, t))
			defer func() {
				if t.ReadWriteCloser != nil {
					s.delegates.disconnected(at, t.endedByClient())
				}
			}()
		}
		proxy.ServeHTTP(w, req)
	})
}

// isSignalling reports whether LiveKit serves clients at that path below the prefix: /rtc and what is below it.
func isSignalling(below string) bool {
	return (below == "/rtc" || strings.HasPrefix(below, "/rtc/")) && path.Clean(below) == strings.TrimSuffix(below, "/")
}

// bearer returns the participant of the request's token. It ignores the expiry, which the SFU checks: LiveKit renews the
// tokens of connected participants. Like LiveKit it prefers the header to the query.
func (l *sfu) bearer(req *http.Request) (at line, expires time.Time, ok bool) {
	token, isBearer := strings.CutPrefix(req.Header.Get("Authorization"), "Bearer ")
	if !isBearer {
		token = req.URL.Query().Get("access_token")
	}
	var c claims
	_, err := jwt.ParseWithClaims(token, &c, func(*jwt.Token) (any, error) { return []byte(l.APISecret), nil },
		jwt.WithValidMethods([]string{"HS256"}), jwt.WithoutClaimsValidation())
	if err != nil || c.Issuer != l.APIKey || !c.Video.RoomJoin || c.ExpiresAt == nil {
		return line{}, time.Time{}, false
	}
	return line{l.URL, c.Video.Room, c.Subject}, c.ExpiresAt.Time, true
}

// A tap is the connection to the SFU once it is established. It records which side ends it.
type tap struct {
	io.ReadWriteCloser
	begin          func()
	over, byClient atomic.Bool
}

type tapKey struct{}

// Read implements io.Reader.
func (t *tap) Read(p []byte) (int, error) {
	n, err := t.ReadWriteCloser.Read(p)
	if err != nil {
		t.over.Store(true)
	}
	return n, err
}

// Write implements io.Writer. A client that can do so sends a close frame, and the SFU then closes the connection.
func (t *tap) Write(p []byte) (int, error) {
	const closeFrame = 0x88 // RFC 6455, section 5.2
	if len(p) > 0 && p[0] == closeFrame {
		t.byClient.Store(true)
	}
	return t.ReadWriteCloser.Write(p)
}

// endedByClient must be called after the proxy has returned.
func (t *tap) endedByClient() bool { return t.byClient.Load() || !t.over.Load() }

// lines counts the open signalling connections of each participant.
type lines struct {
	mu   sync.Mutex
	open map[line]int
	lost []loss // the latest, ended by clients
}

// A loss is the end of a participant's last signalling connection, by the client.
type loss struct {
	line
	at time.Time
}

// lossWindow is how close to each other losses are that have one cause.
const lossWindow = 2 * comeBackSignal

// noteLoss records a loss and forgets old ones.
func (ls *lines) noteLoss(l line, now time.Time) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	ls.lost = slices.DeleteFunc(ls.lost, func(old loss) bool { return old.line == l || now.Sub(old.at) > lossWindow })
	ls.lost = append(ls.lost, loss{l, now})
}

// manyLost reports whether several participants have lost their connections lately and have not reconnected.
func (ls *lines) manyLost(now time.Time) bool {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	n := 0
	for _, l := range ls.lost {
		if now.Sub(l.at) <= lossWindow && ls.open[l.line] == 0 {
			n++
		}
	}
	return n > 1
}

type line struct{ sfu, alias, identity string }

// add adds n to the count of a participant's connections and returns the new count.
func (ls *lines) add(l line, n int) int {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	if ls.open == nil {
		ls.open = make(map[line]int)
	}
	if ls.open[l] += n; ls.open[l] == 0 {
		delete(ls.open, l)
		return 0
	}
	return ls.open[l]
}

// has reports whether the participant of a job has a signalling connection.
func (ls *lines) has(j *job) bool {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	for _, sfu := range j.SFUs {
		for _, identity := range j.Identities {
			if ls.open[line{sfu, j.Alias, identity}] > 0 {
				return true
			}
		}
	}
	return false
}

// connected reports a new signalling connection to the participant's jobs.
func (d *delegates) connected(l line) {
	d.lines.add(l, 1)
	d.inform(l, (*watch).heard)
}

// disconnected reports the end of the last signalling connection to them.
func (d *delegates) disconnected(l line, byClient bool) {
	if d.lines.add(l, -1) == 0 {
		if byClient {
			d.lines.noteLoss(l, time.Now())
		}
		d.inform(l, func(w *watch, now time.Time) action { return w.unheard(now, byClient) })
	}
}
