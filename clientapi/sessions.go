package clientapi

import (
	"context"
	"crypto/sha256"
	"strings"
	"sync"
	"time"

	userapi "github.com/matrix-org/dendrite/userapi/api"
)

const (
	sessionLife  = 30 * time.Second
	mostSessions = 16384 // about 5 MB
)

// Sessions is Dendrite's user API with a cache of access tokens. It serves endpoints that are called every few seconds
// with the same token: without it, Dendrite would query its database twice for each call. Every call that ends a
// session must go through Sessions.
//
// When any session of a user ends, Sessions forgets all of the user's tokens before it answers. Dendrite ends sessions
// in these ways:
//
//   - POST /logout, POST /logout/all, DELETE /devices/{deviceID}, POST /delete_devices, and POST /account/password with
//     logout_devices (the default): PerformDeviceDeletion
//   - POST /_dendrite/admin/resetPassword/{userID}, with logout_devices: PerformPasswordUpdate
//   - POST /account/deactivate: PerformAccountDeactivation
//   - a login with the ID of an existing device, which ends that device's session: PerformDeviceCreation
//
// The token of an application service is never cached: Dendrite finds it in its configuration. All other changes, such
// as a manual change of the database, are noticed after sessionLife.
type Sessions struct {
	userapi.UserInternalAPI

	mu    sync.Mutex
	known map[[sha256.Size]byte]session // keyed by the token's hash, so that no token is kept
	ended int                           // counts how often anything was forgotten
	swept time.Time
}

type session struct {
	device userapi.Device // without its token
	until  time.Time
}

// NewSessions returns users with an empty cache.
func NewSessions(users userapi.UserInternalAPI) *Sessions {
	return &Sessions{UserInternalAPI: users, known: make(map[[sha256.Size]byte]session)}
}

// Remembered returns a view that answers from the cache if it can. The embedded API never does.
func (s *Sessions) Remembered() userapi.QueryAcccessTokenAPI { return rememberedSessions{s} }

type rememberedSessions struct{ *Sessions }

// QueryAccessToken implements userapi.QueryAcccessTokenAPI.
func (r rememberedSessions) QueryAccessToken(ctx context.Context, req *userapi.QueryAccessTokenRequest, res *userapi.QueryAccessTokenResponse) error {
	if req.AppServiceUserID != "" {
		return r.UserInternalAPI.QueryAccessToken(ctx, req, res)
	}
	key := sha256.Sum256([]byte(req.AccessToken))
	device, ended := r.recall(key)
	if device != nil {
		device.AccessToken = req.AccessToken
		res.Device = device
		return nil
	}
	err := r.UserInternalAPI.QueryAccessToken(ctx, req, res)
	if err == nil && res.Err == "" && res.Device != nil && res.Device.AppserviceID == "" {
		r.remember(key, *res.Device, ended)
	}
	return err
}

// owner returns the user whose token it is, or "" if the token is not cached. It allocates nothing.
func (r rememberedSessions) owner(token string) string {
	key := sha256.Sum256([]byte(token))
	r.mu.Lock()
	defer r.mu.Unlock()
	if known, ok := r.known[key]; ok && time.Now().Before(known.until) {
		return known.device.UserID
	}
	return ""
}

// recall returns a copy of the cached device, or nil, and how often anything has been forgotten.
func (s *Sessions) recall(key [sha256.Size]byte) (*userapi.Device, int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if known, ok := s.known[key]; ok && time.Now().Before(known.until) {
		return &known.device, s.ended
	}
	return nil, s.ended
}

// remember does nothing if anything was forgotten since the query began, because the answer may be older than that.
func (s *Sessions) remember(key [sha256.Size]byte, device userapi.Device, ended int) {
	device.AccessToken = ""
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended != ended {
		return
	}
	now := time.Now()
	if now.Sub(s.swept) > sessionLife {
		s.swept = now
		for key, known := range s.known {
			if !now.Before(known.until) {
				delete(s.known, key)
			}
		}
	}
	for any := range s.known {
		if len(s.known) < mostSessions {
			break
		}
		delete(s.known, any)
	}
	s.known[key] = session{device, now.Add(sessionLife)}
}

// forget removes a user from the cache. Some requests spell the localpart in lower case, so the case is ignored.
func (s *Sessions) forget(userID string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended++
	for key, known := range s.known {
		if strings.EqualFold(known.device.UserID, userID) {
			delete(s.known, key)
		}
	}
}

// forgetAccount is forget for a localpart and a server name. Without a server name it empties the cache.
func (s *Sessions) forgetAccount(localpart, server string) {
	if server != "" {
		s.forget("@" + localpart + ":" + server)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended++
	clear(s.known)
}

// PerformDeviceDeletion implements userapi.ClientUserAPI.
func (s *Sessions) PerformDeviceDeletion(ctx context.Context, req *userapi.PerformDeviceDeletionRequest, res *userapi.PerformDeviceDeletionResponse) error {
	defer s.forget(req.UserID) // also after an error: a part may have been done
	return s.UserInternalAPI.PerformDeviceDeletion(ctx, req, res)
}

// PerformPasswordUpdate implements userapi.ClientUserAPI.
func (s *Sessions) PerformPasswordUpdate(ctx context.Context, req *userapi.PerformPasswordUpdateRequest, res *userapi.PerformPasswordUpdateResponse) error {
	defer s.forgetAccount(req.Localpart, string(req.ServerName))
	return s.UserInternalAPI.PerformPasswordUpdate(ctx, req, res)
}

// PerformAccountDeactivation implements userapi.ClientUserAPI.
func (s *Sessions) PerformAccountDeactivation(ctx context.Context, req *userapi.PerformAccountDeactivationRequest, res *userapi.PerformAccountDeactivationResponse) error {
	defer s.forgetAccount(req.Localpart, string(req.ServerName))
	return s.UserInternalAPI.PerformAccountDeactivation(ctx, req, res)
}

// PerformDeviceCreation implements userapi.ClientUserAPI.
func (s *Sessions) PerformDeviceCreation(ctx context.Context, req *userapi.PerformDeviceCreationRequest, res *userapi.PerformDeviceCreationResponse) error {
	if req.DeviceID != nil {
		defer s.forgetAccount(req.Localpart, string(req.ServerName))
	}
	return s.UserInternalAPI.PerformDeviceCreation(ctx, req, res)
}
