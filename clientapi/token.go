package clientapi

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

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
	*bearerCalls
	paths []string // what comes before the token
}

// bearerCalls is what calls by token and by delay_id have in common: knowing it is the credential.
type bearerCalls struct {
	futures api.FutureInternalAPI
	answers *answers
	valid   *limiter[api.Token]  // calls with a valid one, for each
	invalid *limiter[netip.Addr] // calls with others, for each source address
	missed  *limiter[string]     // likewise, for each user who has logged in
	proxies []netip.Prefix
	headers // of every answer
}

func newBearerCalls(futures api.FutureInternalAPI, cfg *fconfig.FutureServer) *bearerCalls {
	return &bearerCalls{
		futures: futures,
		answers: newAnswers(),
		valid:   newLimiter[api.Token](cfg.RateLimits.Token),
		invalid: newLimiter[netip.Addr](cfg.RateLimits.InvalidToken),
		missed:  newLimiter[string](cfg.RateLimits.Token),
		proxies: cfg.TrustedProxies,
		headers: headers{
			contentType:  []string{"application/json"},
			allowOrigin:  []string{"*"},
			allowMethods: []string{"GET, POST, PUT, DELETE, OPTIONS"},
			allowHeaders: []string{"Origin, X-Requested-With, Content-Type, Accept, Authorization"},
		},
	}
}

// headers are made once for all answers, because a heartbeat costs little else.
type headers struct{ contentType, allowOrigin, allowMethods, allowHeaders []string }

func (h *headers) addTo(answer http.Header) {
	answer["Content-Type"] = h.contentType
	answer["Access-Control-Allow-Origin"] = h.allowOrigin
	answer["Access-Control-Allow-Methods"] = h.allowMethods
	answer["Access-Control-Allow-Headers"] = h.allowHeaders
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

// call acts if the limits let it, or returns how long they do not: with a nil error because of the token itself,
// with api.ErrGone because too many unknown ones come from its source: the user, if there is one, so that people
// behind one address are not in each other's way, else the address. ok is false for what cannot be a token.
func (c *bearerCalls) call(req *http.Request, user string, token api.Token, ok bool, act func() error) (retry time.Duration, err error) {
	err = api.ErrGone
	if ok {
		if retry = c.valid.take(token); retry > 0 {
			return retry, nil
		}
		if err = act(); !errors.Is(err, api.ErrGone) {
			return 0, err
		}
		c.valid.giveBack(token) // made-up tokens would fill the table
	}
	if user != "" {
		return c.missed.take(user), err
	}
	return c.invalid.take(source(req, c.proxies)), err
}

// bearerFailure answers for a valid token whose action failed. The room's own words may name a user or the
// room, which the holder of a token is not to learn (4.10).
func bearerFailure(req *http.Request, err error) util.JSONResponse {
	if refusal, ok := errors.AsType[*api.Refusal](err); ok {
		err = &api.Refusal{Kind: refusal.Kind, Message: "The room does not accept the event now"}
	}
	res := respond(err)
	if res.Code == http.StatusInternalServerError && req.Context().Err() == nil {
		logrus.WithError(err).Error("A token's action failed")
	}
	return res
}

// writeDone answers that what was asked for is so.
func writeDone(w http.ResponseWriter) { io.WriteString(w, "{}") }

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
