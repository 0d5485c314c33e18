// Package clientapi is the north adapter of the futureserver: the first step of a future's way through the
// server, where a client's HTTP request becomes a call of api.FutureInternalAPI and its outcome a Matrix
// response. It is the only place that knows paths, JSON shapes and M_ codes. It speaks the three generations of
// MSC4140 side by side: futures (0), delayed events as deployed (1) and as merged (2). This file lists all
// routes; each of the others serves one of them.
package clientapi

import (
	"net/http"

	"github.com/gorilla/mux"
	"github.com/matrix-org/dendrite/internal/httputil"
	"github.com/matrix-org/dendrite/setup/config"
	userapi "github.com/matrix-org/dendrite/userapi/api"
	"github.com/matrix-org/util"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
	fconfig "github.com/matrix-org/dendrite/futures/setup/config"
)

const (
	// anyVersion matches every prefix under which generation 0 was ever served (2.1.1, 2.1.4, 2.2).
	anyVersion = `/{version:(?:r0|v1|v3|unstable/org\.matrix\.msc4140|unstable/io\.element\.msc3140)}`
	// stockVersion matches the prefixes of Dendrite's own /send and /state. The variable is named as there.
	stockVersion = `/{apiversion:(?:r0|v3)}`
	// unstable is the prefix of generation 2 and, apart from scheduling, of generation 1.
	unstable = `/unstable/org.matrix.msc4140`
)

// handlers is what the authenticated endpoints share.
type handlers struct {
	futures  api.FutureInternalAPI
	creation *userLimit
	looks    *userLimit // at delayed events
}

// routes is where the endpoints are registered, and what it takes.
type routes struct {
	*handlers
	client *mux.Router
	users  userapi.QueryAcccessTokenAPI
	cfg    *fconfig.FutureServer
	*answers
}

const get, put, post, options = http.MethodGet, http.MethodPut, http.MethodPost, http.MethodOptions

// AddPublicRoutes registers the endpoints of all three generations, the guards on /send and /state, what
// /versions and /capabilities say of it, and the admin endpoint. It must be called before Dendrite registers
// its own routes, because the first route that matches wins. If fcfg.Enabled is false, futures may be nil: then
// all routes exist nevertheless, so that no request for a future can end as an event sent at once.
//
// It returns the handlers of tokens and of the actions on delayed events, which a caller may also put in front
// of the router.
func AddPublicRoutes(
	routers httputil.Routers, cfg *config.Dendrite, fcfg *fconfig.FutureServer,
	futures api.FutureInternalAPI, userAPI userapi.QueryAcccessTokenAPI,
) (*TokenHandler, *ManagementHandler) {
	if !fcfg.Enabled {
		futures = disabled{}
	}
	exempt := cfg.ClientAPI.RateLimiting.ExemptUserIDs
	h := &handlers{futures, newUserLimit(fcfg.RateLimits.Create, exempt), newUserLimit(fcfg.RateLimits.Token, exempt)}
	calls := newBearerCalls(futures, fcfg)
	r := routes{h, routers.Client, userAPI, fcfg, calls.answers}
	tokens := newTokenHandler(calls)
	management := &ManagementHandler{bearerCalls: calls, users: userAPI, open: fcfg.DelayedEvents.OpenManagement}
	if remembered, ok := userAPI.(rememberedSessions); ok {
		management.known = remembered
	}
	r.addFutures(tokens)
	r.addDelayedEvents(management)

	admin := func(f func(*http.Request, *userapi.Device) util.JSONResponse) http.Handler {
		return httputil.MakeAdminAPI("admin_futures", userAPI, f)
	}
	routers.DendriteAdmin.Handle("/admin/futures", admin(r.adminList)).Methods(get, options)
	routers.DendriteAdmin.Handle("/admin/futures", admin(r.adminCancel)).Methods(http.MethodDelete)
	routers.DendriteAdmin.Handle("/admin/futures/statistics", admin(r.adminStatistics)).Methods(get, options)
	return tokens, management
}

// auth wraps a handler for users with an access token, guests among them.
func (r *routes) auth(name string, f func(*http.Request, *userapi.Device) util.JSONResponse) http.Handler {
	return limitBody(httputil.MakeAuthAPI(name, r.users, r.counted(name, f), httputil.WithAllowGuests()))
}

// addFutures registers generation 0 (docs/gen0-requirements.md, section 2).
func (r *routes) addFutures(tokens *TokenHandler) {
	// E1, E2: schedule a future. The expression with the optional slash is an empty state key (2.1.3).
	c := r.client
	create := r.auth("schedule_future", r.schedule(generation0(r.cfg.Enabled)))
	c.Handle(anyVersion+"/rooms/{roomID}/send_future/{eventType}/{txnID}", create).Methods(put, options)
	c.Handle(anyVersion+"/rooms/{roomID}/state_future/{eventType:[^/]+/?}", create).Methods(put, options)
	c.Handle(anyVersion+"/rooms/{roomID}/state_future/{eventType}/{stateKey}", create).Methods(put, options)

	// E3, E4: use a token, list one's own futures.
	c.Handle(anyVersion+"/{futures:futures?}/{token}", tokens).Methods(put, post, options)
	c.Handle(anyVersion+"/{futures:futures?}", r.auth("list_futures", r.list)).Methods(get, options)

	// A request for a future on Dendrite's own endpoints must not send at once (section 9).
	refuse := r.auth("refuse_future", refuse)
	r.onSending(asksForFuture, refuse, refuse)
	later := func(param string) bool { return asksForFuture(param) || asksForDelay(param) }
	refuseRedaction := r.auth("refuse_delayed_redaction", refuseRedaction)
	for path, method := range map[string]string{"": post, "/{txnID}": put} {
		c.Handle(stockVersion+"/rooms/{roomID}/redact/{eventID}"+path, refuseRedaction).Methods(method, options).MatcherFunc(hasParam(later))
	}
}

// addDelayedEvents registers generation 1 (docs/gen1-requirements.md, section 1) and generation 2
// (docs/gen2-requirements.md, section 1).
func (r *routes) addDelayedEvents(management *ManagementHandler) {
	// G1, G2: a parameter on Dendrite's own endpoints.
	c, common := r.client, delayedEvents(r.cfg)
	gen1 := generation1(common)
	r.onSending(asksForDelay, r.auth("schedule_delayed_event", r.schedule(gen1)), r.auth("refuse_delayed_event", refuseDelay(gen1)))

	// S: the endpoint of their own.
	const scheduling = "/rooms/{roomID}/delayed_event/{eventType}/{txnID}"
	gen2 := func(stable bool) http.Handler {
		return r.auth("schedule_delayed_event", r.schedule(generation2(common, stable)))
	}
	c.Handle("/v3"+scheduling, gen2(true)).Methods(put, options)
	c.Handle(unstable+scheduling, gen2(false)).Methods(put, options)

	// L and G6, M and G4, G3; G5 is for generation 1 alone.
	for _, version := range []string{"/v1", unstable} {
		c.Handle(version+"/delayed_events/{delayID}", withoutPath(r.auth("delayed_event", r.lookup))).Methods(get)
		c.Handle(version+"/delayed_events/{delayID}", management).Methods(post, options)
		c.Handle(version+"/delayed_events/{delayID}/{action}", management).Methods(post, options)
	}
	c.Handle(unstable+"/delayed_events", r.auth("delayed_events", r.listDelayed)).Methods(get, options)

	extend(c, "/versions", "unstable_features", features(r.cfg))
	extend(c, stockVersion+"/capabilities", "capabilities", capabilities(r.cfg))
}

// onSending registers what becomes of requests on Dendrite's own /send and /state with such a parameter. POST
// has no transaction ID.
func (r *routes) onSending(such func(param string) bool, onPut, onPost http.Handler) {
	add := func(path, method string, h http.Handler) {
		r.client.Handle(stockVersion+path, h).Methods(method, options).MatcherFunc(hasParam(such))
	}
	add("/rooms/{roomID}/send/{eventType}", post, onPost)
	add("/rooms/{roomID}/send/{eventType}/{txnID}", put, onPut)
	add("/rooms/{roomID}/state/{eventType:[^/]+/?}", put, onPut)
	add("/rooms/{roomID}/state/{eventType}/{stateKey}", put, onPut)
}

// pathVars returns the variables of the request's path, percent-decoded.
func pathVars(req *http.Request) (map[string]string, *util.JSONResponse) {
	vars, err := httputil.URLDecodeMapValues(mux.Vars(req))
	if err != nil {
		return nil, invalidParam("the path is not percent-encoded correctly")
	}
	for name, value := range vars {
		if !isText(value) {
			return nil, invalidParam("the %s in the path is not valid UTF-8 or holds a NUL", name)
		}
	}
	return vars, nil
}
