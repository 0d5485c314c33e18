package perform

import (
	"context"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/matrix-org/util"

	fsAPI "github.com/matrix-org/dendrite/federationapi/api"
	"github.com/matrix-org/dendrite/setup/config"
)

// knownServers are the other servers that this one knows to be in a room, to join it through: the ID of a room of
// version 12 names none (MSC4291).
func (r *Joiner) knownServers(ctx context.Context, roomID *spec.RoomID) []spec.ServerName {
	req := fsAPI.QueryJoinedHostServerNamesInRoomRequest{RoomID: roomID.String(), ExcludeSelf: true, ExcludeBlacklisted: true}
	var res fsAPI.QueryJoinedHostServerNamesInRoomResponse
	if err := r.FSAPI.QueryJoinedHostServerNamesInRoom(ctx, &req, &res); err != nil {
		util.GetLogger(ctx).WithError(err).Warn("Cannot look up which servers are in the room")
	}
	return res.ServerNames
}

// isRemote reports whether to look into a room through other servers: those that the room ID or, where that names
// none, the request names.
func isRemote(roomID *spec.RoomID, requested []spec.ServerName, cfg *config.Global) bool {
	if roomID.IsDomainless() {
		return len(requested) > 0
	}
	return !cfg.IsLocalServerName(roomID.Domain())
}
