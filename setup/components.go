package setup

import (
	"database/sql"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/getsentry/sentry-go"
	"github.com/matrix-org/dendrite/appservice"
	"github.com/matrix-org/dendrite/federationapi"
	"github.com/matrix-org/dendrite/internal"
	"github.com/matrix-org/dendrite/internal/caching"
	"github.com/matrix-org/dendrite/internal/httputil"
	"github.com/matrix-org/dendrite/internal/sqlutil"
	"github.com/matrix-org/dendrite/roomserver"
	"github.com/matrix-org/dendrite/roomserver/state"
	dendrite "github.com/matrix-org/dendrite/setup"
	"github.com/matrix-org/dendrite/setup/config"
	"github.com/matrix-org/dendrite/setup/jetstream"
	"github.com/matrix-org/dendrite/setup/mscs"
	"github.com/matrix-org/dendrite/setup/process"
	"github.com/matrix-org/dendrite/userapi"
	userapis "github.com/matrix-org/dendrite/userapi/api"
	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"

	south "github.com/matrix-org/dendrite/futures/roomserver"
	fconfig "github.com/matrix-org/dendrite/futures/setup/config"
	"github.com/matrix-org/dendrite/futures/setup/guard"
)

// components are Dendrite's components, assembled as its own monolith does it.
type components struct {
	dendrite.Monolith
	process *process.ProcessContext
	cm      *sqlutil.Connections
	nats    *jetstream.NATSInstance
	conn    *nats.Conn // the connection that all components share
	js      nats.JetStreamContext
	roomDB  *sql.DB
	caches  *caching.Caches
	gates   *south.Gates
	metrics bool
	started func() // must be called when all of JetStream's consumers exist
}

// resolveStates makes Dendrite use our state resolution for rooms of version 12.
var resolveStates = sync.OnceFunc(func() { state.ResolveSets = south.NewResolver().Resolve })

// newComponents starts all components. check can refuse the roomserver's database before anybody uses it. wrap can wrap
// the user API. Where Dendrite would panic, for example because a database or a NATS server is missing, it returns an
// error.
func newComponents(
	processCtx *process.ProcessContext, cfg *config.Dendrite, networks fconfig.Networks, metrics bool,
	check func(*sql.DB) error, wrap func(userapis.UserInternalAPI) userapis.UserInternalAPI,
) (c *components, err error) {
	defer asError(&err)
	c = &components{
		process: processCtx,
		cm:      sqlutil.NewConnectionManager(processCtx, cfg.Global.DatabaseOptions),
		nats:    new(jetstream.NATSInstance),
		caches:  caching.NewRistrettoCache(cfg.Global.Cache.EstimatedMaxSize, cfg.Global.Cache.MaxAge, metrics),
		gates:   new(south.Gates),
		metrics: metrics,
	}
	c.Config = cfg
	c.FedClient, c.Client = newClients(cfg, networks)
	if c.roomDB, _, err = c.cm.Connection(&cfg.RoomServer.Database); err != nil {
		return nil, err
	}
	if err := check(c.roomDB); err != nil {
		return nil, err
	}
	cfg.UserAPI.PushGatewayDial = guardedDialer(networks).DialContext // users choose the addresses of gateways, and gateways can redirect

	if err := c.prepareJetStream(&cfg.Global.JetStream); err != nil {
		return nil, err
	}
	resolveStates()
	rooms := roomserver.NewInternalAPI(processCtx, cfg, c.cm, c.nats, c.caches, metrics)
	complete := make(chan struct{})
	early := earlyCalls{rooms, complete}
	federation := federationapi.NewInternalAPI(processCtx, cfg, c.cm, c.nats, c.FedClient, early, c.caches, nil, false)
	c.KeyRing = federation.KeyRing()
	rooms.SetFederationAPI(yieldingFederation{federation, c.gates}, c.KeyRing)
	close(complete)
	users := wrap(userapi.NewInternalAPI(processCtx, cfg, c.cm, c.nats, rooms, c.FedClient, metrics, federation.IsBlacklistedOrBackingOff))
	services := appservice.NewInternalAPI(processCtx, cfg, c.nats, users, rooms)
	rooms.SetAppserviceAPI(services)
	rooms.SetUserAPI(users)
	c.RoomserverAPI, c.FederationAPI, c.UserAPI, c.AppserviceAPI = rooms, federation, users, services

	return c, nil
}

// asError turns a panic of Dendrite's start into an error.
func asError(err *error) {
	switch reason := recover().(type) {
	case nil:
	case *logrus.Entry:
		*err = fmt.Errorf("%s: %v", reason.Message, reason.Data[logrus.ErrorKey])
	default:
		panic(reason)
	}
}

// prepareJetStream starts or connects to JetStream, and repairs it before anybody uses it.
func (c *components) prepareJetStream(cfg *config.JetStream) (err error) {
	if len(cfg.Addresses) == 0 {
		if err := guard.MendFolder(string(cfg.StoragePath)); err != nil {
			return err
		}
	}
	c.js, c.conn = c.nats.Prepare(c.process, cfg)
	if c.started, err = guard.KeepMessages(c.js, cfg); err != nil {
		return err
	}
	return guard.AlignConsumers(c.conn, c.js, cfg)
}

// addRoutes registers the routes of all components.
func (c *components) addRoutes(routers httputil.Routers) (err error) {
	defer asError(&err)
	c.AddAllPublicRoutes(c.process, c.Config, routers, c.cm, c.nats, c.caches, c.metrics)
	c.started()
	if len(c.Config.MSCs.MSCs) == 0 {
		return nil
	}
	return mscs.Enable(c.Config, c.cm, routers, &c.Monolith, c.caches)
}

// startReporting enables tracing, Sentry and the up metric. The closer ends tracing.
func startReporting(processCtx *process.ProcessContext, cfg *config.Dendrite, metrics bool) (io.Closer, error) {
	tracing, err := cfg.SetupTracing()
	if err != nil {
		return nil, fmt.Errorf("tracing: %w", err)
	}
	if err := startSentry(processCtx, cfg); err != nil {
		tracing.Close()
		return nil, fmt.Errorf("sentry: %w", err)
	}
	if metrics {
		up := prometheus.NewCounter(prometheus.CounterOpts{
			Namespace:   "dendrite",
			Name:        "up",
			ConstLabels: prometheus.Labels{"version": internal.VersionString()},
		})
		up.Inc()
		prometheus.MustRegister(up)
	}
	return tracing, nil
}

func startSentry(processCtx *process.ProcessContext, cfg *config.Dendrite) error {
	if !cfg.Global.Sentry.Enabled {
		return nil
	}
	err := sentry.Init(sentry.ClientOptions{
		Dsn:              cfg.Global.Sentry.DSN,
		Environment:      cfg.Global.Sentry.Environment,
		Debug:            true,
		ServerName:       string(cfg.Global.ServerName),
		Release:          "dendrite@" + internal.VersionString(),
		AttachStacktrace: true,
	})
	if err != nil {
		return err
	}
	processCtx.ComponentStarted()
	go func() {
		defer processCtx.ComponentFinished()
		<-processCtx.WaitForShutdown()
		if !sentry.Flush(5 * time.Second) {
			logrus.Warn("Some reports did not reach Sentry")
		}
	}()
	return nil
}
