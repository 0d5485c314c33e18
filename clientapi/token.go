package clientapi

import (
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"github.com/matrix-org/dendrite/internal/httputil"
	"github.com/matrix-org/util"
	"github.com/sirupsen/logrus"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
	fconfig "github.com/matrix-org/dendrite/futures/setup/config"
)

// TokenHandler serves E3: PUT and POST of a token, which is the last part of the path. The token is the
// credential: there is no authentication, and neither headers nor body mean anything (section 4). Nothing in
// an answer tells what a token stands for or whose it is. Heartbeats come this way, thousands in a second, so
// it does without Dendrite's wrappers, and no token reaches a log.
type TokenHandler struct {
	futures api.FutureInternalAPI
	valid   *limiter[api.Token]  // calls with a valid token, for each token
	invalid *limiter[netip.Addr] // calls with others, for each source address
	proxies []netip.Prefix
	headers http.Header // of every answer
	paths   []string    // what comes before the token
}

func newTokenHandler(futures api.FutureInternalAPI, cfg *fconfig.FutureServer) *TokenHandler {
	h := &TokenHandler{
		futures: futures,
		valid:   newLimiter[api.Token](cfg.RateLimits.Token),
		invalid: newLimiter[netip.Addr](cfg.RateLimits.InvalidToken),
		proxies: cfg.TrustedProxies,
		headers: http.Header{
			"Content-Type":                 {"application/json"},
			"Access-Control-Allow-Origin":  {"*"},
			"Access-Control-Allow-Methods": {"GET, POST, PUT, DELETE, OPTIONS"},
			"Access-Control-Allow-Headers": {"Origin, X-Requested-With, Content-Type, Accept, Authorization"},
		},
	}
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
	maps.Copy(w.Header(), h.headers)
	switch req.Method {
	case http.MethodPut, http.MethodPost:
		h.use(w, req)
	case http.MethodOptions:
	default:
		httputil.NotAllowedHandler(w, req)
	}
}

func (h *TokenHandler) use(w http.ResponseWriter, req *http.Request) {
	err := api.ErrGone
	path := req.URL.Path
	token, ok := api.ParseToken(path[strings.LastIndexByte(path, '/')+1:])
	if ok {
		// Only valid tokens ever take from a bucket: made-up ones would fill the memory with buckets.
		if retry := h.valid.wait(token); retry > 0 {
			writeJSON(w, limited("This token is used too often", retry))
			return
		}
		err = h.futures.PerformTokenAction(req.Context(), token)
	}
	if errors.Is(err, api.ErrGone) {
		if retry := h.invalid.take(source(req, h.proxies)); retry > 0 {
			writeJSON(w, limited("Too many unknown tokens", retry))
			return
		}
		writeJSON(w, respond(err))
		return
	}
	h.valid.take(token)
	if err != nil {
		writeJSON(w, tokenFailure(req, err))
		return
	}
	io.WriteString(w, "{}")
}

// tokenFailure answers for a valid token whose action failed. The room's own words may name a user or the
// room, which the holder of a token is not to learn (4.10).
func tokenFailure(req *http.Request, err error) util.JSONResponse {
	if refusal, ok := errors.AsType[*api.Refusal](err); ok {
		err = &api.Refusal{Kind: refusal.Kind, Message: "The room does not accept the event now"}
	}
	res := respond(err)
	if res.Code == http.StatusInternalServerError && req.Context().Err() == nil {
		logrus.WithError(err).Error("A token's action failed")
	}
	return res
}

func writeJSON(w http.ResponseWriter, res util.JSONResponse) {
	body, err := json.Marshal(res.JSON)
	if err != nil { // cannot be: the answers are strings and numbers
		res.Code, body = http.StatusInternalServerError, nil
	}
	for name, value := range res.Headers {
		w.Header().Set(name, value)
	}
	w.WriteHeader(res.Code)
	w.Write(body)
}
