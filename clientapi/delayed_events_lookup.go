package clientapi

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/url"

	userapi "github.com/matrix-org/dendrite/userapi/api"
	"github.com/matrix-org/util"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
)

// delayedEvent is a delayed event as its owner sees it (docs/gen2-requirements.md, 6.2). It has no additional fields,
// because some clients refuse fields that they do not know.
type delayedEvent struct {
	DelayID   string          `json:"delay_id"`
	RoomID    string          `json:"room_id"`
	Type      string          `json:"type"`
	StateKey  *string         `json:"state_key,omitempty"`
	Delay     int64           `json:"delay_ms"`
	Since     int64           `json:"delayed_since_ts"` // time of scheduling or of the last restart, Unix ms
	Content   json.RawMessage `json:"content"`
	Finalised *finalised      `json:"finalised,omitempty"`
}

// finalised describes the end of a delayed event. With an event ID it was sent, with an error it failed, otherwise it
// was cancelled.
type finalised struct {
	At      int64  `json:"finalised_ts"` // Unix ms
	EventID string `json:"event_id,omitempty"`
	Error   any    `json:"error,omitempty"` // what the request to send it would have been answered
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

// unknownDelayID answers for an ID that is unknown, forgotten or another user's.
func unknownDelayID() *util.JSONResponse {
	return notFound("There is no delayed event with this delay_id")
}

// lookup serves GET …/delayed_events/{delay_id}: one delayed event of the user, scheduled or finalised
// (docs/gen2-requirements.md, section 6).
func (h *handlers) lookup(req *http.Request, device *userapi.Device) util.JSONResponse {
	if retry := h.looks.take(device); retry > 0 {
		return limited("You are asking too often", retry)
	}
	vars, fault := pathVars(req)
	if fault != nil {
		return *unknownDelayID()
	}
	f, err := h.futures.QueryDelayedEvent(req.Context(), vars["delayID"], device.UserID)
	if errors.Is(err, api.ErrGone) {
		return *unknownDelayID()
	} else if err != nil {
		return failure(req.Context(), err, "")
	}
	return answerOK(describe(f))
}

// withoutPath keeps the delay_id out of the log lines of Dendrite's wrappers.
func withoutPath(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		req = req.WithContext(req.Context()) // a copy; the context holds the variables of the path
		req.URL = &url.URL{Path: unstableDelayed, RawQuery: req.URL.RawQuery}
		next.ServeHTTP(w, req)
	})
}
