// Package futureserver is the component that stores events and sends them later. NewInternalAPI is its entry point.
package futureserver

import (
	"context"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
	"github.com/matrix-org/dendrite/futures/futureserver/internal"
	"github.com/matrix-org/dendrite/futures/setup/config"
)

// Server is the running component: api.FutureInternalAPI, and methods for its owner.
type Server interface {
	api.FutureInternalAPI
	api.Delegations

	// Vitals returns the state of health of the futureserver. It costs no I/O.
	Vitals() api.Vitals

	// Stop accepts nothing more, lets what is in flight finish (until ctx is done), writes what a clean restart needs,
	// and closes the database. It may be called more than once.
	Stop(ctx context.Context) error

	// Done is closed when the server has stopped, by Stop or because it cannot go on. Err says why.
	Done() <-chan struct{}
	Err() error
}

// Options are set by the process, not by the operator.
type Options struct {
	// Registerer registers the metrics; nil for none.
	Registerer prometheus.Registerer
	// Step is called at each step of a future's life. Tests stop the process there. It may be nil.
	Step func(string)
	// Ready is closed when all consumers of the rooms' output exist. Nothing is sent before. nil means ready.
	Ready <-chan struct{}
	// Storm is called with true when more rooms have due events than may be in flight, and with false when that is
	// over. The server waits for it.
	Storm func(begins bool)
}

// NewInternalAPI opens the database, recovers its futures and starts. Timers run when it returns. Futures that became
// due while the server was down are sent as soon as o.Ready is closed, in order of their deadlines. Futures with
// heartbeats first wait for one until cfg.RestartGrace is over. NewInternalAPI fails if another server uses the same
// database.
func NewInternalAPI(ctx context.Context, cfg *config.FutureServer, room api.Room, o Options) (Server, error) {
	db, err := openDatabase(ctx, &cfg.Database)
	if err != nil {
		return nil, err
	}
	s, err := internal.New(ctx, internal.Config{
		Futures:       internal.Limits{MaxTimeout: cfg.MaxTimeout, MaxPerUser: cfg.MaxFuturesPerUser},
		Delayed:       internal.Limits{MaxTimeout: cfg.DelayedEvents.MaxDelay, MaxPerUser: cfg.DelayedEvents.MaxScheduled},
		Slack:         cfg.HighWaterSlack,
		RestartGrace:  cfg.RestartGrace,
		RoomsInFlight: max(1, cfg.RoomsInFlight),
		Retention:     cfg.Retention,
		KeepPerUser:   cfg.DelayedEvents.KeepPerUser,
	}, db, room, internal.NewMetrics(o.Registerer), internal.Hooks{Step: o.Step, Ready: o.Ready, Storm: o.Storm, Ended: logEnd})
	if err != nil {
		return nil, err
	}
	return s, nil
}

// logEnd writes the operator's log line for an ended future. It contains no token, no delay_id and no content.
func logEnd(f *api.Future) {
	fields := logrus.Fields{
		"future": int64(f.NID), "room_id": f.RoomID, "event_type": f.Type, "kind": api.KindOf(f.Policy).String(),
		"deadline": api.Spell(f.Deadline), "outcome": f.State.String(),
	}
	switch f.State {
	case api.Sent:
		if f.Event != nil {
			fields["event_id"] = f.Event.ID
		}
	case api.Cancelled:
		fields["reason"] = "cancelled by a request, or its account or room is gone"
	case api.Invalidated:
		fields["reason"] = "newer state"
	case api.Discarded:
		fields["reason"] = "its group is over"
	}
	logrus.WithFields(fields).Info("futureserver: a future has ended")
}
