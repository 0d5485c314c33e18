package clientapi

import (
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/matrix-org/util"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
	fconfig "github.com/matrix-org/dendrite/futures/setup/config"
)

// What generations 1 and 2 have in common: delayed events, which have one ID for all that can be done to them.

// delayedEvents returns what the dialects of both have in common.
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

// delayedEvent is a delayed event as its owner sees it (docs/gen2-requirements.md, 6.2): no field more, for some
// clients refuse those they do not know.
type delayedEvent struct {
	DelayID   string          `json:"delay_id"`
	RoomID    string          `json:"room_id"`
	Type      string          `json:"type"`
	StateKey  *string         `json:"state_key,omitempty"`
	Delay     int64           `json:"delay_ms"`
	Since     int64           `json:"delayed_since_ts"` // the last scheduling or restart, Unix ms
	Content   json.RawMessage `json:"content"`
	Finalised *finalised      `json:"finalised,omitempty"`
}

// finalised says what became of a delayed event: one with an event ID was sent, one with an error failed, any
// other was cancelled.
type finalised struct {
	At      int64  `json:"finalised_ts"` // Unix ms
	EventID string `json:"event_id,omitempty"`
	Error   any    `json:"error,omitempty"` // as the request to send it would have been answered
}

func describe(f *api.Future) delayedEvent {
	e := delayedEvent{
		DelayID: f.GroupID, RoomID: f.RoomID, Type: f.Type, StateKey: f.StateKey,
		Delay: f.Timeout.Milliseconds(), Since: f.Deadline - f.Timeout.Milliseconds(), Content: f.Content,
	}
	if f.State.Live() {
		return e
	}
	e.Finalised = &finalised{At: f.Finished}
	switch {
	case f.State == api.Sent && f.Event != nil:
		e.Finalised.EventID = f.Event.ID
	case f.State == api.Failed && f.Failure != nil:
		e.Finalised.Error = refused(f.Failure).JSON
	}
	return e
}

// unknownDelayID answers for an ID that stands for nothing, be it unknown, forgotten or somebody else's.
func unknownDelayID() *util.JSONResponse {
	return notFound("There is no delayed event with this delay_id")
}

func answerOK(body any) util.JSONResponse { return util.JSONResponse{Code: http.StatusOK, JSON: body} }
