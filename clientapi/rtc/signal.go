package rtc

import (
	"context"
	"io"
	"net/http"
	"net/http/httputil"
	"net/url"
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
		number, _, _ := strings.Cut(strings.TrimPrefix(req.URL.Path, fconfig.SignalPath), "/rtc")
		if h := paths[number]; h != nil {
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
		alias, identity, ok := l.bearer(req)
		if !ok && req.Method != options {
			w.Header().Set("Access-Control-Allow-Origin", "*")
			respond(w, *failed(http.StatusUnauthorized, errorUnauthorized, "There is no token of this SFU"))
			return
		}
		// LiveKit loses its rooms when it restarts. A token does not create one, and a client gives up without it.
		if ok {
			if err := l.createRoom(req.Context(), alias); err != nil && req.Context().Err() == nil {
				logrus.WithError(err).WithField("sfu", l.URL).Info("Cannot make a room on the SFU for somebody who connects")
			}
		}
		if strings.EqualFold(req.Header.Get("Upgrade"), "websocket") && s.delegates != nil {
			at := line{l.URL, alias, identity}
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

// bearer returns the room and the participant of the request's token. It ignores the expiry, which the SFU checks: LiveKit
// renews the tokens of connected participants.
func (l *sfu) bearer(req *http.Request) (alias, identity string, ok bool) {
	token := req.URL.Query().Get("access_token")
	if token == "" {
		token = strings.TrimPrefix(req.Header.Get("Authorization"), "Bearer ")
	}
	var c claims
	_, err := jwt.ParseWithClaims(token, &c, func(*jwt.Token) (any, error) { return []byte(l.APISecret), nil },
		jwt.WithValidMethods([]string{"HS256"}), jwt.WithoutClaimsValidation())
	return c.Video.Room, c.Subject, err == nil && c.Issuer == l.APIKey && c.Video.RoomJoin
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

// connected reports a new signalling connection to the participant's jobs.
func (d *delegates) connected(l line) {
	d.lines.add(l, 1)
	d.inform(l, (*watch).heard)
}

// disconnected reports the end of the last signalling connection to them.
func (d *delegates) disconnected(l line, byClient bool) {
	if d.lines.add(l, -1) == 0 {
		d.inform(l, func(w *watch, now time.Time) action { return w.unheard(now, byClient) })
	}
}
