package clientapi

import (
	"fmt"
	"net/http"

	userapi "github.com/matrix-org/dendrite/userapi/api"
	"github.com/matrix-org/util"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
	fconfig "github.com/matrix-org/dendrite/futures/setup/config"
)

// maxIDLength bounds what a client makes up and the server has to keep: group and transaction IDs, in bytes.
const maxIDLength = 255

// A dialect is what one generation of MSC4140 makes of a request to schedule an event. Whatever is not here is
// the same for all of them.
type dialect struct {
	off         string     // why nothing can be scheduled; "" if it can
	space       string     // of transaction IDs; those of different spaces have nothing to do with each other
	policy      api.Policy // of every event
	statePolicy api.Policy // of state events, besides
	// read takes from query and body what is to be sent, and when.
	read func(*http.Request, *userapi.Device, *api.Future) *util.JSONResponse
	// answer is the body of the response for a future that is scheduled.
	answer func(*api.Future) any
	// tooLong answers a request for a longer wait than the server allows.
	tooLong func(*api.TimeoutError) util.JSONResponse
}

// delayedEvents returns what the dialects of generations 1 and 2 share: a delayed event has one ID for all actions on it.
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
