// Package remote turns errors of other servers into answers for our clients. What another server says of a request
// of ours is text for people here: its status is about us, not about the client. A 401 that was passed on would log
// the client out.
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

// maxText is how much of another server's text is passed on, in bytes.
const maxText = 500

// From says which server an error is about.
func From(server spec.ServerName, err error) error {
	return &gomatrixserverlib.FederationError{ServerName: server, Err: err}
}

// Answer is the answer to a client's request for which another server was asked in vain. An error that has nothing
// to do with another server is an internal one.
func Answer(err error) util.JSONResponse {
	f := read(err)
	switch {
	case f.version != nil:
		return incompatible(string(*f.version),
			fmt.Sprintf("The room has version %q, which this server does not know", *f.version))
	case f.nobody:
		return util.JSONResponse{Code: http.StatusNotFound, JSON: spec.NotFound("This server knows no server that is in the room")}
	case f.status == 0 && !f.remote:
		return util.JSONResponse{Code: http.StatusInternalServerError, JSON: spec.InternalServerError{}}
	}
	code := spec.MatrixErrorCode(f.code)
	as := func(status int, code spec.MatrixErrorCode) util.JSONResponse {
		return util.JSONResponse{Code: status, JSON: spec.MatrixError{ErrCode: code, Err: f.text()}}
	}
	switch {
	case f.code == "" || code == spec.ErrorUnrecognized:
		return as(http.StatusBadGateway, spec.ErrorUnknown) // from no Matrix server, or from one without this endpoint
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

// Text is an error of a server as text for people, for answers that report of several servers.
func Text(server spec.ServerName, err error) string { return read(From(server, err)).text() }

// DownloadText is Text of a download: either there is a response, though not the one that was wanted, or an error.
func DownloadText(server spec.ServerName, resp *http.Response, err error) string {
	if resp != nil {
		return failure{server: server, status: resp.StatusCode}.text()
	}
	return Text(server, err)
}

// A failure is what is known of a request to another server.
type failure struct {
	server      spec.ServerName
	nobody      bool // there was no server to ask
	remote      bool // another server was to be asked
	reached     bool
	version     *gomatrixserverlib.RoomVersion // the room version that we do not know
	status      int                            // of the other server's answer; 0: it gave none
	code, error string                         // of the answer's body; "" if there is none
	roomVersion string
	retryAfter  int64 // ms
}

func read(err error) (f failure) {
	// The federation API returns its last error as a pointer, with what it was made of inside.
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
		return text // of this server itself
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
