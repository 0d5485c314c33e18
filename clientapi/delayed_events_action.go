package clientapi

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strings"

	"github.com/matrix-org/dendrite/clientapi/auth"
	"github.com/matrix-org/dendrite/internal/httputil"
	userapi "github.com/matrix-org/dendrite/userapi/api"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/matrix-org/util"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
)

// The two paths of delayed events. The delay_id follows, then the action.
const (
	stableDelayed   = httputil.PublicClientPathPrefix + "v1/delayed_events/"
	unstableDelayed = httputil.PublicClientPathPrefix + "unstable/org.matrix.msc4140/delayed_events/"
)

// ManagementHandler serves the actions on delayed events: POST …/delayed_events/{delay_id}/{action} and, on the
// unstable path, also POST …/delayed_events/{delay_id} with the action in the body (docs/gen1-requirements.md, section
// 4; docs/gen2-requirements.md, section 5). It also receives the heartbeats of calls, every few seconds for each
// participant. Therefore it does not use Dendrite's wrappers. No delay_id reaches a log.
type ManagementHandler struct {
	*bearerCalls
	users userapi.QueryAcccessTokenAPI
	known interface { // nil if users has no memory of sessions
		owner(accessToken string) string
	}
	open bool // on the unstable path, everybody who knows a delay_id may act on it
}

// A managementCall is a parsed request.
type managementCall struct {
	stable bool
	id     string // delay_id
	owner  string // the user whose event it must be; "" for any user
	action api.Action
}

// Matches reports whether the request is one for ServeHTTP. A caller can use it to spare heartbeats the search through
// Dendrite's routes.
func (h *ManagementHandler) Matches(req *http.Request) bool {
	return req.Method == http.MethodPost &&
		(strings.HasPrefix(req.URL.Path, unstableDelayed) || strings.HasPrefix(req.URL.Path, stableDelayed))
}

// ServeHTTP answers 200 {} if the action is done now or had been done before. The other answers differ between the
// stable and the unstable path.
func (h *ManagementHandler) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	h.addTo(w.Header())
	if req.Method == http.MethodOptions {
		return
	}
	call, fault := h.read(w, req)
	if fault == nil {
		fault = h.do(req, call)
	}
	if fault == nil {
		h.answers.finish(w, managementCalls)
		return
	}
	h.answers.refuse(w, managementCalls, *fault)
}

// read parses the request and authenticates the user.
func (h *ManagementHandler) read(w http.ResponseWriter, req *http.Request) (c managementCall, fault *util.JSONResponse) {
	rest, ok := strings.CutPrefix(req.URL.EscapedPath(), unstableDelayed)
	if !ok {
		rest, c.stable = strings.CutPrefix(req.URL.EscapedPath(), stableDelayed)
	}
	id, name, inPath := strings.Cut(rest, "/")
	c.id, _ = url.PathUnescape(id) // an ID that is not encoded correctly is unknown
	switch {
	case id == "", c.stable && !inPath:
		return c, unrecognized()
	case inPath:
		if c.action, ok = action(name); !ok {
			return c, unrecognized()
		}
	}
	if c.owner, fault = h.owner(req, c.stable, inPath); fault != nil {
		return c, fault
	}
	if inPath {
		if !arrived(req) {
			fault = incomplete()
		}
	} else {
		req.Body = http.MaxBytesReader(w, req.Body, maxBody)
		c.action, fault = readAction(req)
	}
	return c, fault
}

// owner returns the user whose events the request may act on; "" stands for all users. If management is not open, a
// call without a token that names the action in the path gets 404. Clients then try the action in the body, and after
// that a call with a token (docs/gen1-requirements.md, 4.4).
func (h *ManagementHandler) owner(req *http.Request, stable, inPath bool) (string, *util.JSONResponse) {
	inQuery := req.URL.RawQuery != "" && req.URL.Query().Has("access_token")
	if anonymous := req.Header.Get("Authorization") == "" && !inQuery; anonymous && !stable {
		if h.open {
			return "", nil
		}
		if inPath {
			return "", unrecognized()
		}
	}
	if token, ok := strings.CutPrefix(req.Header.Get("Authorization"), "Bearer "); ok && h.known != nil && req.URL.RawQuery == "" {
		if owner := h.known.owner(token); owner != "" {
			return owner, nil
		}
	}
	device, fault := auth.VerifyUserFromRequest(req, h.users)
	if fault != nil {
		return "", fault
	}
	return device.UserID, nil
}

func readAction(req *http.Request) (api.Action, *util.JSONResponse) {
	body, fault := readContent(req)
	if fault != nil {
		return 0, fault
	}
	var fields map[string]any
	if err := json.Unmarshal(body, &fields); err != nil || fields["action"] == nil {
		return 0, missingParam("action is required")
	}
	name, _ := fields["action"].(string)
	a, ok := action(name)
	if !ok {
		return 0, invalidParam("action must be send, cancel or restart")
	}
	return a, nil
}

func action(name string) (a api.Action, ok bool) {
	switch name {
	case "send":
		return api.Send, true
	case "cancel":
		return api.Cancel, true
	case "restart":
		return api.Restart, true
	}
	return 0, false
}

// do performs the action. The result is nil on success.
func (h *ManagementHandler) do(req *http.Request, c managementCall) *util.JSONResponse {
	token, ok := api.ParseToken(c.id)
	retry, err := h.call(req, c.owner, token, ok, func() error {
		return h.futures.PerformDelayedEventAction(req.Context(), c.id, c.owner, c.action)
	})
	if err == nil && retry == 0 {
		return nil
	}
	if over, ok := errors.AsType[*api.FinishedError](err); ok {
		return finishedAlready(over.State, c)
	}
	var res util.JSONResponse
	switch {
	case retry > 0 && err == nil:
		res = limited("This delayed event is managed too often", retry)
	case retry > 0:
		res = limited("Too many unknown delay_ids", retry)
	case errors.Is(err, api.ErrGone):
		return unknownDelayID()
	case c.owner == "":
		res = bearerFailure(req, err)
	default:
		res = failure(req.Context(), err, "")
	}
	return &res
}

// finishedAlready answers for an event that has ended (docs/gen2-requirements.md, 5.2). An action that asks for what
// has happened anyway succeeds. An action that contradicts it gets 409, or 404 on the unstable path, because any other
// answer makes clients of generation 1 leave their call (docs/gen1-requirements.md, 4.11 and section 8). On that path
// an event that newer state has ended is unknown.
func finishedAlready(s api.State, c managementCall) *util.JSONResponse {
	sent := s == api.Sent || s == api.Sending
	agrees := c.action == api.Send && sent || c.action == api.Cancel && !sent
	switch {
	case !c.stable && (!agrees || s == api.Invalidated):
		return notFound("The delayed event is over")
	case agrees:
		return nil
	}
	return &util.JSONResponse{Code: http.StatusConflict, JSON: spec.Unknown("The delayed event has ended otherwise")}
}
