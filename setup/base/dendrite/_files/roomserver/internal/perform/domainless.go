package perform

import (
	"context"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/matrix-org/util"

	fsAPI "github.com/matrix-org/dendrite/federationapi/api"
	"github.com/matrix-org/dendrite/setup/config"
)

// knownServers returns the other servers that are known to be in a room. A join can go through them, because the ID of a
// room of version 12 names no server (MSC4291).
func (r *Joiner) knownServers(ctx context.Context, roomID *spec.RoomID) []spec.ServerName {
	req := fsAPI.QueryJoinedHostServerNamesInRoomRequest{RoomID: roomID.String(), ExcludeSelf: true, ExcludeBlacklisted: true}
	var res fsAPI.QueryJoinedHostServerNamesInRoomResponse
	if err := r.FSAPI.QueryJoinedHostServerNamesInRoom(ctx, &req, &res); err != nil {
		util.GetLogger(ctx).WithError(err).Warn("Cannot look up which servers are in the room")
	}
	return res.ServerNames
}

// isRemote reports whether a peek must go through other servers: those that the room ID names or, if it names none, those
// in the request.
func isRemote(roomID *spec.RoomID, requested []spec.ServerName, cfg *config.Global) bool {
	if roomID.IsDomainless() {
		return len(requested) > 0
	}
	return !cfg.IsLocalServerName(roomID.Domain())
}
