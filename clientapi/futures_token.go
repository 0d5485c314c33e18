package clientapi

import (
	"errors"
	"net/http"
	"slices"
	"strings"

	"github.com/matrix-org/dendrite/internal/httputil"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
)

// TokenHandler serves E3: PUT and POST of a token, which is the last part of the path. The token is the
// credential: there is no authentication, and neither headers nor body mean anything (section 4). Nothing in
// an answer tells what a token stands for or whose it is. Heartbeats come this way, thousands in a second, so
// it does without Dendrite's wrappers, and no token reaches a log.
type TokenHandler struct {
	*bearerCalls
	paths []string // what comes before the token
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

// Matches reports whether the request is one for ServeHTTP. It is for a caller that wants to spare heartbeats
// the search through all of Dendrite's routes.
func (h *TokenHandler) Matches(req *http.Request) bool {
	path := req.URL.Path
	token := strings.LastIndexByte(path, '/') + 1
	return token < len(path) && slices.Contains(h.paths, path[:token])
}

// ServeHTTP answers 200 {} for a token that did its work, 410 for one that stands for nothing, 429 for too
// many calls, and what /send would answer if the room refuses the event.
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
