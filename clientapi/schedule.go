package clientapi

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
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

// maxIDLength bounds what a client makes up and the server has to keep: group and transaction IDs, in bytes.
const maxIDLength = 255

// A dialect is what one generation of MSC4140 makes of a request to schedule an event. Whatever is not here is
// the same for all of them.
type dialect struct {
	off         string     // why nothing can be scheduled; "" if it can
	space       string     // of transaction IDs; those of different spaces have nothing to do with each other
	policy      api.Policy // of every event
	statePolicy api.Policy // of state events, besides
	// read takes from query and body what is to be sent, and when.
	read func(*http.Request, *userapi.Device, *api.Future) *util.JSONResponse
	// answer is the body of the response for a future that is scheduled.
	answer func(*api.Future) any
	// tooLong answers a request for a longer wait than the server allows.
	tooLong func(*api.TimeoutError) util.JSONResponse
}

// schedule serves all requests that schedule an event, in whatever dialect. A repeat of a transaction gets the
// first answer, even if nothing else of the repeat is right any more: docs/gen0-requirements.md, 2.5.1;
// docs/gen1-requirements.md, 3.3; docs/gen2-requirements.md, 3.3.
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

// identify reads what the path and the credentials say, which is enough to recognise a repeat.
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
		stateKey, keyed := vars["stateKey"] // empty where the path has none
		if !keyed && strings.HasSuffix(req.URL.EscapedPath(), "/") {
			f.Type = strings.TrimSuffix(f.Type, "/") // the path's slash; one of the type's is written %2F
		}
		f.StateKey = &stateKey
		return f, nil
	}
	if len(txnID) > maxIDLength {
		return nil, invalidParam("the transaction ID must not be longer than %d bytes", maxIDLength)
	}
	if !f.Policy.Has(api.Managed) { // the event of others does not name its transaction (generation 2, 4.8)
		f.TxnID = txnID
	}
	f.TxnKey = transactionKey(d.space, device, f.RoomID, f.Type, txnID)
	return f, nil
}

// complete reads what the query and the body say, and asks whether the user may schedule anything now.
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

// milliseconds reads a whole number of milliseconds, 1 or more. Whatever is not quite that is refused, never
// guessed at. A Duration ends at 292 years; no server allows as much, so what is beyond is refused as too long.
func milliseconds(s string) (d time.Duration, ok bool) {
	ms, err := strconv.ParseUint(s, 10, 63)
	return time.Duration(min(ms, math.MaxInt64/uint64(time.Millisecond))) * time.Millisecond, err == nil && ms > 0
}

// readTimestamp reads ts, by which an application service sets origin_server_ts; from anybody else it means
// nothing.
func readTimestamp(query url.Values, device *userapi.Device, f *api.Future) *util.JSONResponse {
	if device.AppserviceID == "" || !query.Has("ts") {
		return nil
	}
	ts, err := strconv.ParseInt(query.Get("ts"), 10, 64)
	if err != nil || ts < 1 {
		return invalidParam("ts must be a time in milliseconds")
	}
	f.OriginTS = ts
	return nil
}

// isText reports whether every database can store s as text and every client read it.
func isText(s string) bool { return utf8.ValidString(s) && strings.IndexByte(s, 0) < 0 }

// WasFuture returns what tells whether a future has become an event with this transaction ID: it is then one of
// /send_future. Other scheduled events do not name their transaction.
func WasFuture(futures api.FutureInternalAPI) func(ctx context.Context, device *userapi.Device, room, eventType, txnID, eventID string) bool {
	return func(ctx context.Context, device *userapi.Device, room, eventType, txnID, eventID string) bool {
		key := transactionKey(sendFutureSpace, device, room, eventType, txnID)
		f, err := futures.QueryFutureByTransaction(ctx, device.UserID, key)
		return err == nil && f != nil && f.Event != nil && f.Event.ID == eventID
	}
}

func transactionKey(space string, device *userapi.Device, room, eventType, txnID string) []byte {
	return digest(space, device.AppserviceID, device.UserID, device.ID, room, eventType, txnID)
}

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
