package clientapi

import (
	"fmt"
	"net/http"

	userapi "github.com/matrix-org/dendrite/userapi/api"
	"github.com/matrix-org/util"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
	fconfig "github.com/matrix-org/dendrite/futures/setup/config"
)

// maxIDLength is the largest length of group and transaction IDs, in bytes. Clients choose them and the server must
// store them.
const maxIDLength = 255

// A dialect holds what is special in one generation of MSC4140 when a client schedules an event. All else is the same
// for all generations.
type dialect struct {
	off         string     // why nothing can be scheduled; "" if scheduling is possible
	space       string     // namespace of transaction IDs; the same ID in two namespaces stands for two transactions
	policy      api.Policy // of every event
	statePolicy api.Policy // added for state events
	// read reads content and delay from the query and the body.
	read func(*http.Request, *userapi.Device, *api.Future) *util.JSONResponse
	// answer returns the body of the response for a scheduled future.
	answer func(*api.Future) any
	// tooLong answers a request whose delay is longer than the server allows.
	tooLong func(*api.TimeoutError) util.JSONResponse
}

// delayedEvents returns what the dialects of generations 1 and 2 share. A delayed event has one ID for all actions.
func delayedEvents(cfg *fconfig.FutureServer) dialect {
	d := dialect{policy: api.Managed, answer: func(f *api.Future) any {
		return struct {
			DelayID string `json:"delay_id"`
		}{f.GroupID}
	}}
	if cfg.DelayedEvents.CancelOnOthersState {
		d.statePolicy = api.CancelOnOthersState
	}
	if !delayedEventsEnabled(cfg) {
		d.off = "Delayed events are switched off on this server; its administrator can set future_server.delayed_events"
	}
	return d
}

func delayedEventsEnabled(cfg *fconfig.FutureServer) bool {
	return cfg.Enabled && cfg.DelayedEvents.MaxDelay > 0 && cfg.DelayedEvents.MaxScheduled > 0
}

func delayTooLong(e *api.TimeoutError) string {
	return fmt.Sprintf("The requested delay exceeds the allowed maximum of %d ms.", e.Max.Milliseconds())
}
