package routing

import (
	"errors"
	"net/http"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/matrix-org/util"

	"github.com/matrix-org/dendrite/roomserver/api"
)

// noRoomVersion answers a request about a room whose version could not be found: 404 if the room is unknown, else an
// internal error.
func noRoomVersion(err error) util.JSONResponse {
	if unknown := (api.ErrRoomUnknownOrNotAllowed{}); errors.As(err, &unknown) {
		return util.JSONResponse{Code: http.StatusNotFound, JSON: spec.NotFound("This server does not know the room.")}
	}
	return util.JSONResponse{Code: http.StatusInternalServerError, JSON: spec.InternalServerError{}}
}
