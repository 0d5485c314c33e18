package routing

import (
	"bytes"
	"io"
	"net/http"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/matrix-org/util"
	"github.com/tidwall/gjson"

	"github.com/matrix-org/dendrite/internal/eventutil"
	"github.com/matrix-org/dendrite/roomserver/api"
)

// checkContent refuses an event that is never valid in the room, with an error that says why: a second create event, and
// in rooms of version 12 forbidden numbers and power levels that name a creator. It reads the raw body of the request,
// because decoded JSON does not distinguish 50.0 from 50.
func checkContent(
	req *http.Request, rsAPI api.QueryEventsAPI, version gomatrixserverlib.RoomVersion, roomID, eventType string, stateKey *string,
) *util.JSONResponse {
	if eventType == spec.MRoomCreate {
		return invalid(spec.InvalidParam("a room cannot have a second create event"))
	}
	if !version.IsDomainless() {
		return nil
	}
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return invalid(spec.NotJSON(err.Error()))
	}
	req.Body = io.NopCloser(bytes.NewReader(body))
	if !gjson.ValidBytes(body) {
		return nil // the decoder will report what is wrong
	}
	if _, err := gomatrixserverlib.EnforcedCanonicalJSON(body, version); err != nil {
		return invalid(spec.BadJSON(err.Error()))
	}
	if eventType != spec.MRoomPowerLevels || stateKey == nil || *stateKey != "" {
		return nil
	}
	create := api.GetStateEvent(req.Context(), rsAPI, roomID, gomatrixserverlib.StateKeyTuple{EventType: spec.MRoomCreate})
	if create == nil {
		return nil // the authorisation rules refuse everything there
	}
	if err := eventutil.CheckPowerLevels12(body, gomatrixserverlib.PrivilegedCreators(create.PDU)); err != nil {
		return invalid(err)
	}
	return nil
}

func invalid(err error) *util.JSONResponse {
	return &util.JSONResponse{Code: http.StatusBadRequest, JSON: err}
}
