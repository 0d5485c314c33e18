// Package syncapi adds to the answers of Dendrite's sync API: the delay_id of the caller's own delayed events, wherever
// events are shown (delayid.go), and the state_after of MSC4222 in /sync (stateafter.go).
package syncapi

import (
	"context"
	"net/http"
	"strings"

	"github.com/matrix-org/dendrite/internal/httputil"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
)

// The sender of a delayed event sees its delay_id, on all devices, in the unsigned part of the sent event. Nobody else
// sees it (generation 1, 6.8; generation 2, 4.8). Dendrite shows stored events to everybody, so the delay_id is not
// stored in the event. It is added to the responses instead.

// ShowDelayIDs adds unsigned.delay_id, in its two spellings, to the caller's own delayed events in the responses of
// next. It changes nothing else in a response. It buffers a response only if it may contain such an event; all others
// are streamed. next must authenticate with the user API that NoteCallers returns.
func ShowDelayIDs(futures api.SyncAPI, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !showsEvents(r) {
			next.ServeHTTP(w, r)
			return
		}
		// The delay IDs are looked up when the response is ready, because the event may be sent, or even scheduled,
		// while the request waits for it.
		x := &eventResponse{ResponseWriter: w, ctx: r.Context(), futures: futures}
		next.ServeHTTP(x, r.WithContext(context.WithValue(x.ctx, callerKey{}, &x.caller)))
		x.finish()
	})
}

// showsEvents reports whether the response may hold events with an unsigned part.
func showsEvents(r *http.Request) bool {
	path := r.URL.RawPath // set if an ID contains an escaped slash
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

// path is what follows /rooms/.
func showsRoomEvents(path, query string) bool {
	_, path, _ = strings.Cut(path, "/")
	what, rest, more := strings.Cut(path, "/")
	switch what {
	case "event", "context", "relations":
		return more
	case "messages", "threads", "members":
		return rest == ""
	case "state": // the whole state, or one whole event; otherwise it is only a content, which may contain anything
		return !more || strings.Contains(query, "format=event")
	}
	return false
}
