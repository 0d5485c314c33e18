package rtc

import (
	"encoding/json"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/matrix-org/util"
)

const errorUnauthorized spec.MatrixErrorCode = "M_UNAUTHORIZED"

// tokenRequest is the body of get_token in all its shapes: MSC4195 as of July and as of autumn 2026, between servers,
// and of the two endpoints of lk-jwt-service.
type tokenRequest struct {
	ServerName string `json:"server_name,omitempty"`
	URL        string `json:"url,omitempty"`
	RoomID     string `json:"room_id,omitempty"`
	SlotID     string `json:"slot_id,omitempty"`
	MemberID   string `json:"member_id,omitempty"`
	UserID     string `json:"user_id,omitempty"` // between servers
	DelayID    string `json:"delay_id,omitempty"`
	Member     *struct {
		ID       string `json:"id,omitempty"`
		UserID   string `json:"claimed_user_id,omitempty"`
		DeviceID string `json:"claimed_device_id,omitempty"`
	} `json:"member,omitempty"`

	// lk-jwt-service
	Room     string       `json:"room,omitempty"` // of /sfu/get
	DeviceID string       `json:"device_id,omitempty"`
	OpenID   *openIDToken `json:"openid_token,omitempty"`
}

// member returns the ID of the membership and the device that the request claims.
func (r *tokenRequest) member() (id, deviceID string) {
	if r.MemberID != "" || r.Member == nil {
		return r.MemberID, ""
	}
	return r.Member.ID, r.Member.DeviceID
}

// check returns an error if anything that every request needs is missing.
func (r *tokenRequest) check() *util.JSONResponse {
	id, _ := r.member()
	for _, field := range [][2]string{{"room_id", r.RoomID}, {"slot_id", r.SlotID}, {"member_id", id}} {
		if field[1] == "" {
			return failed(http.StatusBadRequest, spec.ErrorBadJSON, field[0]+" is missing or empty")
		}
	}
	if fail := r.checkLengths(); fail != nil {
		return fail
	}
	if r.RoomID[0] != '!' {
		return failed(http.StatusBadRequest, spec.ErrorBadJSON, "room_id is no room ID")
	}
	return nil
}

// maxName bounds what clients choose and this server remembers, as the specification bounds all identifiers.
const maxName = 255 // bytes

func (r *tokenRequest) checkLengths() *util.JSONResponse {
	id, deviceID := r.member()
	for _, field := range [][2]string{
		{"room_id", r.RoomID}, {"slot_id", r.SlotID}, {"member_id", id}, {"claimed_device_id", deviceID}, {"device_id", r.DeviceID},
	} {
		if len(field[1]) > maxName {
			return failed(http.StatusBadRequest, spec.ErrorBadJSON, field[0]+" is longer than 255 bytes")
		}
	}
	return nil
}

// read decodes a body. Members that it does not know it ignores.
func read(body []byte, to any) *util.JSONResponse {
	if !json.Valid(body) {
		return failed(http.StatusBadRequest, spec.ErrorNotJSON, "The body is no JSON")
	}
	if err := json.Unmarshal(body, to); err != nil {
		return failed(http.StatusBadRequest, spec.ErrorBadJSON, "A member of the body has the wrong type")
	}
	return nil
}

func readBody(req *http.Request, to any) *util.JSONResponse {
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return failed(http.StatusBadRequest, spec.ErrorNotJSON, "The body could not be read, or is too large")
	}
	return read(body, to)
}

// failed makes an error. It must not show whether a user, a device or a room exists.
func failed(status int, code spec.MatrixErrorCode, text string) *util.JSONResponse {
	return &util.JSONResponse{Code: status, JSON: spec.MatrixError{ErrCode: code, Err: text}}
}

func forbidden() *util.JSONResponse {
	return failed(http.StatusForbidden, spec.ErrorForbidden, "You are not joined to this room")
}

func internalError() *util.JSONResponse {
	return failed(http.StatusInternalServerError, spec.ErrorUnknown, "Internal server error")
}

func tooFast(retry time.Duration) *util.JSONResponse {
	retry = max(retry, time.Second)
	return &util.JSONResponse{
		Code:    http.StatusTooManyRequests,
		JSON:    spec.LimitExceeded("Too many requests for tokens", retry.Milliseconds()),
		Headers: map[string]string{"Retry-After": strconv.FormatInt(int64((retry+time.Second-1)/time.Second), 10)},
	}
}
