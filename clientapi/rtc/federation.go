package rtc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync"
	"time"

	rsapi "github.com/matrix-org/dendrite/roomserver/api"
	"github.com/matrix-org/gomatrixserverlib/fclient"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/matrix-org/util"
)

const (
	remoteTimeout = 10 * time.Second
	// versionLife is how long it is remembered that a server knows the unstable path alone.
	versionLife = time.Hour
	mostServers = 1000
)

// federationToken serves POST …/rtc/livekit/get_token to another server, for one of its users.
func (s *Service) federationToken(req *http.Request) util.JSONResponse {
	signed, fail := fclient.VerifyHTTPRequest(req, time.Now(), s.Dendrite.Global.ServerName, s.isLocal, s.Keys)
	if signed == nil {
		return fail
	}
	if retry := s.perServer(string(signed.Origin())); retry > 0 {
		return *tooFast(retry)
	}
	var asked tokenRequest
	if fail := read(signed.Content(), &asked); fail != nil {
		return *fail
	}
	if fail := asked.check(); fail != nil {
		return *fail
	}
	if asked.UserID == "" || asked.URL == "" {
		return *failed(http.StatusBadRequest, spec.ErrorBadJSON, "user_id or url is missing or empty")
	}
	if _, server, err := parseUser(asked.UserID); err != nil || server != signed.Origin() {
		return *failed(http.StatusForbidden, spec.ErrorForbidden, "user_id is not a user of your server")
	}
	ctx := req.Context()
	in, err := s.admits(ctx, asked.RoomID, asked.UserID, signed.Origin())
	if err != nil {
		return s.fault(ctx, err, "Cannot look up a membership")
	}
	if !in {
		return *failed(http.StatusForbidden, spec.ErrorForbidden, "The user is not joined to this room")
	}
	id, deviceID := asked.member()
	return s.issue(ctx, asked, participant{asked.UserID, deviceID, id})
}

// admits reports whether the user of another server is in the room, and the room's m.room.server_acl lets that server
// in.
func (s *Service) admits(ctx context.Context, roomID, userID string, origin spec.ServerName) (bool, error) {
	if in, err := s.joined(ctx, roomID, userID); !in {
		return false, err
	}
	var res rsapi.QueryServerBannedFromRoomResponse
	err := s.Rooms.QueryServerBannedFromRoom(ctx, &rsapi.QueryServerBannedFromRoomRequest{RoomID: roomID, ServerName: origin}, &res)
	return !res.Banned, err
}

// remoteToken asks another server for a token on its SFU, for a user of ours who is in the room.
func (s *Service) remoteToken(ctx context.Context, server spec.ServerName, userID string, asked tokenRequest) util.JSONResponse {
	if in, err := s.serverJoined(ctx, asked.RoomID, server); err != nil {
		return s.fault(ctx, err, "Cannot look up a server's users")
	} else if !in || s.Federation == nil {
		return *failed(http.StatusForbidden, spec.ErrorForbidden, "No user of this server is joined to the room")
	}
	asked.ServerName, asked.UserID = "", userID
	ctx, cancel := context.WithTimeout(ctx, remoteTimeout)
	defer cancel()
	var answer struct {
		JWT string `json:"jwt"`
		URL string `json:"url,omitempty"`
	}
	err := s.askVersions(ctx, server, asked, &answer)
	if refused, ok := errors.AsType[*remoteError](err); ok {
		switch {
		case refused.status == http.StatusForbidden && refused.Code == spec.ErrorForbidden:
			return *failed(http.StatusForbidden, spec.ErrorForbidden, "The other server does not let you into this call")
		case refused.status == http.StatusBadRequest && refused.Code == spec.ErrorInvalidParam:
			return *failed(http.StatusBadRequest, spec.ErrorInvalidParam, "url is not an SFU of that server")
		}
	}
	if err == nil && answer.JWT == "" {
		err = errors.New("it answered without a token")
	}
	if err != nil {
		util.GetLogger(ctx).WithError(err).WithField("server", server).Info("Another server gives no LiveKit token")
		return *failed(http.StatusBadGateway, spec.ErrorUnknown, "The other server gives no token")
	}
	return util.JSONResponse{Code: http.StatusOK, JSON: answer}
}

// askVersions asks on the stable path, or, if the server does not know that one, on the unstable one.
func (s *Service) askVersions(ctx context.Context, server spec.ServerName, asked tokenRequest, answer any) error {
	if !s.versions.isUnstable(server) {
		err := s.ask(ctx, server, stableLiveKit, asked, answer)
		if refused, ok := errors.AsType[*remoteError](err); !ok || refused.status != http.StatusNotFound && refused.Code != spec.ErrorUnrecognized {
			return err
		}
	}
	err := s.ask(ctx, server, unstableLiveKit, asked, answer)
	s.versions.note(server, err == nil)
	return err
}

// ask sends a signed request.
func (s *Service) ask(ctx context.Context, server spec.ServerName, prefix string, asked tokenRequest, answer any) error {
	own := s.Dendrite.Global.SigningIdentity
	r := fclient.NewFederationRequest(post, own.ServerName, server, "/_matrix/federation"+prefix+"/get_token")
	if err := r.SetContent(asked); err != nil {
		return err
	}
	if err := r.Sign(own.ServerName, own.KeyID, own.PrivateKey); err != nil {
		return err
	}
	req, err := r.HTTPRequest()
	if err != nil {
		return err
	}
	return s.exchange(ctx, req, answer)
}

// remoteError is an answer of another server that is no result.
type remoteError struct {
	status int
	Code   spec.MatrixErrorCode `json:"errcode"`
}

func (e *remoteError) Error() string { return fmt.Sprintf("it answered %d %s", e.status, e.Code) }

// exchange sends a request to another server and decodes what it answers. Its errors do not name the URL, in which
// there may be a token.
func (s *Service) exchange(ctx context.Context, req *http.Request, answer any) error {
	resp, err := s.Federation(ctx, req)
	if named, ok := errors.AsType[*url.Error](err); ok {
		return named.Err
	}
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		refused := &remoteError{status: resp.StatusCode}
		_ = json.Unmarshal(body, refused) // a proxy's answer is no JSON; the status is enough then
		return refused
	}
	return json.Unmarshal(body, answer)
}

// versions remembers which servers know the unstable path alone.
type versions struct {
	mu       sync.Mutex
	unstable map[spec.ServerName]time.Time // until when that is believed
}

func (v *versions) isUnstable(server spec.ServerName) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return time.Now().Before(v.unstable[server])
}

func (v *versions) note(server spec.ServerName, unstable bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if !unstable {
		delete(v.unstable, server)
		return
	}
	if v.unstable == nil || len(v.unstable) >= mostServers {
		v.unstable = make(map[spec.ServerName]time.Time)
	}
	v.unstable[server] = time.Now().Add(versionLife)
}
