// Package remote turns errors of other servers into answers for our clients. The other server's error becomes text for
// people. Its status is not passed on, because it is about this server's request, not the client's: a 401 would log the
// client out.
package remote

import (
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/matrix-org/gomatrix"
	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/matrix-org/util"
	"github.com/tidwall/gjson"
)

// maxText limits how much of another server's text is passed on, in bytes.
const maxText = 500

// From adds to an error the server that it is about.
func From(server spec.ServerName, err error) error {
	return &gomatrixserverlib.FederationError{ServerName: server, Err: err}
}

// Answer is the answer to a client's request that failed because another server refused a request or could not be reached.
// If the error is not about another server, the answer is an internal error.
func Answer(err error) util.JSONResponse {
	f := read(err)
	switch {
	case f.version != nil:
		return incompatible(string(*f.version),
			fmt.Sprintf("The room has version %q, which this server does not know", *f.version))
	case f.nobody:
		return util.JSONResponse{Code: http.StatusNotFound, JSON: spec.NotFound("This server does not know any server that is in the room")}
	case f.status == 0 && !f.remote:
		return util.JSONResponse{Code: http.StatusInternalServerError, JSON: spec.InternalServerError{}}
	}
	code := spec.MatrixErrorCode(f.code)
	as := func(status int, code spec.MatrixErrorCode) util.JSONResponse {
		return util.JSONResponse{Code: status, JSON: spec.MatrixError{ErrCode: code, Err: f.text()}}
	}
	switch {
	case f.code == "" || code == spec.ErrorUnrecognized:
		return as(http.StatusBadGateway, spec.ErrorUnknown) // not a Matrix server, or one without this endpoint
	case code == spec.ErrorIncompatibleRoomVersion:
		return incompatible(f.roomVersion, f.text())
	case f.status == http.StatusForbidden:
		return as(f.status, spec.ErrorForbidden)
	case f.status == http.StatusNotFound:
		return as(f.status, spec.ErrorNotFound)
	case f.status == http.StatusTooManyRequests:
		return util.JSONResponse{Code: f.status, JSON: spec.LimitExceeded(f.text(), f.retryAfter)}
	case code == spec.ErrorUnsupportedRoomVersion,
		code == spec.ErrorUnableToAuthoriseJoin, code == spec.ErrorUnableToGrantJoin:
		return as(http.StatusBadRequest, code)
	}
	return as(http.StatusBadGateway, spec.ErrorUnknown)
}

func incompatible(version, text string) util.JSONResponse {
	e := spec.IncompatibleRoomVersion(version)
	e.Err = text
	return util.JSONResponse{Code: http.StatusBadRequest, JSON: e}
}

// Text describes an error of a server to people. It is for answers that report on several servers.
func Text(server spec.ServerName, err error) string { return read(From(server, err)).text() }

// DownloadText is like Text for a failed download, of which there is either a response or an error.
func DownloadText(server spec.ServerName, resp *http.Response, err error) string {
	if resp != nil {
		return failure{server: server, status: resp.StatusCode}.text()
	}
	return Text(server, err)
}

// A failure is what is known about a failed request to another server.
type failure struct {
	server      spec.ServerName
	nobody      bool // there was no server to ask
	remote      bool // the error is about another server
	reached     bool
	version     *gomatrixserverlib.RoomVersion // the room version that this server does not know
	status      int                            // of the other server's answer; 0 if there was none
	code, error string                         // from the body of the answer; "" if there is none
	roomVersion string
	retryAfter  int64 // ms
}

func read(err error) (f failure) {
	// The federation API returns its last error as a pointer and wraps the cause.
	var last *gomatrix.HTTPError
	if errors.As(err, &last) {
		f.nobody = last.WrappedError == nil && last.Code == 0
		if last.WrappedError != nil {
			err = last.WrappedError
		}
	}
	var federation *gomatrixserverlib.FederationError
	if errors.As(err, &federation) {
		f.remote, f.server, f.reached = true, federation.ServerName, federation.Reachable
	}
	var version gomatrixserverlib.UnsupportedRoomVersionError
	if errors.As(err, &version) {
		f.version = &version.Version
	}
	var answer gomatrix.HTTPError
	if !errors.As(err, &answer) {
		if last == nil {
			return f
		}
		answer = *last
	}
	contents := answer.Contents
	if contents == nil {
		contents = []byte(answer.Message)
	}
	if f.status = answer.Code; gjson.ValidBytes(contents) {
		get := func(key string) gjson.Result { return gjson.GetBytes(contents, key) }
		f.code, f.error = get("errcode").String(), strings.TrimSpace(get("error").String())
		f.roomVersion, f.retryAfter = get("room_version").String(), get("retry_after_ms").Int()
	}
	return f
}

func (f failure) text() string {
	server := string(f.server)
	if server == "" {
		server = "The other server"
	}
	text := f.error
	if len(text) > maxText {
		text = strings.ToValidUTF8(text[:maxText], "") + "…"
	}
	switch {
	case text != "" && f.server == "":
		return text // the error is this server's own
	case text != "":
		return fmt.Sprintf("%s: %s (%s)", server, text, f.code)
	case f.code != "":
		return fmt.Sprintf("%s: %s", server, f.code)
	case f.status != 0:
		return strings.TrimSpace(fmt.Sprintf("%s answered %d %s", server, f.status, http.StatusText(f.status)))
	case f.reached:
		return server + " answered something that this server cannot accept"
	}
	return server + " cannot be reached, or did not answer as it should"
}
