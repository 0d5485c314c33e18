package setup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"time"

	sentryhttp "github.com/getsentry/sentry-go/http"
	"github.com/gorilla/mux"
	"github.com/matrix-org/dendrite/internal/httputil"
	"github.com/matrix-org/dendrite/setup/base"
	"github.com/matrix-org/dendrite/setup/config"
	"github.com/matrix-org/dendrite/setup/process"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/sirupsen/logrus"

	"github.com/matrix-org/dendrite/futures/clientapi/page"
	"github.com/matrix-org/dendrite/futures/clientapi/rtc"
	fconfig "github.com/matrix-org/dendrite/futures/setup/config"
)

// newRouters returns Dendrite's routers with the routes that belong to no component: the static pages and the monitor.
func newRouters(processCtx *process.ProcessContext, cfg *config.Dendrite) httputil.Routers {
	routers := httputil.NewRouters()
	base.ConfigureAdminEndpoints(processCtx, routers) // before addStaticPages: the first route that matches wins
	addStaticPages(cfg, routers)
	return routers
}

// addStaticPages adds the landing page and the login fallback to routers.Static. Dendrite does not export them, but
// SetupAndServeHTTP installs them. With nothing to listen on and a process that is over, it does so and returns. Its
// log line about a stopped server is suppressed.
func addStaticPages(cfg *config.Dendrite, routers httputil.Routers) {
	over := process.NewProcessContext()
	over.ShutdownDendrite()
	level := logrus.GetLevel()
	logrus.SetLevel(logrus.WarnLevel)
	defer logrus.SetLevel(level)
	base.SetupAndServeHTTP(over, cfg, routers, config.ServerAddress{}, nil, nil)
}

// newHandler routes requests as Dendrite does: each prefix has its router, and other paths get the Matrix error. The
// parts of MatrixRTC that are not in the routers answer below config.LegacyPath and config.SignalPath.
func newHandler(o Options, routers httputil.Routers, calling *rtc.Service) http.Handler {
	cfg, calls := o.Dendrite, &o.Futures.MatrixRTC
	outer := mux.NewRouter().SkipClean(true).UseEncodedPath()
	outer.NotFoundHandler = httputil.NotFoundCORSHandler

	outer.Handle("/", http.RedirectHandler(httputil.PublicStaticPath, http.StatusFound))
	if metrics := cfg.Global.Metrics; metrics.Enabled {
		outer.Handle("/metrics", httputil.WrapHandlerInBasicAuth(promhttp.Handler(), metrics.BasicAuth))
	}
	report := func(h http.Handler) http.Handler { return h }
	if cfg.Global.Sentry.Enabled {
		report = sentryhttp.New(sentryhttp.Options{Repanic: true}).Handle
	}
	mount := func(prefix string, h http.Handler) { outer.PathPrefix(prefix).Handler(h) }
	mount(httputil.DendriteAdminPathPrefix, routers.DendriteAdmin)
	mount(httputil.PublicClientPathPrefix, report(routers.Client))
	if !cfg.Global.DisableFederation {
		mount(httputil.PublicKeyPathPrefix, routers.Keys)
		mount(httputil.PublicFederationPathPrefix, report(routers.Federation))
	} else if len(calls.Announced()) > 0 {
		// Services that issue tokens for calls ask here who a user is.
		mount(httputil.PublicFederationPathPrefix+"v1/openid/userinfo", routers.Federation)
	}
	if h := calling.Legacy(); h != nil {
		mount(fconfig.LegacyPath+"/", report(h))
	}
	if h := calling.Signalling(); h != nil {
		mount(fconfig.SignalPath+"/", h)
	}
	mount(httputil.SynapseAdminPathPrefix, routers.SynapseAdmin)
	mount(httputil.PublicMediaPathPrefix, routers.Media)
	mount(httputil.PublicWellKnownPrefix, routers.WellKnown)
	if o.Futures.Enabled && o.Futures.Page {
		outer.Handle(strings.TrimSuffix(page.Path, "/"), http.RedirectHandler(page.Path, http.StatusMovedPermanently))
		mount(page.Path, page.Handler())
	}
	mount(httputil.PublicStaticPath, routers.Static)
	return outer
}

// direct is a handler that knows which requests are its own.
type direct interface {
	http.Handler
	Matches(*http.Request) bool
}

// heartbeatsFirst keeps heartbeats out of Dendrite's routers, which cost more than the heartbeats do. It also keeps
// their tokens out of what the routers log.
func heartbeatsFirst(next http.Handler, first ...direct) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for _, h := range first {
			if h.Matches(r) {
				h.ServeHTTP(w, r)
				return
			}
		}
		next.ServeHTTP(w, r)
	})
}

// A front is the server's HTTP side: its listeners and the HTTP server on them.
type front struct {
	http, https net.Listener // nil if there is none
	certificate *certificate // nil if there is none
	server      *http.Server
	patience    patience
	cancel      context.CancelFunc // of all requests
	cancelPolls context.CancelFunc // of requests that wait for something to happen
}

// listen opens the listeners first, so that an address in use is an error before anything has changed. Connections wait
// until serve.
func listen(o Options) (_ *front, err error) {
	f := &front{patience: usualPatience()}
	defer func() {
		if err != nil {
			f.close()
		}
	}()
	if f.certificate, err = newCertificate(o.CertFile, o.KeyFile); err != nil {
		return nil, err
	}
	if o.HTTP.Enabled() {
		if f.http, err = open(o.HTTP); err != nil {
			return nil, err
		}
	}
	if o.HTTPS.Enabled() && f.certificate != nil {
		if f.https, err = open(o.HTTPS); err != nil {
			return nil, err
		}
	}
	return f, nil
}

func open(at config.ServerAddress) (net.Listener, error) {
	if !at.IsUnixSocket() {
		return net.Listen(at.Network(), at.Address)
	}
	// A socket left by a killed server would be in the way.
	if err := os.Remove(at.Address); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("cannot replace the unix socket: %w", err)
	}
	l, err := net.Listen(at.Network(), at.Address)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(at.Address, at.UnixSocketPermission); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// connectionsPerAddress returns the limit and the exempt networks.
func (o Options) connectionsPerAddress() (most int, exempt []netip.Prefix) {
	if o.Futures == nil {
		return 0, nil
	}
	if most = o.Futures.MaxConnectionsPerAddress; most == 0 {
		most = descriptors() / 4
	}
	return most, o.Futures.TrustedProxies
}

// serve answers requests on all listeners. If a listener stops unexpectedly, serve calls failed, at most once for each
// listener.
func (f *front) serve(ctx context.Context, o Options, handler http.Handler, failed func(error)) {
	ctx, f.cancel = context.WithCancel(ctx)
	polls, cancelPolls := context.WithCancel(ctx)
	f.cancelPolls = cancelPolls
	counted := newConnections(o.connectionsPerAddress())
	f.server = &http.Server{
		Handler:           endingPolls(polls, handler),
		ReadHeaderTimeout: f.patience.header,
		ReadTimeout:       f.patience.body, // until the body has ended, or slowBodies extends it
		IdleTimeout:       f.patience.idle,
		WriteTimeout:      base.HTTPServerTimeout,
		ConnState:         counted.note,
		BaseContext:       func(net.Listener) context.Context { return ctx },
	}
	run := func(l net.Listener, serve func() error) {
		logrus.Infof("Listening on %s", l.Addr())
		if err := serve(); !errors.Is(err, http.ErrServerClosed) {
			failed(fmt.Errorf("serving on %s: %w", l.Addr(), err))
		}
	}
	if f.https != nil { // before Serve, which checks here once whether HTTP/2 is wanted
		f.server.TLSConfig = f.certificate.config()
	}
	if f.http != nil {
		go run(f.http, func() error { return f.server.Serve(countedListener{f.http, counted}) })
	}
	if f.https != nil {
		go run(f.https, func() error { return f.server.ServeTLS(countedListener{f.https, counted}, "", "") })
	}
}

// endingPolls ends long polls when polls is done. Otherwise they would delay the shutdown for as long as their client
// asked.
func endingPolls(polls context.Context, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/sync") || strings.HasSuffix(r.URL.Path, "/events") {
			ctx, cancel := context.WithCancel(r.Context())
			defer cancel()
			defer context.AfterFunc(polls, cancel)()
			r = r.WithContext(ctx)
		}
		next.ServeHTTP(w, r)
	})
}

// shutdown accepts no more connections and waits for requests in flight: first for pollGrace, then without the long
// polls, until ctx is done. The rest is cut off.
func (f *front) shutdown(ctx context.Context) error {
	grace := time.AfterFunc(pollGrace, f.cancelPolls)
	defer grace.Stop()
	defer f.close()
	if err := f.server.Shutdown(ctx); err != nil {
		return fmt.Errorf("some requests were cut off: %w", err)
	}
	return nil
}

func (f *front) close() {
	if f.server != nil {
		f.cancel()
		f.server.Close()
	}
	for _, l := range []net.Listener{f.http, f.https} {
		if l != nil {
			l.Close()
		}
	}
}
