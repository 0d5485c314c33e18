// Package setup assembles the homeserver: Dendrite's components, the futureserver and its two adapters, the HTTP front.
// It is the only place that sees everything. server.go has Start and Stop, and the order in which requests pass the
// handlers (serve).
package setup

import (
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
	"github.com/matrix-org/dendrite/futures/clientapi/syncapi"
	"github.com/matrix-org/dendrite/futures/futureserver"
	"github.com/matrix-org/dendrite/futures/roomserver"
	fconfig "github.com/matrix-org/dendrite/futures/setup/config"
	"github.com/matrix-org/dendrite/futures/setup/guard"
)

// Options configure a server.
type Options struct {
	// Dendrite is Dendrite's whole configuration. Start verifies it.
	Dendrite *config.Dendrite
	// Futures and Networks are what config.Load found in the same file.
	Futures  *fconfig.FutureServer
	Networks fconfig.Networks
	// HTTP and HTTPS are the addresses to listen on. A zero address is not used, and HTTPS needs a certificate. Port 0
	// means any.
	HTTP, HTTPS       config.ServerAddress
	CertFile, KeyFile string
	// Local, if not nil, refuses web pages from elsewhere.
	Local *Local
	// Metrics registers Prometheus metrics in the default registry. This is possible once in a process.
	Metrics bool
	// Step is called at each step of the start and of a future's life. Tests stop the process there.
	Step func(string)
}

// Server is a running homeserver.
type Server struct {
	process    *process.ProcessContext
	components *components
	sessions   *clientapi.Sessions
	rooms      *roomserver.Room
	consumer   *roomserver.Consumer
	futures    futureserver.Server // nil if switched off
	routers    httputil.Routers    // all routes
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
	failed error // why done was closed; read it only after that
	end    sync.Once
}

// Start starts a homeserver and returns when it answers requests. ctx limits the start only. After an error nothing is
// left running. Dendrite may end the process after some errors of its databases or of JetStream.
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
	s.process.ComponentStarted() // until stopDendrite, so that the count is above zero while stopDendrite waits
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
		return syncapi.NoteCallers(s.sessions)
	})
	if err != nil {
		return nil, err
	}
	s.rtc = newRTC(s.components, o)
	ready := make(chan struct{})
	if err := s.startFutures(ctx, o, ready); err != nil {
		return nil, fmt.Errorf("futureserver: %w", err)
	}
	if s.futures != nil {
		s.rtc.Delegate(s.process.Context(), s.futures)
	}
	go s.rtc.Run(s.process.Context())
	o.Step("unread") // the futures exist; not all consumers of the output do
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
	// Dendrite creates the last consumers of the roomserver's output together with its routes. JetStream keeps a
	// message only for existing consumers, so an event that was sent before would be missing in /sync for ever.
	close(ready)
	logSettings(o.Futures)
	go s.health.watch(s.process.Context())
	s.manager.notify("READY=1")
	minwinsvc.SetOnExit(s.stopService)
	return s, nil
}

// Stop ends the server in an order that loses nothing. It refuses new requests, then new futures. Then it waits until
// Dendrite's components have handled all events in flight. Only then it stops Dendrite. Dendrite itself would stop
// everything at once, and its consumers panic if a database is closed. Stop returns after StopTimeout at the latest, or
// when ctx is done. The next start finishes what was not finished; the error says what it was. A second call returns
// the same.
func (s *Server) Stop(ctx context.Context) error {
	s.stop.Do(func() {
		logrus.Info("Stopping")
		close(s.stopping)
		s.manager.notify("STOPPING=1")
		defer s.manager.close()
		s.stopErr = errors.Join(
			s.stopPart(ctx, "requests", requestsTimeout, s.front.shutdown),
			s.stopPart(ctx, "futures", futuresTimeout, s.stopFutures),
			s.stopPart(ctx, "events on their way", drainTimeout, s.consumer.Drained),
			s.stopPart(ctx, "components", componentsTimeout, s.stopDendrite),
		)
		s.finish(nil)
	})
	return s.stopErr
}

// checkRooms refuses a database with rooms of unknown versions.
func checkRooms(ctx context.Context, o Options) func(*sql.DB) error {
	return func(db *sql.DB) error {
		return guard.CheckRoomVersions(ctx, db, fconfig.RoomsDatabase(o.Dendrite).IsSQLite(), o.Futures.IgnoreUnknownRooms)
	}
}

// verify checks the configuration and sets the defaults that depend on both parts of it.
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

// startFutures starts the futureserver between its two adapters. The consumer is created first, so that no change of
// state is missed after the first future. No future is sent before ready is closed.
func (s *Server) startFutures(ctx context.Context, o Options, ready <-chan struct{}) (err error) {
	c := s.components
	if s.rooms, err = roomserver.NewRoom(o.Dendrite, c.RoomserverAPI, c.roomDB, c.gates); err != nil {
		return err
	}
	if s.consumer, err = roomserver.NewConsumer(s.process, c.js, s.rooms); err != nil {
		return err
	}
	if !o.Futures.Enabled {
		// The consumer is still used to watch Dendrite's consumers during a stop, but JetStream need not keep messages
		// for it.
		js := &o.Dendrite.Global.JetStream
		return c.js.DeleteConsumer(js.Prefixed(jetstream.OutputRoomEvent), js.Durable(roomserver.ConsumerName))
	}
	options := futureserver.Options{Step: o.Step, Ready: ready, Storm: inStorms()}
	if o.Metrics {
		options.Registerer = prometheus.DefaultRegisterer
	}
	futures, err := futureserver.NewInternalAPI(ctx, o.Futures, s.rooms, options)
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

// serve registers all routes and starts to accept requests. Our routes come first, because the first that matches wins.
func (s *Server) serve(o Options) error {
	routers := newRouters(s.process, o.Dendrite)
	s.routers = routers
	tokens, management := clientapi.AddPublicRoutes(routers, o.Dendrite, o.Futures, s.futures, s.sessions.Remembered())
	if o.Metrics {
		prometheus.MustRegister(tokens.Answers())
	}
	s.rtc.AddRoutes(routers)
	syncDB, _, err := s.components.cm.Connection(&o.Dendrite.SyncAPI.Database)
	if err != nil {
		return err
	}
	s.addGhostRoutes(routers, syncDB)
	ours := routesOf(routers)
	if err := s.components.addRoutes(routers); err != nil {
		return err
	}
	gates := &gating{s.components.gates, s.components.RoomserverAPI, s.sessions.Remembered()}
	if err := gates.guard(routers, ours); err != nil {
		return err
	}
	if err := guardTransactions(s.newTransactions(syncDB), routers, ours); err != nil {
		return err
	}
	handler := syncapi.StateAfter(newHandler(o, routers, s.rtc), syncDB, s.components.UserAPI, s.components.RoomserverAPI)
	if s.futures != nil {
		handler = syncapi.ShowDelayIDs(s.futures, handler)
	}
	handler = slowBodies(s.front.patience.body, uncached(s.health.monitor(handler)))
	handler = heartbeatsFirst(handler, tokens, management)
	if o.Local != nil {
		handler = o.Local.guard(handler)
	}
	s.front.serve(s.process.Context(), o, handler, s.finish)
	return nil
}

// newTransactions returns the memory of answered transactions, including those from before the start.
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

// dropFutures is called after an account has been deactivated.
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

// Addr returns the address for HTTP, or nil.
func (s *Server) Addr() net.Addr { return address(s.front.http) }

// TLSAddr returns the address for HTTPS, or nil.
func (s *Server) TLSAddr() net.Addr { return address(s.front.https) }

func address(l net.Listener) net.Addr {
	if l == nil {
		return nil
	}
	return l.Addr()
}

// Done is closed when the server cannot go on or has been stopped. Stop must be called in any case.
func (s *Server) Done() <-chan struct{} { return s.done }

// Err returns why the server could not go on. It is nil while Done is open, and after Stop.
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
