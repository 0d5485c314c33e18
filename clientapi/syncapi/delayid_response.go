package syncapi

import (
	"context"
	"net/http"
	"strings"

	"github.com/sirupsen/logrus"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
)

// mostRecorded limits the memory for one response, of which Dendrite holds the whole too. A longer response is not
// changed.
const mostRecorded = 64 << 20

// eventResponse is the writer of a response that may contain events. Once the status is known, it decides whether to
// pass everything on or to record the body.
type eventResponse struct {
	http.ResponseWriter
	ctx     context.Context
	futures api.SyncAPI
	caller  string // user ID; set when the request has been authenticated

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

// FlushError is called by http.ResponseController. A body that is being recorded cannot be flushed.
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

// Unwrap gives http.ResponseController access to the wrapped writer.
func (x *eventResponse) Unwrap() http.ResponseWriter { return x.ResponseWriter }

// finish must be called when the handler has returned.
func (x *eventResponse) finish() {
	if len(x.ids) > 0 {
		x.release(markEvents(x.body.String(), x.caller, x.ids))
	}
}

// release sends the recorded body with the insertions and stops recording.
func (x *eventResponse) release(marks []insertion) {
	x.ids = nil
	body := x.body.String()
	x.body.Reset()
	setLength(x.Header(), body, marks)
	x.ResponseWriter.WriteHeader(http.StatusOK)
	writeMarked(x.ResponseWriter, body, marks)
}
