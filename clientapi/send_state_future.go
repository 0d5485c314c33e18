package clientapi

import (
	"net/http"
	"net/url"

	userapi "github.com/matrix-org/dendrite/userapi/api"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/matrix-org/util"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
)

// Generation 0: send_future and state_future. The numbers in this file are those of docs/gen0-requirements.md.

// The query parameters of endpoints E1 and E2. In generation 0 they have no unstable prefix (2.2.3).
const (
	paramTimeout = "future_timeout"
	paramGroup   = "future_group_id"
)

// sendFutureSpace is the namespace of the transaction IDs of E1.
const sendFutureSpace = "send_future"

// generation0 returns the dialect of E1 and E2.
func generation0(enabled bool) *dialect {
	d := &dialect{
		space:       sendFutureSpace,
		statePolicy: api.CancelOnNewerState,
		read:        readFuture,
		answer:      func(f *api.Future) any { return tokensOf(f) },
		tooLong: func(e *api.TimeoutError) util.JSONResponse {
			return *badRequest(mscError{
				MatrixError: spec.Unknown(e.Error()), MSCCode: errorTimeoutExceeded, MaxTimeout: e.Max.Milliseconds(),
			})
		},
	}
	if !enabled {
		d.off = "Futures are switched off on this server; its administrator can set future_server.enabled"
	}
	return d
}

// tokens is the answer to E1 and E2, and a part of the answer to E4.
type tokens struct {
	SendToken    string `json:"send_token"`
	CancelToken  string `json:"cancel_token"`
	GroupID      string `json:"future_group_id"`
	RefreshToken string `json:"refresh_token,omitempty"` // only for timeout futures
}

func tokensOf(f *api.Future) tokens {
	t := tokens{
		SendToken:   f.Token(api.SendToken).String(),
		CancelToken: f.Token(api.CancelToken).String(),
		GroupID:     f.GroupID,
	}
	if f.Timeout > 0 {
		t.RefreshToken = f.Token(api.RefreshToken).String()
	}
	return t
}

// readFuture reads the parameters and the content, which is the body.
func readFuture(req *http.Request, _ *userapi.Device, f *api.Future) (fault *util.JSONResponse) {
	if fault = readParams(req.URL.RawQuery, f); fault != nil {
		return fault
	}
	f.Content, fault = readContent(req)
	return fault
}

// readParams reads future_timeout and future_group_id (2.3).
func readParams(rawQuery string, f *api.Future) *util.JSONResponse {
	query, err := url.ParseQuery(rawQuery)
	if err != nil {
		return invalidParam("the query cannot be read")
	}
	timeouts, groups := query[paramTimeout], query[paramGroup]
	switch {
	case len(timeouts)+len(groups) == 0:
		return missingParam("%s or %s is required", paramTimeout, paramGroup)
	case len(timeouts) > 1 || len(groups) > 1:
		return invalidParam("%s and %s may be given once", paramTimeout, paramGroup)
	}
	if len(timeouts) == 1 {
		var ok bool
		if f.Timeout, ok = milliseconds(timeouts[0]); !ok {
			return invalidParam("%s must be a whole number of milliseconds, 1 or more", paramTimeout)
		}
	}
	if len(groups) == 1 {
		f.GroupID = groups[0]
		if f.GroupID == "" || len(f.GroupID) > maxIDLength || !isText(f.GroupID) {
			return invalidParam("%s must be text of 1 to %d bytes", paramGroup, maxIDLength)
		}
	}
	return nil
}
