package streams

import (
	"context"
	"slices"

	"github.com/matrix-org/dendrite/syncapi/types"
	"github.com/matrix-org/gomatrixserverlib"
)

// ofUnknownVersion reports whether a room has a version that this server does not know. Such a room has no events here,
// and is left out.
func (p *PDUStreamProvider) ofUnknownVersion(ctx context.Context, roomID string) bool {
	version, err := p.rsAPI.QueryRoomVersionForRoom(ctx, roomID)
	return err == nil && !gomatrixserverlib.KnownRoomVersion(version)
}

func (p *PDUStreamProvider) withoutUnknown(ctx context.Context, deltas []types.StateDelta) []types.StateDelta {
	return slices.DeleteFunc(deltas, func(d types.StateDelta) bool { return p.ofUnknownVersion(ctx, d.RoomID) })
}
