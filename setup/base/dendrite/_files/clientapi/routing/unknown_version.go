package routing

import (
	"context"

	"github.com/matrix-org/dendrite/roomserver/api"
	"github.com/matrix-org/gomatrixserverlib"
)

// ofUnknownVersion reports whether a room has a version that this server does not know. What is done in all rooms of a
// user leaves such rooms out.
func ofUnknownVersion(ctx context.Context, rsAPI api.ClientRoomserverAPI, roomID string) bool {
	version, err := rsAPI.QueryRoomVersionForRoom(ctx, roomID)
	return err == nil && !gomatrixserverlib.KnownRoomVersion(version)
}
