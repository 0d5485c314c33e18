package setup

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/matrix-org/dendrite/setup/config"
	"github.com/matrix-org/dendrite/setup/jetstream"
	"github.com/nats-io/nats.go"
	"github.com/sirupsen/logrus"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
)

// An absence is noticed after silence, plus checkEvery and the rest of a check in progress.
const (
	checkEvery     = 500 * time.Millisecond
	consumersEvery = 2 * time.Second // interval of the checks of the consumers, which have longer limits
	checkLimit     = 2 * time.Second // for one check
	silence        = 2500 * time.Millisecond
	// mostStalled is how long the futureserver's database may not answer before it counts as away. The futureserver
	// confirms its lock once a second.
	mostStalled = 3500 * time.Millisecond
)

// health knows whether the server can do its work. A separate goroutine finds out; requests only read the result.
type health struct {
	checks   []*check
	vitals   func() api.Vitals // of the futureserver; nil if it is switched off
	stuck    func(context.Context, time.Duration) ([]string, error)
	overdue  time.Duration // config.FutureServer.UnhealthyAfter
	notify   func(state string)
	stopping <-chan struct{} // closed when a stop begins

	crippled atomic.Pointer[string] // the error that ended one of Dendrite's consumers
	stuckNow atomic.Pointer[[]string]
	state    atomic.Pointer[[]string] // why the server is not healthy; empty if it is
}

// A check asks one of the services that the server needs.
type check struct {
	name     string
	ask      func(context.Context) error
	answered atomic.Int64 // start time of the last check that succeeded, Unix ns
}

// newHealth returns the health of a server whose services have just been used.
func newHealth(overdue time.Duration, checks ...*check) *health {
	h := &health{checks: checks, overdue: overdue, notify: func(string) {}}
	for _, c := range checks {
		c.answered.Store(time.Now().UnixNano())
	}
	h.state.Store(new([]string))
	h.stuckNow.Store(new([]string))
	return h
}

// healthOf returns the health of a started server.
func healthOf(s *Server, o Options) (*health, error) {
	dbs, err := s.components.databases(o.Dendrite)
	if err != nil {
		return nil, err
	}
	h := newHealth(o.Futures.UnhealthyAfter,
		&check{name: "database", ask: func(ctx context.Context) error { return pingAll(ctx, dbs) }},
		&check{name: "nats", ask: s.askNATS})
	h.stuck, h.stopping = s.consumer.Stuck, s.stopping
	if s.futures != nil {
		h.vitals = s.futures.Vitals
	}
	return h, nil
}

// databases returns the databases that Dendrite's components have open, each once.
func (c *components) databases(cfg *config.Dendrite) (dbs []*sql.DB, err error) {
	for _, o := range openDatabases(cfg) {
		db, _, err := c.cm.Connection(o)
		if err != nil {
			return nil, err
		}
		if !slices.Contains(dbs, db) {
			dbs = append(dbs, db)
		}
	}
	return dbs, nil
}

func pingAll(ctx context.Context, dbs []*sql.DB) error {
	for _, db := range dbs {
		if err := db.PingContext(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (s *Server) askNATS(ctx context.Context) error {
	stream := s.components.Config.Global.JetStream.Prefixed(jetstream.InputRoomEvent)
	_, err := s.components.js.StreamInfo(stream, nats.Context(ctx))
	return err
}

// watch keeps the state up to date until ctx is done. A check that hangs blocks nothing else.
func (h *health) watch(ctx context.Context) {
	for _, c := range h.checks {
		go every(ctx, checkEvery, func() { c.once(ctx) })
	}
	if h.stuck != nil {
		go every(ctx, consumersEvery, func() { h.lookForStuck(ctx) })
	}
	every(ctx, checkEvery, h.update)
}

func every(ctx context.Context, d time.Duration, f func()) {
	tick := time.NewTicker(d)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			f()
		case <-ctx.Done():
			return
		}
	}
}

func (c *check) once(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, checkLimit)
	defer cancel()
	asked := time.Now()
	if c.ask(ctx) == nil {
		c.answered.Store(asked.UnixNano())
	}
}

// away returns for how long the service has not answered; 0 if it answers.
func (c *check) away() time.Duration {
	if d := time.Duration(time.Now().UnixNano() - c.answered.Load()); d > silence {
		return d
	}
	return 0
}

func (h *health) lookForStuck(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, checkLimit)
	defer cancel()
	if names, err := h.stuck(ctx, h.overdue); err == nil { // otherwise NATS is away, which has a check of its own
		h.stuckNow.Store(&names)
	}
}

// update finds out what is wrong. A server that is stopping is not unhealthy, although its parts end one after the
// other.
func (h *health) update() {
	select {
	case <-h.stopping:
		h.state.Store(&[]string{"the server is stopping"})
		h.notify("WATCHDOG=1")
		return
	default:
	}
	var reasons []string
	wrong := func(format string, args ...any) { reasons = append(reasons, fmt.Sprintf(format, args...)) }
	for _, c := range h.checks {
		if d := c.away(); d > 0 {
			wrong("%s: has not answered for %s", c.name, d.Round(time.Second))
		}
	}
	if why := h.crippled.Load(); why != nil {
		wrong("%s; the server will restart when NATS and the database are back", *why)
	}
	for _, name := range *h.stuckNow.Load() {
		wrong("consumer %s: no progress for more than %s", name, h.overdue)
	}
	if h.vitals != nil {
		v := h.vitals() // takes the core's lock, so a core that is stuck stops the watchdog's signals
		if v.Stalled > mostStalled {
			wrong("futures database: has not answered for %s", v.Stalled.Round(time.Second))
		}
		if v.Overdue > h.overdue {
			wrong("an event has been due for %s", v.Overdue.Round(time.Second))
		}
	}
	h.tell(reasons)
	h.state.Store(&reasons)
	h.notify("WATCHDOG=1")
}

// tell writes a log line and notifies the service manager when the state changes.
func (h *health) tell(reasons []string) {
	before := *h.state.Load()
	switch {
	case len(reasons) > 0 && len(before) == 0:
		logrus.Warnf("The server is not healthy: %s", strings.Join(reasons, "; "))
		h.notify("STATUS=Not healthy: " + strings.Join(reasons, "; "))
	case len(reasons) == 0 && len(before) > 0:
		logrus.Info("The server is healthy again")
		h.notify("STATUS=Healthy")
	}
}

// isUp reports whether the service of that check answers.
func (h *health) isUp(name string) bool {
	for _, c := range h.checks {
		if c.name == name {
			return c.away() == 0
		}
	}
	return false
}

// monitor answers monitoring requests, under Dendrite's paths and two short ones. Dendrite's own answers check neither
// NATS nor the database.
func (h *health) monitor(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/up", "/_dendrite/monitor/up": // as long as the process lives
			w.WriteHeader(http.StatusOK)
		case "/health", "/_dendrite/monitor/health":
			h.answer(w)
		default:
			next.ServeHTTP(w, r)
		}
	})
}

func (h *health) answer(w http.ResponseWriter) {
	reasons := *h.state.Load()
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	status := "healthy"
	if len(reasons) > 0 {
		status = "unhealthy"
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	json.NewEncoder(w).Encode(struct { //nolint:errcheck // whoever asked has gone
		Status  string   `json:"status"`
		Reasons []string `json:"reasons,omitempty"`
	}{status, reasons})
}
