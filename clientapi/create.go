package clientapi

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"math"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	userapi "github.com/matrix-org/dendrite/userapi/api"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/matrix-org/util"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
)

// The query parameters of E1 and E2. In generation 0 they have no unstable prefix (2.2.3).
const (
	paramTimeout = "future_timeout"
	paramGroup   = "future_group_id"
)

// maxIDLength bounds what a client makes up and the server has to keep: group and transaction IDs, in bytes.
const maxIDLength = 255

// tokens is the answer to E1 and E2, and a part of E4's.
type tokens struct {
	SendToken    string `json:"send_token"`
	CancelToken  string `json:"cancel_token"`
	GroupID      string `json:"future_group_id"`
	RefreshToken string `json:"refresh_token,omitempty"` // of timeout futures
}

func tokensOf(f *api.Future) tokens {
	t := tokens{
		SendToken:   f.Token(api.SendToken).String(),
		CancelToken: f.Token(api.CancelToken).String(),
		GroupID:     f.GroupID,
	}
	if f.Timeout > 0 {
		t.RefreshToken = f.Token(api.RefreshToken).String()
	}
	return t
}

// create serves E1 and E2: it schedules the event in the body. A repeat of a transaction gets the first
// answer, even if nothing else of the repeat is right any more (2.5.1).
func (h *handlers) create(req *http.Request, device *userapi.Device) util.JSONResponse {
	if !h.enabled {
		return util.JSONResponse{Code: http.StatusForbidden, JSON: spec.Forbidden(
			"Futures are switched off on this server; its administrator can set future_server.enabled",
		)}
	}
	f, fault := identify(req, device)
	if fault != nil {
		return *fault
	}
	if fault = h.complete(req, device, f); fault != nil {
		if first, err := h.repeated(req.Context(), f); err != nil {
			return failure(req.Context(), err, f.RoomID)
		} else if first != nil {
			return util.JSONResponse{Code: http.StatusOK, JSON: tokensOf(first)}
		}
		return *fault
	}
	created, err := h.futures.PerformFutureCreation(req.Context(), f)
	if err != nil {
		return failure(req.Context(), err, f.RoomID)
	}
	return util.JSONResponse{Code: http.StatusOK, JSON: tokensOf(created)}
}

func (h *handlers) repeated(ctx context.Context, f *api.Future) (*api.Future, error) {
	if f.TxnKey == nil {
		return nil, nil
	}
	return h.futures.QueryFutureByTransaction(ctx, f.TxnKey)
}

// identify reads what the path and the credentials say, which is enough to recognise a repeat.
func identify(req *http.Request, device *userapi.Device) (*api.Future, *util.JSONResponse) {
	vars, fault := pathVars(req)
	if fault != nil {
		return nil, fault
	}
	f := &api.Future{
		UserID:    device.UserID,
		DeviceID:  device.ID,
		SessionID: device.SessionID,
		RoomID:    vars["roomID"],
		Type:      strings.TrimSuffix(vars["eventType"], "/"),
	}
	txnID, message := vars["txnID"]
	if !message {
		stateKey := vars["stateKey"] // empty where the path has none (2.1.3)
		f.StateKey = &stateKey
		f.Policy = api.CancelOnNewerState
		return f, nil
	}
	if len(txnID) > maxIDLength {
		return nil, invalidParam("the transaction ID must not be longer than %d bytes", maxIDLength)
	}
	f.TxnID = txnID
	f.TxnKey = digest("send_future", device.AppserviceID, device.UserID, device.ID, f.RoomID, f.Type, txnID)
	return f, nil
}

// complete reads what the query and the body say, and asks whether the user may create a future now.
func (h *handlers) complete(req *http.Request, device *userapi.Device, f *api.Future) (fault *util.JSONResponse) {
	if fault = readParams(req.URL.RawQuery, f); fault != nil {
		return fault
	}
	if f.Content, fault = readContent(req); fault != nil {
		return fault
	}
	if retry := h.creation.take(device); retry > 0 {
		res := limited("You are scheduling futures too quickly", retry)
		return &res
	}
	return nil
}

// readParams reads future_timeout and future_group_id (2.3). Whatever is not quite right is refused, never
// guessed at.
func readParams(rawQuery string, f *api.Future) *util.JSONResponse {
	query, err := url.ParseQuery(rawQuery)
	if err != nil {
		return invalidParam("the query cannot be read")
	}
	timeouts, groups := query[paramTimeout], query[paramGroup]
	switch {
	case len(timeouts)+len(groups) == 0:
		return missingParam("%s or %s is required", paramTimeout, paramGroup)
	case len(timeouts) > 1 || len(groups) > 1:
		return invalidParam("%s and %s may be given once", paramTimeout, paramGroup)
	}
	if len(timeouts) == 1 {
		ms, err := strconv.ParseUint(timeouts[0], 10, 63)
		if err != nil || ms < 1 {
			return invalidParam("%s must be a whole number of milliseconds, 1 or more", paramTimeout)
		}
		// A Duration ends at 292 years. No server allows as much, so what is beyond is refused as too long.
		f.Timeout = time.Duration(min(ms, math.MaxInt64/uint64(time.Millisecond))) * time.Millisecond
	}
	if len(groups) == 1 {
		f.GroupID = groups[0]
		if f.GroupID == "" || len(f.GroupID) > maxIDLength || !isText(f.GroupID) {
			return invalidParam("%s must be text of 1 to %d bytes", paramGroup, maxIDLength)
		}
	}
	return nil
}

// isText reports whether every database can store s as text and every client read it.
func isText(s string) bool { return utf8.ValidString(s) && strings.IndexByte(s, 0) < 0 }

// digest hashes the parts so that no two different lists of parts hash alike.
func digest(parts ...string) []byte {
	var buf []byte
	for _, p := range parts {
		buf = binary.AppendUvarint(buf, uint64(len(p)))
		buf = append(buf, p...)
	}
	sum := sha256.Sum256(buf)
	return sum[:]
}
