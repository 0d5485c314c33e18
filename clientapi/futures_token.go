package clientapi

import (
	"errors"
	"net/http"
	"slices"
	"strings"

	"github.com/matrix-org/dendrite/internal/httputil"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
)

// TokenHandler serves endpoint E3: PUT and POST of a token, which is the last part of the path. The token is the only
// credential; headers and body have no meaning (section 4). Answers do not reveal the kind of a token or its owner.
// Thousands of heartbeats a second come this way, so the handler does not use Dendrite's wrappers. No token reaches a
// log.
type TokenHandler struct {
	*bearerCalls
	paths []string // all prefixes of the token
}

func newTokenHandler(calls *bearerCalls) *TokenHandler {
	h := &TokenHandler{bearerCalls: calls}
	for _, version := range []string{"v3", "unstable/org.matrix.msc4140", "v1", "r0", "unstable/io.element.msc3140"} {
		for _, name := range []string{"/future/", "/futures/"} {
			h.paths = append(h.paths, httputil.PublicClientPathPrefix+version+name)
		}
	}
	return h
}

// Matches reports whether the request is one for ServeHTTP. A caller can use it to spare heartbeats the search through
// Dendrite's routes.
func (h *TokenHandler) Matches(req *http.Request) bool {
	path := req.URL.Path
	token := strings.LastIndexByte(path, '/') + 1
	return token < len(path) && slices.Contains(h.paths, path[:token])
}

// ServeHTTP answers 200 {} if the token's action succeeds, 410 if the token is not valid, and 429 for too many calls.
// If the room refuses the event, it answers as /send would.
func (h *TokenHandler) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	h.addTo(w.Header())
	switch req.Method {
	case http.MethodPut, http.MethodPost:
		if !arrived(req) {
			writeJSON(w, *incomplete())
			return
		}
		h.use(w, req)
	case http.MethodOptions:
	default:
		httputil.NotAllowedHandler(w, req)
	}
}

func (h *TokenHandler) use(w http.ResponseWriter, req *http.Request) {
	path := req.URL.Path
	token, ok := api.ParseToken(path[strings.LastIndexByte(path, '/')+1:])
	retry, err := h.call(req, "", token, ok, func() error {
		return h.futures.PerformTokenAction(req.Context(), token)
	})
	switch {
	case retry > 0 && err == nil:
		h.answers.refuse(w, tokenCalls, limited("This token is used too often", retry))
	case retry > 0:
		h.answers.refuse(w, tokenCalls, limited("Too many unknown tokens", retry))
	case errors.Is(err, api.ErrGone):
		h.answers.refuse(w, tokenCalls, respond(err))
	case err != nil:
		h.answers.refuse(w, tokenCalls, bearerFailure(req, err))
	default:
		h.answers.finish(w, tokenCalls)
	}
}
