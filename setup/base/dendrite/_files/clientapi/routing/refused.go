package routing

import (
	"context"
	"net/http"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/matrix-org/util"

	"github.com/matrix-org/dendrite/roomserver/api"
)

// refused returns a 403 answer if the room's current state does not allow the event, else nil. The roomserver refuses such
// an event too, but its error does not differ from an internal one.
func refused(ctx context.Context, rsAPI api.ClientRoomserverAPI, event gomatrixserverlib.PDU) *util.JSONResponse {
	req := api.QueryLatestEventsAndStateRequest{
		RoomID:       event.RoomID().String(),
		StateToFetch: gomatrixserverlib.StateNeededForAuth([]gomatrixserverlib.PDU{event}).Tuples(),
	}
	var res api.QueryLatestEventsAndStateResponse
	if err := rsAPI.QueryLatestEventsAndState(ctx, &req, &res); err != nil {
		util.GetLogger(ctx).WithError(err).Error("QueryLatestEventsAndState failed")
		return &util.JSONResponse{Code: http.StatusInternalServerError, JSON: spec.InternalServerError{}}
	}
	state := make([]gomatrixserverlib.PDU, len(res.StateEvents))
	for i := range res.StateEvents {
		state[i] = res.StateEvents[i].PDU
	}
	auth := gomatrixserverlib.NewAuthEvents(state)
	err := gomatrixserverlib.Allowed(event, &auth, func(roomID spec.RoomID, senderID spec.SenderID) (*spec.UserID, error) {
		return rsAPI.QueryUserIDForSender(ctx, roomID, senderID)
	})
	if err != nil {
		return &util.JSONResponse{Code: http.StatusForbidden, JSON: spec.Forbidden(err.Error())}
	}
	return nil
}
