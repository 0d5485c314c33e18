package clientapi

import (
	"context"
	"net/http"
	"strings"

	"github.com/matrix-org/dendrite/internal/httputil"
	userapi "github.com/matrix-org/dendrite/userapi/api"
	"github.com/sirupsen/logrus"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
)

// The last step of a delayed event's way: its sender, on any device, sees its ID in the unsigned part of the
// event that it has become, and nobody else does (generation 1, 6.8; generation 2, 4.8). It must not be in the
// stored event, which Dendrite shows to everybody, so it is put into the responses, on their way out.

// ShowDelayIDs adds unsigned.delay_id, in its two spellings, to the caller's own delayed events in what next
// responds. All else in a response stays as it is, byte for byte. Only a response that may hold such an event is
// held back until it is whole; all others pass through as they are written. next must do its authentication with
// a user API from NoteCallers.
func ShowDelayIDs(futures api.FutureInternalAPI, next http.Handler) http.Handler {
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

// callerKey finds, in the context of a request, where its caller is to be noted: a *string.
type callerKey struct{}

// NoteCallers returns users so that ShowDelayIDs learns, without asking again, whose request Dendrite has
// accepted. Of an application service that is the user for whom it acts.
func NoteCallers(users userapi.UserInternalAPI) userapi.UserInternalAPI { return callerNotes{users} }

type callerNotes struct{ userapi.UserInternalAPI }

// QueryAccessToken implements userapi.QueryAcccessTokenAPI.
func (n callerNotes) QueryAccessToken(ctx context.Context, req *userapi.QueryAccessTokenRequest, res *userapi.QueryAccessTokenResponse) error {
	err := n.UserInternalAPI.QueryAccessToken(ctx, req, res)
	if caller, ok := ctx.Value(callerKey{}).(*string); ok && err == nil && res.Device != nil {
		*caller = res.Device.UserID
	}
	return err
}

// mostRecorded bounds the memory for one response; the whole of it is in memory at Dendrite's too. A longer one
// goes out as it is.
const mostRecorded = 64 << 20

// eventResponse is the writer of a response that may hold events. Until the status is known nothing has been
// decided; from then on it either passes all on or records the body.
type eventResponse struct {
	http.ResponseWriter
	ctx     context.Context
	futures api.FutureInternalAPI
	caller  string // user ID; noted when the request has been authenticated

	decided bool
	ids     map[string]string // of the caller's delayed events; not empty while the body is being recorded
	body    strings.Builder
}

// WriteHeader implements http.ResponseWriter.
func (x *eventResponse) WriteHeader(status int) {
	if status >= http.StatusOK && !x.decided {
		x.decide(status)
	}
	if len(x.ids) == 0 {
		x.ResponseWriter.WriteHeader(status)
	}
}

func (x *eventResponse) decide(status int) {
	x.decided = true
	header := x.Header()
	if status != http.StatusOK || x.caller == "" || header.Get("Content-Encoding") != "" ||
		!strings.HasPrefix(header.Get("Content-Type"), "application/json") {
		return
	}
	var err error
	if x.ids, err = x.futures.QueryDelayIDs(x.ctx, x.caller); err != nil && x.ctx.Err() == nil {
		logrus.WithError(err).WithField("user_id", x.caller).Error("Cannot show the IDs of delayed events")
	}
}

// Write implements http.ResponseWriter.
func (x *eventResponse) Write(p []byte) (int, error) {
	if !x.decided {
		x.decide(http.StatusOK)
	}
	if len(x.ids) > 0 && x.body.Len()+len(p) > mostRecorded {
		x.release(nil)
	}
	if len(x.ids) > 0 {
		return x.body.Write(p)
	}
	return x.ResponseWriter.Write(p)
}

// FlushError is found by http.ResponseController. What is being recorded can only go out as a whole.
func (x *eventResponse) FlushError() error {
	if !x.decided {
		x.decide(http.StatusOK)
	}
	if len(x.ids) > 0 {
		return nil
	}
	return http.NewResponseController(x.ResponseWriter).Flush()
}

// Flush implements http.Flusher.
func (x *eventResponse) Flush() { x.FlushError() } //nolint:errcheck // there is nobody to tell

// Unwrap lets http.ResponseController do all it can do.
func (x *eventResponse) Unwrap() http.ResponseWriter { return x.ResponseWriter }

// finish is called when the handler has returned.
func (x *eventResponse) finish() {
	if len(x.ids) > 0 {
		x.release(markEvents(x.body.String(), x.caller, x.ids))
	}
}

// release sends what was recorded, with the marks in it, and ends the recording.
func (x *eventResponse) release(marks []insertion) {
	x.ids = nil
	body := x.body.String()
	x.body.Reset()
	setLength(x.Header(), body, marks)
	x.ResponseWriter.WriteHeader(http.StatusOK)
	writeMarked(x.ResponseWriter, body, marks)
}
