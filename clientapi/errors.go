package clientapi

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/matrix-org/util"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
)

// Error codes that are missing in Dendrite's spec package.
const (
	errorTooLarge              spec.MatrixErrorCode = "M_TOO_LARGE"
	errorUnknownGroup          spec.MatrixErrorCode = "M_UNKNOWN_FUTURE_GROUP"
	errorTimeoutExceeded       spec.MatrixErrorCode = "M_FUTURE_MAX_TIMEOUT_EXCEEDED"
	errorMaxDelayExceeded      spec.MatrixErrorCode = "M_MAX_DELAY_EXCEEDED"
	errorDelayTooLarge         spec.MatrixErrorCode = "M_DELAY_TOO_LARGE"
	errorDelayTooLargeUnstable spec.MatrixErrorCode = "ORG.MATRIX.MSC4140_DELAY_TOO_LARGE"
)

// How long a client is told to wait if the server is restarting or overloaded.
const (
	retryStopping   = 5 * time.Second
	retryOverloaded = time.Second
)

// mscError is an error with fields of the proposal. The fields are unstable, so their names have a prefix (generation
// 0, 3.2 and 3.3; generation 1, 3.6; generation 2, 3.4). Times are milliseconds.
type mscError struct {
	spec.MatrixError
	MSCCode    spec.MatrixErrorCode `json:"org.matrix.msc4140.errcode,omitempty"`
	MaxTimeout int64                `json:"org.matrix.msc4140.timeout_duration,omitempty"`
	MaxDelay   int64                `json:"org.matrix.msc4140.max_delay,omitempty"`
}

// respond translates errors of the api package into Matrix errors that are the same in all dialects. An error that the
// client has not caused becomes a 500 without details.
func respond(err error) util.JSONResponse {
	if refusal, ok := errors.AsType[*api.Refusal](err); ok {
		return refused(refusal)
	}
	if limit, ok := errors.AsType[*api.LimitError](err); ok {
		return limited(limit.Error(), limit.RetryAfter)
	}
	switch {
	case errors.Is(err, api.ErrUnknownGroup):
		return util.JSONResponse{Code: http.StatusConflict, JSON: mscError{
			MatrixError: spec.Unknown("There is no timeout future with this future_group_id"), MSCCode: errorUnknownGroup,
		}}
	case errors.Is(err, api.ErrGone): // not M_UNKNOWN_TOKEN, because clients would log out (4.8)
		return util.JSONResponse{Code: http.StatusGone, JSON: spec.NotFound("The token is unknown or has been used up")}
	case errors.Is(err, api.ErrStopping):
		return unavailable("The server is restarting", retryStopping)
	case errors.Is(err, api.ErrOverloaded):
		return unavailable("The server is busy", retryOverloaded)
	}
	return util.JSONResponse{Code: http.StatusInternalServerError, JSON: spec.Unknown("Internal server error")}
}

// refused answers as /send would for an event that the room refuses (3.1).
func refused(r *api.Refusal) util.JSONResponse {
	switch r.Kind {
	case api.Forbidden:
		return util.JSONResponse{Code: http.StatusForbidden, JSON: spec.Forbidden(r.Message)}
	case api.RoomNotFound:
		return util.JSONResponse{Code: http.StatusNotFound, JSON: spec.NotFound(r.Message)}
	case api.TooLarge:
		return tooLarge(r.Message)
	case api.BadEvent:
		return util.JSONResponse{Code: http.StatusBadRequest, JSON: spec.BadJSON(r.Message)}
	}
	return util.JSONResponse{Code: http.StatusInternalServerError, JSON: spec.Unknown("Internal server error")}
}

// failure is respond for authenticated endpoints. It also logs internal errors; the request's logger adds the user.
func failure(ctx context.Context, err error, roomID string) util.JSONResponse {
	res := respond(err)
	if res.Code == http.StatusInternalServerError && ctx.Err() == nil {
		util.GetLogger(ctx).WithError(err).WithField("room_id", roomID).Error("A request for futures failed")
	}
	return res
}
