package rtc

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"

	userapi "github.com/matrix-org/dendrite/userapi/api"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/matrix-org/util"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
)

// delegateLeave serves POST …/rtc/livekit/delegate_delayed_leave (MSC4195). From then on this server restarts the delayed
// leave event while its user is connected to the SFU, and sends it when the connection has ended.
func (s *Service) delegateLeave(req *http.Request, device *userapi.Device) util.JSONResponse {
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
	if asked.DelayID == "" {
		return *failed(http.StatusBadRequest, spec.ErrorBadJSON, "delay_id is missing or empty")
	}
	ctx := req.Context()
	if in, err := s.joined(ctx, asked.RoomID, device.UserID); err != nil {
		return s.fault(ctx, err, "Cannot look up a membership")
	} else if !in {
		return *forbidden()
	}
	sfus := s.sfus
	if asked.URL != "" {
		l := s.find(asked.URL)
		if l == nil {
			return *failed(http.StatusBadRequest, spec.ErrorInvalidParam, "url is not an SFU of this server")
		}
		sfus = []*sfu{l}
	}
	id, deviceID := asked.member()
	if deviceID == "" {
		deviceID = device.ID
	}
	return s.delegate(ctx, asked, participant{device.UserID, deviceID, id}, sfus)
}

// delegate accepts a delegation. The caller has checked that the user is in the Matrix room.
func (s *Service) delegate(ctx context.Context, asked tokenRequest, p participant, sfus []*sfu) util.JSONResponse {
	if s.delegates == nil { // futures are switched off
		return *unknownDelay()
	}
	job := details{Alias: roomAlias(asked.RoomID, asked.SlotID), Identities: p.identities()}
	for _, l := range sfus {
		job.SFUs = append(job.SFUs, l.URL)
	}
	key, err := json.Marshal([]string{p.userID, asked.RoomID, asked.SlotID, p.memberID, p.keyDevice()})
	if err != nil {
		return s.fault(ctx, err, "Cannot name a delegation")
	}
	err = s.delegates.accept(ctx, api.Delegation{
		DelayID: asked.DelayID, UserID: p.userID, RoomID: asked.RoomID, Key: string(key),
	}, job)
	switch {
	case err == nil:
		return util.JSONResponse{Code: http.StatusOK, JSON: json.RawMessage("{}")}
	case errors.Is(err, api.ErrGone):
		return *unknownDelay()
	case errors.Is(err, api.ErrShortDelay):
		return *failed(http.StatusBadRequest, spec.ErrorInvalidParam, "The delay is too short to be delegated: 10 s at least")
	}
	if errors.Is(err, api.ErrOverloaded) || errors.Is(err, api.ErrStopping) {
		return *failed(http.StatusServiceUnavailable, spec.ErrorUnknown, "The server is overloaded or stopping; try again")
	}
	return s.fault(ctx, err, "Cannot store a delegated leave")
}

func unknownDelay() *util.JSONResponse {
	return failed(http.StatusBadRequest, spec.ErrorInvalidParam, "delay_id is not a scheduled event of this user in this room")
}

// identities returns all identities that this participant may have on the SFU. The client's token determines which one it
// uses, and the request does not name the token.
func (p participant) identities() []string {
	all := []string{participant{p.userID, p.deviceID, ""}.identity()}
	if p.memberID != "" {
		all = append(all, p.identity(), participant{p.userID, "", p.memberID}.identity())
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// keyDevice distinguishes memberships without an ID.
func (p participant) keyDevice() string {
	if p.memberID == "" {
		return p.deviceID
	}
	return ""
}
