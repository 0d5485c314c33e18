package clientapi

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/matrix-org/util"
)

// writeDone answers that the request has been fulfilled.
func writeDone(w http.ResponseWriter) { io.WriteString(w, "{}") }

func writeJSON(w http.ResponseWriter, res util.JSONResponse) {
	body, err := json.Marshal(res.JSON)
	if err != nil { // never happens: the answers consist of strings and numbers
		res.Code, body = http.StatusInternalServerError, nil
	}
	for name, value := range res.Headers {
		w.Header().Set(name, value)
	}
	w.WriteHeader(res.Code)
	w.Write(body)
}

func answerOK(body any) util.JSONResponse { return util.JSONResponse{Code: http.StatusOK, JSON: body} }

func badRequest(e any) *util.JSONResponse {
	return &util.JSONResponse{Code: http.StatusBadRequest, JSON: e}
}

func invalidParam(format string, args ...any) *util.JSONResponse {
	return badRequest(spec.InvalidParam(fmt.Sprintf(format, args...)))
}

func missingParam(format string, args ...any) *util.JSONResponse {
	return badRequest(spec.MissingParam(fmt.Sprintf(format, args...)))
}

func notFound(message string) *util.JSONResponse {
	return &util.JSONResponse{Code: http.StatusNotFound, JSON: spec.NotFound(message)}
}

func unrecognized() *util.JSONResponse {
	return &util.JSONResponse{Code: http.StatusNotFound, JSON: spec.Unrecognized("Unrecognized request")}
}

func tooLarge(message string) util.JSONResponse {
	return util.JSONResponse{
		Code: http.StatusRequestEntityTooLarge,
		JSON: spec.MatrixError{ErrCode: errorTooLarge, Err: message},
	}
}

// bodyTooLarge also closes the connection. Otherwise the HTTP server would read the rest of the body to reach the next
// request.
func bodyTooLarge() *util.JSONResponse {
	res := tooLarge("The body is larger than an event can be")
	res.Headers = map[string]string{"Connection": "close"}
	return &res
}

func incomplete() *util.JSONResponse {
	return &util.JSONResponse{
		Code:    http.StatusRequestTimeout,
		JSON:    spec.Unknown("The body of the request did not arrive"),
		Headers: map[string]string{"Connection": "close"},
	}
}

func limited(message string, retry time.Duration) util.JSONResponse {
	retry = max(retry, time.Second) // a client without a timer of its own should not retry at once
	return util.JSONResponse{
		Code:    http.StatusTooManyRequests,
		JSON:    spec.LimitExceeded(message, retry.Milliseconds()),
		Headers: map[string]string{"Retry-After": seconds(retry)},
	}
}

func unavailable(message string, retry time.Duration) util.JSONResponse {
	return util.JSONResponse{
		Code:    http.StatusServiceUnavailable,
		JSON:    spec.Unknown(message),
		Headers: map[string]string{"Retry-After": seconds(retry)},
	}
}

// seconds formats a duration for Retry-After. It rounds up, so that nobody retries too early.
func seconds(d time.Duration) string {
	return strconv.FormatInt(int64((d+time.Second-1)/time.Second), 10)
}
