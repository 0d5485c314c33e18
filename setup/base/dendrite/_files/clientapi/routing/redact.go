package routing

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"

	"github.com/matrix-org/dendrite/clientapi/httputil"
	"github.com/matrix-org/dendrite/internal/transactions"
	"github.com/matrix-org/dendrite/roomserver/acls"
	"github.com/matrix-org/dendrite/roomserver/api"
	"github.com/matrix-org/dendrite/setup/config"
	userapi "github.com/matrix-org/dendrite/userapi/api"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/matrix-org/util"
)

// sendMessage is SendEvent without a state key. By the auth rules everybody who may send messages may send a redaction,
// but servers apply it only if the sender has the power. So a redaction that would not be applied is refused here.
func sendMessage(
	req *http.Request, device *userapi.Device, roomID, eventType string, txnID *string,
	cfg *config.ClientAPI, rsAPI api.ClientRoomserverAPI, txnCache *transactions.Cache,
) util.JSONResponse {
	if eventType == spec.MRoomRedaction && !isRepeat(req, device, txnID, txnCache) {
		var content map[string]any
		if resErr := httputil.UnmarshalJSONRequest(req, &content); resErr != nil {
			return *resErr
		}
		target, _ := content["redacts"].(string)
		if target == "" {
			return util.JSONResponse{
				Code: http.StatusBadRequest,
				JSON: spec.BadJSON("A redaction needs redacts, the ID of the event that it redacts"),
			}
		}
		if resErr := checkRedaction(req, device, roomID, target, rsAPI); resErr != nil {
			return *resErr
		}
		if resErr := replaceBody(req, content); resErr != nil {
			return *resErr
		}
	}
	return SendEvent(req, device, roomID, eventType, txnID, nil, cfg, rsAPI, txnCache)
}

// redact serves /rooms/{roomID}/redact/{eventID}, with and without a transaction ID. It does the same as /send of a
// redaction of the event.
func redact(
	req *http.Request, device *userapi.Device, roomID, eventID string,
	cfg *config.ClientAPI, rsAPI api.ClientRoomserverAPI, txnID *string, txnCache *transactions.Cache,
) util.JSONResponse {
	if !isRepeat(req, device, txnID, txnCache) {
		var content map[string]any
		if resErr := httputil.UnmarshalJSONRequest(req, &content); resErr != nil {
			return *resErr
		}
		if other, ok := content["redacts"]; ok && other != eventID {
			return util.JSONResponse{
				Code: http.StatusBadRequest,
				JSON: spec.InvalidParam("redacts in the body and the event ID in the path are different events"),
			}
		}
		if content == nil {
			content = map[string]any{}
		}
		content["redacts"] = eventID
		if resErr := replaceBody(req, content); resErr != nil {
			return *resErr
		}
	}
	return sendMessage(req, device, roomID, spec.MRoomRedaction, txnID, cfg, rsAPI, txnCache)
}

// isRepeat reports whether the transaction has been answered before. SendEvent then repeats the answer.
func isRepeat(req *http.Request, device *userapi.Device, txnID *string, txnCache *transactions.Cache) bool {
	if txnID == nil {
		return false
	}
	_, ok := txnCache.FetchTransaction(device.AccessToken, *txnID, req.URL)
	return ok
}

// replaceBody replaces the body of the request by this content.
func replaceBody(req *http.Request, content map[string]any) *util.JSONResponse {
	body, err := json.Marshal(content)
	if err != nil {
		return &util.JSONResponse{Code: http.StatusBadRequest, JSON: spec.BadJSON("The content cannot be encoded")}
	}
	req.Body, req.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	return nil
}

// checkRedaction refuses the redaction of an event by a user who may not redact it. A user with the power may redact an
// event that has not arrived yet: servers keep the redaction until it does.
func checkRedaction(
	req *http.Request, device *userapi.Device, roomID, target string, rsAPI api.ClientRoomserverAPI,
) *util.JSONResponse {
	forbidden := func(message string) *util.JSONResponse {
		return &util.JSONResponse{Code: http.StatusForbidden, JSON: spec.Forbidden(message)}
	}
	userID, err := spec.NewUserID(device.UserID, true)
	if err != nil {
		return forbidden("The user ID is invalid")
	}
	validRoomID, err := spec.NewRoomID(roomID)
	if err != nil {
		return &util.JSONResponse{Code: http.StatusBadRequest, JSON: spec.InvalidParam("The room ID is invalid")}
	}
	if resErr := checkMemberInRoom(req.Context(), rsAPI, *userID, roomID); resErr != nil {
		return resErr
	}
	sender, err := rsAPI.QuerySenderIDForUser(req.Context(), *validRoomID, *userID)
	if err != nil || sender == nil {
		return forbidden("The user is not in the room")
	}
	levels, err := api.GetPowerLevels(req.Context(), rsAPI, roomID)
	all := err == nil && levels.UserLevel(*sender) >= levels.Redact
	event := api.GetEvent(req.Context(), rsAPI, "", target) // without a room: it may be in a room of another version
	switch {
	case event == nil && all:
		return nil
	case event == nil:
		return &util.JSONResponse{Code: http.StatusNotFound, JSON: spec.NotFound("There is no such event")}
	case event.RoomID() != *validRoomID:
		return &util.JSONResponse{Code: http.StatusBadRequest, JSON: spec.InvalidParam("The event is in another room")}
	case event.Type() == spec.MRoomCreate || event.Type() == acls.MRoomServerACL:
		return forbidden("An event of type " + event.Type() + " cannot be redacted")
	case !all && event.SenderID() != *sender:
		return forbidden("The user may not redact other users' events")
	}
	return nil
}
