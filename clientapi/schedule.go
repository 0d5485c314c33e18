package clientapi

import (
	"context"
	"errors"
	"net/http"
	"strings"

	userapi "github.com/matrix-org/dendrite/userapi/api"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/matrix-org/util"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
)

// schedule serves all requests that schedule an event, in any dialect. A repeat of a transaction gets the first answer,
// even if the rest of the repeat is no longer valid (docs/gen0-requirements.md, 2.5.1; docs/gen1-requirements.md, 3.3;
// docs/gen2-requirements.md, 3.3).
func (h *handlers) schedule(d *dialect) func(*http.Request, *userapi.Device) util.JSONResponse {
	return func(req *http.Request, device *userapi.Device) util.JSONResponse {
		if d.off != "" {
			return util.JSONResponse{Code: http.StatusForbidden, JSON: spec.Forbidden(d.off)}
		}
		f, fault := identify(req, device, d)
		if fault != nil {
			return *fault
		}
		if fault = h.complete(req, device, d, f); fault != nil {
			if first, err := h.repeated(req.Context(), f); err != nil {
				return failure(req.Context(), err, f.RoomID)
			} else if first != nil {
				return util.JSONResponse{Code: http.StatusOK, JSON: d.answer(first)}
			}
			return *fault
		}
		created, err := h.futures.PerformFutureCreation(req.Context(), f)
		if timeout, ok := errors.AsType[*api.TimeoutError](err); ok {
			return d.tooLong(timeout)
		}
		if err != nil {
			return failure(req.Context(), err, f.RoomID)
		}
		return util.JSONResponse{Code: http.StatusOK, JSON: d.answer(created)}
	}
}

func (h *handlers) repeated(ctx context.Context, f *api.Future) (*api.Future, error) {
	if f.TxnKey == nil {
		return nil, nil
	}
	return h.futures.QueryFutureByTransaction(ctx, f.UserID, f.TxnKey)
}

// identify reads the path and the credentials. They are enough to recognise a repeat.
func identify(req *http.Request, device *userapi.Device, d *dialect) (*api.Future, *util.JSONResponse) {
	vars, fault := pathVars(req)
	if fault != nil {
		return nil, fault
	}
	f := &api.Future{
		UserID:    device.UserID,
		DeviceID:  device.ID,
		SessionID: device.SessionID,
		RoomID:    vars["roomID"],
		Type:      vars["eventType"],
		Policy:    d.policy,
	}
	txnID, transaction := vars["txnID"]
	if !transaction {
		stateKey, keyed := vars["stateKey"] // empty if the path has none
		if !keyed && strings.HasSuffix(req.URL.EscapedPath(), "/") {
			f.Type = strings.TrimSuffix(f.Type, "/") // this slash belongs to the path; a slash of the type is encoded as %2F
		}
		f.StateKey = &stateKey
		return f, nil
	}
	if len(txnID) > maxIDLength {
		return nil, invalidParam("the transaction ID must not be longer than %d bytes", maxIDLength)
	}
	if !f.Policy.Has(api.Managed) { // the event of a managed future does not name its transaction (generation 2, 4.8)
		f.TxnID = txnID
	}
	f.TxnKey = transactionKey(d.space, device, f.RoomID, f.Type, txnID)
	return f, nil
}

// complete reads the query and the body, and applies the user's rate limit.
func (h *handlers) complete(req *http.Request, device *userapi.Device, d *dialect, f *api.Future) *util.JSONResponse {
	if fault := d.read(req, device, f); fault != nil {
		return fault
	}
	if f.StateKey != nil {
		f.Policy |= d.statePolicy
	}
	if retry := h.creation.take(device); retry > 0 {
		res := limited("You are scheduling events too quickly", retry)
		return &res
	}
	return nil
}
