package rtc

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"strings"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/matrix-org/util"

	fconfig "github.com/matrix-org/dendrite/futures/setup/config"
)

// Legacy returns the handler of the API of lk-jwt-service and of the SFUs' webhooks, to be mounted at config.LegacyPath;
// nil if this server issues no tokens. The API is what clients of today ask, each with an OpenID token of its own homeserver, whatever that is. The second
// SFU is asked at LegacyPath/2, and so on, because the API names none.
func (s *Service) Legacy() http.Handler {
	if !s.Config.Issues() {
		return nil
	}
	return limitBody(http.HandlerFunc(s.serveLegacy))
}

func (s *Service) serveLegacy(w http.ResponseWriter, req *http.Request) {
	header := w.Header()
	header.Set("Access-Control-Allow-Origin", "*")
	header.Set("Access-Control-Allow-Methods", "POST, OPTIONS")
	header.Set("Access-Control-Allow-Headers", "Accept, Content-Type, Content-Length, Accept-Encoding, X-CSRF-Token, Authorization")
	path := strings.Trim(strings.TrimPrefix(req.URL.Path, fconfig.LegacyPath), "/")
	if path == "sfu_webhook" && req.Method == post {
		respond(w, s.webhook(req))
		return
	}
	l, endpoint := s.legacySFU(path)
	fill, answer := map[string]filler{
		"sfu/get": fillStateMember, "get_token": fillMember, "delegate_delayed_leave": fillDelegation,
	}[endpoint], s.legacyToken
	switch endpoint {
	case "healthz":
		if req.Method != get && req.Method != http.MethodHead {
			break
		}
		w.WriteHeader(http.StatusOK)
		return
	case "delegate_delayed_leave":
		answer = s.legacyDelegate
	}
	switch {
	case fill == nil && endpoint != "healthz":
		respond(w, *failed(http.StatusNotFound, spec.ErrorUnrecognized, "Unrecognized request"))
	case req.Method == options:
		w.WriteHeader(http.StatusOK)
	case req.Method == post && fill != nil:
		respond(w, s.legacy(req, l, fill, answer))
	default:
		respond(w, *failed(http.StatusMethodNotAllowed, spec.ErrorUnrecognized, "Unrecognized request"))
	}
}

func respond(w http.ResponseWriter, res util.JSONResponse) {
	w.Header().Set("Content-Type", "application/json")
	for name, value := range res.Headers {
		w.Header().Set(name, value)
	}
	w.WriteHeader(res.Code)
	// If the client is gone, nobody misses the answer.
	_ = json.NewEncoder(w).Encode(res.JSON)
}

// fillStateMember completes a request to /sfu/get: for a membership by state event, in the call of the whole room.
func fillStateMember(asked *tokenRequest) *util.JSONResponse {
	asked.RoomID, asked.SlotID = asked.Room, legacySlot
	if asked.RoomID == "" || asked.DeviceID == "" {
		return failed(http.StatusBadRequest, spec.ErrorBadJSON, "room or device_id is missing or empty")
	}
	asked.Member, asked.MemberID = nil, ""
	return asked.checkLengths()
}

// fillMember checks a request to /get_token: for a membership by sticky event.
func fillMember(asked *tokenRequest) *util.JSONResponse {
	if fail := asked.check(); fail != nil {
		return fail
	}
	if asked.Member == nil || asked.Member.UserID == "" || asked.Member.DeviceID == "" {
		return failed(http.StatusBadRequest, spec.ErrorBadJSON, "member.claimed_user_id or member.claimed_device_id is missing or empty")
	}
	return nil
}

// fillDelegation checks a request to /delegate_delayed_leave.
func fillDelegation(asked *tokenRequest) *util.JSONResponse {
	if asked.DelayID == "" {
		return failed(http.StatusBadRequest, spec.ErrorBadJSON, "delay_id is missing or empty")
	}
	return fillMember(asked)
}

// A filler checks the body of one endpoint and fills in what that endpoint implies.
type filler func(*tokenRequest) *util.JSONResponse

// A legacyAnswer answers somebody who is known to be in the room.
type legacyAnswer func(context.Context, *sfu, tokenRequest, participant) util.JSONResponse

// legacy serves all endpoints: who asks, and are they in the room?
func (s *Service) legacy(req *http.Request, l *sfu, fill filler, answer legacyAnswer) util.JSONResponse {
	var asked tokenRequest
	if fail := readBody(req, &asked); fail != nil {
		return *fail
	}
	if fail := fill(&asked); fail != nil {
		return *fail
	}
	if asked.OpenID == nil || asked.OpenID.AccessToken == "" || asked.OpenID.Server == "" {
		return *failed(http.StatusBadRequest, spec.ErrorBadJSON, "openid_token is missing or has no access_token or matrix_server_name")
	}
	if !s.isLocal(asked.OpenID.Server) { // anybody can name a server, so a limit for the server alone would lock out its users
		if retry := s.perServer("openid " + string(asked.OpenID.Server) + " " + s.Source(req)); retry > 0 {
			return *tooFast(retry)
		}
	}
	ctx := req.Context()
	user, err := s.userOf(ctx, asked.OpenID, asked.RoomID)
	if errors.Is(err, errNotProved) || asked.Member != nil && asked.Member.UserID != user {
		return *failed(http.StatusUnauthorized, errorUnauthorized, "The OpenID token is not valid for this user")
	} else if err != nil {
		return s.fault(ctx, err, "Cannot check an OpenID token")
	}
	if retry := s.perUser(user); retry > 0 {
		return *tooFast(retry)
	}
	if in, err := s.mayCall(ctx, asked.RoomID, user, asked.OpenID.Server); err != nil {
		return s.fault(ctx, err, "Cannot look up a membership")
	} else if !in {
		return *forbidden()
	}
	id, deviceID := asked.member()
	if asked.Member == nil {
		deviceID = asked.DeviceID
	}
	return answer(ctx, l, asked, participant{user, deviceID, id})
}

// legacyToken gives the token also if the leave that the request names cannot be delegated: the client then restarts it by
// itself.
func (s *Service) legacyToken(ctx context.Context, l *sfu, asked tokenRequest, p participant) util.JSONResponse {
	if _, server, err := parseUser(p.userID); asked.DelayID != "" && err == nil && s.isLocal(server) {
		if res := s.delegate(ctx, asked, p, []*sfu{l}); res.Code != http.StatusOK {
			util.GetLogger(ctx).WithField("status", res.Code).Info("A LiveKit token is given, but the leave is not delegated")
		}
	}
	return s.issueOn(ctx, l, asked, p)
}

func (s *Service) legacyDelegate(ctx context.Context, l *sfu, asked tokenRequest, p participant) util.JSONResponse {
	if _, server, err := parseUser(p.userID); err != nil || !s.isLocal(server) {
		return *failed(http.StatusForbidden, spec.ErrorForbidden, "Only the leaves of this server's users can be delegated to it")
	}
	return s.delegate(ctx, asked, p, []*sfu{l})
}

// mayCall reports whether the user is in the room, and their server allowed there.
func (s *Service) mayCall(ctx context.Context, roomID, userID string, server spec.ServerName) (bool, error) {
	if s.isLocal(server) {
		return s.joined(ctx, roomID, userID)
	}
	return s.admits(ctx, roomID, userID, server)
}

// legacySFU splits the path below LegacyPath into an SFU and an endpoint, which is "" if there is no such SFU. Clients
// append to a URL that may end in a slash.
func (s *Service) legacySFU(path string) (l *sfu, endpoint string) {
	n, endpoint := 1, path
	if first, rest, _ := strings.Cut(endpoint, "/"); rest != "" {
		if number, err := strconv.Atoi(first); err == nil {
			n, endpoint = number, strings.TrimLeft(rest, "/")
		}
	}
	if n < 1 || n > len(s.sfus) || s.sfus[n-1].ServiceURL == "" {
		return nil, ""
	}
	return s.sfus[n-1], endpoint
}
