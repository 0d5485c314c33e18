package setup

import (
	"context"

	"github.com/matrix-org/dendrite/roomserver/api"
	"github.com/matrix-org/gomatrixserverlib/spec"
)

// earlyCalls is the roomserver as the federation API sees it. Dendrite starts the consumers of the federation API
// before the roomserver is complete, because the roomserver needs the federation API itself. A consumer that finds a
// message at start, for example after a crash, would call the incomplete roomserver and end the process. So the calls
// of consumers wait until the roomserver is complete.
type earlyCalls struct {
	api.FederationRoomserverAPI
	complete <-chan struct{}
}

func (e earlyCalls) wait(ctx context.Context) error {
	select {
	case <-e.complete:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// QueryEventsByID implements api.FederationRoomserverAPI.
func (e earlyCalls) QueryEventsByID(ctx context.Context, req *api.QueryEventsByIDRequest, res *api.QueryEventsByIDResponse) error {
	if err := e.wait(ctx); err != nil {
		return err
	}
	return e.FederationRoomserverAPI.QueryEventsByID(ctx, req, res)
}

// QueryMembershipsForRoom implements api.FederationRoomserverAPI.
func (e earlyCalls) QueryMembershipsForRoom(ctx context.Context, req *api.QueryMembershipsForRoomRequest, res *api.QueryMembershipsForRoomResponse) error {
	if err := e.wait(ctx); err != nil {
		return err
	}
	return e.FederationRoomserverAPI.QueryMembershipsForRoom(ctx, req, res)
}

// QueryRoomsForUser implements api.FederationRoomserverAPI.
func (e earlyCalls) QueryRoomsForUser(ctx context.Context, userID spec.UserID, membership string) ([]spec.RoomID, error) {
	if err := e.wait(ctx); err != nil {
		return nil, err
	}
	return e.FederationRoomserverAPI.QueryRoomsForUser(ctx, userID, membership)
}

// QueryUserIDForSender implements api.FederationRoomserverAPI.
func (e earlyCalls) QueryUserIDForSender(ctx context.Context, roomID spec.RoomID, sender spec.SenderID) (*spec.UserID, error) {
	if err := e.wait(ctx); err != nil {
		return nil, err
	}
	return e.FederationRoomserverAPI.QueryUserIDForSender(ctx, roomID, sender)
}
