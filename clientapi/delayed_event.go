package clientapi

import (
	"encoding/json"
	"net/http"

	userapi "github.com/matrix-org/dendrite/userapi/api"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/matrix-org/util"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
)

// Generation 2: PUT …/delayed_event/{eventType}/{txnId}. The numbers in this file are those of
// docs/gen2-requirements.md.

// generation2 returns the dialect of endpoint S, for its stable or its unstable path.
func generation2(managed dialect, stable bool) *dialect {
	managed.space = "delayed_event"
	managed.read = func(req *http.Request, device *userapi.Device, f *api.Future) *util.JSONResponse {
		if fault := readTimestamp(req.URL.Query(), device, f); fault != nil {
			return fault
		}
		body, fault := readContent(req)
		if fault != nil {
			return fault
		}
		return readDelayedEvent(body, stable, f)
	}
	code := errorDelayTooLarge
	if !stable {
		code = errorDelayTooLargeUnstable
	}
	managed.tooLong = func(e *api.TimeoutError) util.JSONResponse {
		return *badRequest(mscError{
			MatrixError: spec.MatrixError{ErrCode: code, Err: delayTooLong(e)}, MaxDelay: e.Max.Milliseconds(),
		})
	}
	return &managed
}

// readDelayedEvent reads the body (3.1, 3.7). It compares the names exactly; decoding into a struct would ignore case.
func readDelayedEvent(body json.RawMessage, stable bool, f *api.Future) *util.JSONResponse {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(body, &fields); err != nil {
		return badRequest(spec.BadJSON("The body must be a JSON object"))
	}
	delay := fields["delay_ms"]
	if delay == nil && !stable {
		delay = fields["delay"] // the name until June 2026, which some clients still use
	}
	if delay == nil || fields["content"] == nil {
		return missingParam("delay_ms and content are required")
	}
	var ok bool
	if f.Timeout, ok = milliseconds(string(delay)); !ok {
		return invalidParam("delay_ms must be a whole number of milliseconds, 1 or more")
	}
	if f.Content = fields["content"]; f.Content[0] != '{' {
		return invalidParam("content must be an object")
	}
	if key := fields["state_key"]; key != nil {
		f.StateKey = new(string)
		if key[0] != '"' || json.Unmarshal(key, f.StateKey) != nil || !isText(*f.StateKey) {
			return invalidParam("state_key must be a string without NUL")
		}
	}
	return nil
}
