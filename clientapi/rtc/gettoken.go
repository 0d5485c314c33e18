package rtc

import (
	"context"
	"net/http"

	rsapi "github.com/matrix-org/dendrite/roomserver/api"
	userapi "github.com/matrix-org/dendrite/userapi/api"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/matrix-org/util"
)

// clientToken serves POST …/rtc/livekit/get_token to a client: a token for one of our SFUs, or one that another server
// issues for its own.
func (s *Service) clientToken(req *http.Request, device *userapi.Device) util.JSONResponse {
	if retry := s.perUser(device.UserID); retry > 0 {
		return *tooFast(retry)
	}
	var asked tokenRequest
	if fail := readBody(req, &asked); fail != nil {
		return *fail
	}
	if fail := asked.check(); fail != nil {
		return *fail
	}
	ctx := req.Context()
	if in, err := s.joined(ctx, asked.RoomID, device.UserID); err != nil {
		return s.fault(ctx, err, "Cannot look up a membership")
	} else if !in {
		return *forbidden()
	}
	if name := spec.ServerName(asked.ServerName); name != "" && !s.isLocal(name) {
		return s.remoteToken(ctx, name, device.UserID, asked)
	}
	id, deviceID := asked.member()
	return s.issue(ctx, asked, participant{device.UserID, deviceID, id})
}

// issue makes the token for a user who is known to be in the Matrix room.
func (s *Service) issue(ctx context.Context, asked tokenRequest, p participant) util.JSONResponse {
	l := s.find(asked.URL)
	if l == nil {
		return *failed(http.StatusBadRequest, spec.ErrorInvalidParam, "url is not an SFU of this server")
	}
	return s.issueOn(ctx, l, asked, p)
}

func (s *Service) issueOn(ctx context.Context, l *sfu, asked tokenRequest, p participant) util.JSONResponse {
	_, server, err := parseUser(p.userID)
	if err != nil {
		return *forbidden()
	}
	publish := s.isLocal(server) || l.RemotePublish.Allows(string(server))
	alias, identity := roomAlias(asked.RoomID, asked.SlotID), p.identity()
	token, err := l.admit(ctx, alias, identity, publish)
	if err != nil {
		return s.fault(ctx, err, "Cannot make a room on the SFU")
	}
	s.issued.add(seat{l, alias, identity, asked.RoomID, p.userID})
	return util.JSONResponse{Code: http.StatusOK, JSON: map[string]string{"jwt": token, "url": l.URL}}
}

// find returns the SFU of that address, the first if none is named, nil if there is none.
func (s *Service) find(address string) *sfu {
	for _, l := range s.sfus {
		if address == "" || sameURL(l.URL, address) {
			return l
		}
	}
	return nil
}

func parseUser(userID string) (string, spec.ServerName, error) {
	id, err := spec.NewUserID(userID, true)
	if err != nil {
		return "", "", err
	}
	return id.Local(), id.Domain(), nil
}

// joined reports whether the user is in the room, as far as this server can know: it has to be there itself.
func (s *Service) joined(ctx context.Context, roomID, userID string) (bool, error) {
	user, err := spec.NewUserID(userID, true)
	if err != nil {
		return false, nil
	}
	if _, err := spec.NewRoomID(roomID); err != nil {
		return false, nil
	}
	if in, err := s.serverJoined(ctx, roomID, s.Dendrite.Global.ServerName); !in {
		return false, err
	}
	var res rsapi.QueryMembershipForUserResponse
	err = s.Rooms.QueryMembershipForUser(ctx, &rsapi.QueryMembershipForUserRequest{RoomID: roomID, UserID: *user}, &res)
	return res.IsInRoom, err
}

// serverJoined reports whether a user of the server is in the room.
func (s *Service) serverJoined(ctx context.Context, roomID string, server spec.ServerName) (bool, error) {
	var res rsapi.QueryServerJoinedToRoomResponse
	err := s.Rooms.QueryServerJoinedToRoom(ctx, &rsapi.QueryServerJoinedToRoomRequest{RoomID: roomID, ServerName: server}, &res)
	return res.RoomExists && res.IsInRoom, err
}

// fault logs what is the server's fault, and tells the caller nothing of it.
func (s *Service) fault(ctx context.Context, err error, message string) util.JSONResponse {
	if ctx.Err() == nil {
		util.GetLogger(ctx).WithError(err).Error(message)
	}
	return *internalError()
}
