// Package syncapi adds to what Dendrite's sync API answers: the delay_id of the caller's own delayed events, wherever
// events are shown (delayid.go), and the state_after of MSC4222 in /sync (stateafter.go).
package syncapi

import (
	"context"
	"net/http"
	"strings"

	"github.com/matrix-org/dendrite/internal/httputil"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
)

// The last step of a delayed event's way: its sender, on any device, sees its ID in the unsigned part of the
// event that it has become, and nobody else does (generation 1, 6.8; generation 2, 4.8). It must not be in the
// stored event, which Dendrite shows to everybody, so it is put into the responses, on their way out.

// ShowDelayIDs adds unsigned.delay_id, in its two spellings, to the caller's own delayed events in what next
// responds. All else in a response stays as it is, byte for byte. Only a response that may hold such an event is
// held back until it is whole; all others pass through as they are written. next must do its authentication with
// a user API from NoteCallers.
func ShowDelayIDs(futures api.SyncAPI, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !showsEvents(r) {
			next.ServeHTTP(w, r)
			return
		}
		// Whether there is anything to show is asked when the response is ready: the event may be sent, or
		// even scheduled, while the request waits for it.
		x := &eventResponse{ResponseWriter: w, ctx: r.Context(), futures: futures}
		next.ServeHTTP(x, r.WithContext(context.WithValue(x.ctx, callerKey{}, &x.caller)))
		x.finish()
	})
}

// showsEvents reports whether the response may hold events with an unsigned part.
func showsEvents(r *http.Request) bool {
	path := r.URL.RawPath // where an ID holds an escaped slash
	if path == "" {
		path = r.URL.Path
	}
	path, ok := strings.CutPrefix(path, httputil.PublicClientPathPrefix)
	if !ok {
		return false
	}
	switch r.Method {
	case http.MethodPost:
		return strings.HasSuffix(path, "/search") || strings.HasSuffix(path, "/event_relationships")
	case http.MethodGet:
		if _, room, ok := strings.Cut(path, "/rooms/"); ok {
			return showsRoomEvents(room, r.URL.RawQuery)
		}
		return strings.HasSuffix(path, "/sync")
	}
	return false
}

// showsRoomEvents is given what follows /rooms/.
func showsRoomEvents(path, query string) bool {
	_, path, _ = strings.Cut(path, "/")
	what, rest, more := strings.Cut(path, "/")
	switch what {
	case "event", "context", "relations":
		return more
	case "messages", "threads", "members":
		return rest == ""
	case "state": // all of it, or one event whole; otherwise it is only a content, in which all may stand
		return !more || strings.Contains(query, "format=event")
	}
	return false
}
