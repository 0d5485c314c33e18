// Package setup puts the homeserver together: Dendrite's components, the futureserver and its two adapters,
// the HTTP front. It is the only place that sees everything. A future's way leads through here twice: its
// request comes in by the front, and at the end of the process it is setup that lets the futureserver finish
// before Dendrite stops beneath it.
package setup

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/kardianos/minwinsvc"
	"github.com/matrix-org/dendrite/internal/httputil"
	"github.com/matrix-org/dendrite/setup/config"
	"github.com/matrix-org/dendrite/setup/jetstream"
	"github.com/matrix-org/dendrite/setup/process"
	userapis "github.com/matrix-org/dendrite/userapi/api"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"

	"github.com/matrix-org/dendrite/futures/clientapi"
	"github.com/matrix-org/dendrite/futures/clientapi/rtc"
	"github.com/matrix-org/dendrite/futures/futureserver"
	"github.com/matrix-org/dendrite/futures/roomserver"
	fconfig "github.com/matrix-org/dendrite/futures/setup/config"
	"github.com/matrix-org/dendrite/futures/setup/guard"
)

// Options are what a server is started with.
type Options struct {
	// Dendrite is the whole of Dendrite's configuration. Start verifies it.
	Dendrite *config.Dendrite
	// Futures and Networks are what config.Load found in the same file.
	Futures  *fconfig.FutureServer
	Networks fconfig.Networks
	// HTTP and HTTPS are where to listen; a zero address is not listened on, nor is HTTPS without a
	// certificate. Port 0 means any.
	HTTP, HTTPS       config.ServerAddress
	CertFile, KeyFile string
	// Local, if not nil, keeps web pages of others out.
	Local *Local
	// Metrics registers Prometheus metrics in the default registry, which is possible once in a process.
	Metrics bool
	// Step is told of each step of the start and of a future's life, for tests that stop the process there.
	Step func(string)
}

// Without it the consumer would look at every room.
var _ roomserver.RoomWatcher = futureserver.Server(nil)

// Server is a running homeserver.
type Server struct {
	process    *process.ProcessContext
	components *components
	sessions   *clientapi.Sessions
	consumer   *roomserver.Consumer
	futures    futureserver.Server // nil if switched off
	routers    httputil.Routers    // all that requests can ask for
	rtc        *rtc.Service
	front      *front
	health     *health
	manager    serviceManager
	tracing    io.Closer
	unlock     func()

	stop     sync.Once
	stopping chan struct{} // closed when Stop begins
	stopErr  error
	outage   sync.Once

	done   chan struct{}
	failed error // why done was closed; read it only after
	end    sync.Once
}

// Start starts a homeserver and returns when it answers requests. ctx bounds the start alone. On an error
// nothing is left running. Some troubles with its databases or JetStream Dendrite answers by ending the
// process.
func Start(ctx context.Context, o Options) (_ *Server, err error) {
	if err := verify(o.Dendrite, o.Futures); err != nil {
		return nil, err
	}
	if o.Step == nil {
		o.Step = func(string) {}
	}
	s := &Server{
		process: process.NewProcessContext(), manager: newServiceManager(), stopping: make(chan struct{}), done: make(chan struct{}),
	}
	s.process.ComponentStarted() // until stopDendrite, so that nobody starts to count while it is waited for
	defer func() {
		if err != nil {
			s.abandon()
		}
	}()
	if s.front, err = listen(o); err != nil {
		return nil, err
	}
	if s.unlock, err = lockStorage(o.Dendrite); err != nil {
		return nil, err
	}
	if o.Futures.SQLiteWAL {
		if err := enableWAL(ctx, o.Dendrite); err != nil {
			return nil, err
		}
	}
	if s.tracing, err = startReporting(s.process, o.Dendrite, o.Metrics); err != nil {
		return nil, err
	}
	fitForCalls(o.Dendrite, o.Futures)
	s.components, err = newComponents(s.process, o.Dendrite, o.Networks, o.Metrics, checkRooms(ctx, o), func(users userapis.UserInternalAPI) userapis.UserInternalAPI {
		s.sessions = clientapi.NewSessions(roomserver.WrapUserAPI(users, s.dropFutures))
		return clientapi.NoteCallers(s.sessions)
	})
	if err != nil {
		return nil, err
	}
	s.rtc = newRTC(s.components, o)
	go s.rtc.Run(s.process.Context())
	ready := make(chan struct{})
	if err := s.startFutures(ctx, o, ready); err != nil {
		return nil, fmt.Errorf("futureserver: %w", err)
	}
	o.Step("unread") // futures are there; not all consumers of the output are
	if s.health, err = healthOf(s, o); err != nil {
		return nil, err
	}
	s.health.notify = s.manager.notify
	if o.Metrics {
		registerMetrics(prometheus.DefaultRegisterer, s.health)
	}
	if err := s.serve(o); err != nil {
		return nil, err
	}
	s.surviveOutages()
	// Dendrite creates the last consumers of the roomserver's output together with its routes. JetStream keeps a message
	// only for consumers that exist: what a future had sent before would have been missing in /sync for ever.
	close(ready)
	logSettings(o.Futures)
	go s.health.watch(s.process.Context())
	s.manager.notify("READY=1")
	minwinsvc.SetOnExit(s.stopService)
	return s, nil
}

// checkRooms refuses a database with rooms that the server could not serve.
func checkRooms(ctx context.Context, o Options) func(*sql.DB) error {
	return func(db *sql.DB) error {
		source := cmp.Or(o.Dendrite.RoomServer.Database.ConnectionString, o.Dendrite.Global.DatabaseOptions.ConnectionString)
		return guard.CheckRoomVersions(ctx, db, source.IsSQLite(), o.Futures.IgnoreUnknownRooms)
	}
}

// verify looks for mistakes in the configuration and fills in what depends on both parts of it.
func verify(cfg *config.Dendrite, futures *fconfig.FutureServer) error {
	var found config.ConfigErrors
	cfg.Verify(&found)
	var errs []error
	for _, text := range found {
		errs = append(errs, errors.New(text))
	}
	if len(errs) == 0 {
		errs = append(errs, futures.Complete(cfg))
	}
	return errors.Join(errs...)
}

// startFutures starts the futureserver between its two adapters. The consumer is created first, so that no
// state change goes unseen from before the first future on. No future is sent before ready is closed.
func (s *Server) startFutures(ctx context.Context, o Options, ready <-chan struct{}) (err error) {
	c := s.components
	room, err := roomserver.NewRoom(o.Dendrite, c.RoomserverAPI, c.roomDB, c.gates)
	if err != nil {
		return err
	}
	if s.consumer, err = roomserver.NewConsumer(s.process, c.js, room); err != nil {
		return err
	}
	if !o.Futures.Enabled {
		// It serves to watch the others at the end; JetStream need not keep messages for it.
		js := &o.Dendrite.Global.JetStream
		return c.js.DeleteConsumer(js.Prefixed(jetstream.OutputRoomEvent), js.Durable(roomserver.ConsumerName))
	}
	options := futureserver.Options{Step: o.Step, Ready: ready, Storm: inStorms()}
	if o.Metrics {
		options.Registerer = prometheus.DefaultRegisterer
	}
	futures, err := futureserver.NewInternalAPI(ctx, o.Futures, room, options)
	if err != nil {
		return err
	}
	s.futures = futures
	s.consumer.WatchMembers(s.rtc)
	s.consumer.Start(futures)
	go func() {
		<-futures.Done()
		if err := futures.Err(); err != nil {
			s.finish(fmt.Errorf("futureserver: %w", err))
		}
	}()
	return nil
}

// serve registers all routes, ours first because the first that matches wins, and opens the door.
func (s *Server) serve(o Options) error {
	routers := newRouters(s.process, o.Dendrite)
	s.routers = routers
	tokens, management := clientapi.AddPublicRoutes(routers, o.Dendrite, o.Futures, s.futures, s.sessions.Remembered())
	if o.Metrics {
		prometheus.MustRegister(tokens.Answers())
	}
	s.rtc.AddRoutes(routers)
	ours := routesOf(routers)
	if err := s.components.addRoutes(routers); err != nil {
		return err
	}
	gates := &gating{s.components.gates, s.components.RoomserverAPI, s.sessions.Remembered()}
	if err := gates.guard(routers, ours); err != nil {
		return err
	}
	syncDB, _, err := s.components.cm.Connection(&o.Dendrite.SyncAPI.Database)
	if err != nil {
		return err
	}
	if err := guardTransactions(s.newTransactions(syncDB), routers, ours); err != nil {
		return err
	}
	handler := clientapi.StateAfter(newHandler(o, routers, s.rtc.Legacy()), syncDB, s.components.UserAPI, s.components.RoomserverAPI)
	if s.futures != nil {
		handler = clientapi.ShowDelayIDs(s.futures, handler)
	}
	handler = slowBodies(s.front.patience.body, uncached(s.health.monitor(handler)))
	handler = heartbeatsFirst(handler, tokens, management)
	if o.Local != nil {
		handler = o.Local.guard(handler)
	}
	s.front.serve(s.process.Context(), o, handler, s.finish)
	return nil
}

// newTransactions knows what clients have been answered, before the start too.
func (s *Server) newTransactions(syncDB *sql.DB) *guard.Transactions {
	c := s.components
	store := guard.Store{
		Users: s.sessions.Remembered(), Conn: c.conn, JS: c.js, Config: &c.Config.Global.JetStream, SyncDB: syncDB,
	}
	if s.futures != nil {
		store.Scheduled = clientapi.WasFuture(s.futures)
	}
	return guard.NewTransactions(s.process.Context(), store)
}

// dropFutures is called when an account has been deactivated.
func (s *Server) dropFutures(userID string) {
	if s.futures == nil {
		return
	}
	ctx, cancel := context.WithTimeout(s.process.Context(), 10*time.Second)
	defer cancel()
	if err := s.futures.PerformUserRemoval(ctx, userID); err != nil {
		logrus.WithError(err).WithField("user_id", userID).Error("Cannot drop the futures of a deactivated account; they will fail when due")
	}
}

// Addr returns where the server listens for HTTP, nil if it does not.
func (s *Server) Addr() net.Addr { return address(s.front.http) }

// TLSAddr returns where the server listens for HTTPS, nil if it does not.
func (s *Server) TLSAddr() net.Addr { return address(s.front.https) }

func address(l net.Listener) net.Addr {
	if l == nil {
		return nil
	}
	return l.Addr()
}

// Done is closed when the server cannot go on or has been stopped. Stop is to be called in any case.
func (s *Server) Done() <-chan struct{} { return s.done }

// Err returns why the server could not go on; nil while Done is open, and after a stop that was asked for.
func (s *Server) Err() error {
	select {
	case <-s.done:
		return s.failed
	default:
		return nil
	}
}

func (s *Server) finish(err error) {
	s.end.Do(func() {
		s.failed = err
		close(s.done)
	})
}
