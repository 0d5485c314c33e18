package clientapi

import (
	"net/http"
	"net/url"
	"strings"

	"github.com/gorilla/mux"
	userapi "github.com/matrix-org/dendrite/userapi/api"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/matrix-org/util"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
)

// Generation 1: with a parameter on Dendrite's own /send and /state a client schedules a delayed event. The numbers in
// this file are those of docs/gen1-requirements.md.

const (
	mscPrefix  = "org.matrix.msc4140."
	paramDelay = mscPrefix + "delay"
	// paramParent comes from a draft that no server implemented. Old clients can still send it (3.12).
	paramParent = mscPrefix + "parent_delay_id"
)

// generation1 returns the dialect of endpoints G1 and G2.
func generation1(managed dialect) *dialect {
	managed.space = "delay"
	managed.read = readDelay
	// The oldest form of the error: clients of this generation understand no other (3.7).
	managed.tooLong = func(e *api.TimeoutError) util.JSONResponse {
		return *badRequest(mscError{
			MatrixError: spec.Unknown(delayTooLong(e)), MSCCode: errorMaxDelayExceeded, MaxDelay: e.Max.Milliseconds(),
		})
	}
	return &managed
}

// asksForDelay reports whether a parameter on /send or /state asks for a delayed event (3.1, 3.12). "delay" without the
// prefix is no parameter of this generation (1.1).
func asksForDelay(name string) bool { return name == paramDelay || name == paramParent }

// readDelay reads the delay (3.4) and the content, which is the body.
func readDelay(req *http.Request, device *userapi.Device, f *api.Future) (fault *util.JSONResponse) {
	query, err := url.ParseQuery(req.URL.RawQuery)
	if err != nil {
		return invalidParam("the query cannot be read")
	}
	delays, ok := query[paramDelay], false
	if len(delays) == 1 {
		f.Timeout, ok = milliseconds(delays[0])
	}
	if !ok {
		return invalidParam("%s must be given once, as a whole number of milliseconds, 1 or more", paramDelay)
	}
	if fault = readTimestamp(query, device, f); fault != nil {
		return fault
	}
	f.Content, fault = readContent(req)
	return fault
}

// refuseDelay answers POST /send/{eventType}. It has no transaction ID, so a repeat would create a second event.
func refuseDelay(d *dialect) func(*http.Request, *userapi.Device) util.JSONResponse {
	return func(*http.Request, *userapi.Device) util.JSONResponse {
		if d.off != "" {
			return util.JSONResponse{Code: http.StatusForbidden, JSON: spec.Forbidden(d.off)}
		}
		return *invalidParam("a delayed event needs a transaction ID: use PUT /send/{eventType}/{txnId}")
	}
}

// refuse answers a request on Dendrite's own /send or /state that asks for a future. Later drafts of MSC4140 put the
// parameters there. Dendrite would ignore them and send the event at once (docs/gen0-requirements.md, 9).
func refuse(*http.Request, *userapi.Device) util.JSONResponse {
	return *invalidParam("futures are scheduled with send_future and state_future, not with /send and /state")
}

// asksForFuture reports whether a parameter asks for a future, with or without the prefix.
func asksForFuture(name string) bool {
	name = strings.TrimPrefix(name, mscPrefix)
	return name == paramTimeout || name == paramGroup
}

// hasParam matches requests whose query has a parameter whose name satisfies such. It reads the raw query, because
// url.ParseQuery drops malformed pairs, and Dendrite would send such a request at once.
func hasParam(such func(name string) bool) mux.MatcherFunc {
	return func(req *http.Request, _ *mux.RouteMatch) bool {
		for pair := range strings.FieldsFuncSeq(req.URL.RawQuery, func(r rune) bool { return r == '&' || r == ';' }) {
			name, _, _ := strings.Cut(pair, "=")
			if decoded, err := url.QueryUnescape(name); err == nil {
				name = decoded
			}
			if such(name) {
				return true
			}
		}
		return false
	}
}

// onSending registers handlers for requests on Dendrite's own /send and /state that have such a parameter. POST has no
// transaction ID.
func (r *routes) onSending(such func(param string) bool, onPut, onPost http.Handler) {
	add := func(path, method string, h http.Handler) {
		r.client.Handle(stockVersion+path, h).Methods(method, options).MatcherFunc(hasParam(such))
	}
	add("/rooms/{roomID}/send/{eventType}", post, onPost)
	add("/rooms/{roomID}/send/{eventType}/{txnID}", put, onPut)
	add("/rooms/{roomID}/state/{eventType:[^/]+/?}", put, onPut)
	add("/rooms/{roomID}/state/{eventType}/{stateKey}", put, onPut)
}
