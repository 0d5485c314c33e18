// Package clientapi is the north adapter of the futureserver: the first step of a future's way through the
// server, where a client's HTTP request becomes a call of api.FutureInternalAPI and its outcome a Matrix
// response. It is the only place that knows paths, JSON shapes and M_ codes. This file lists all routes; each
// of the others serves one of them.
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
)

// handlers is what the authenticated endpoints share.
type handlers struct {
	futures  api.FutureInternalAPI
	enabled  bool
	creation *userLimit
}

// AddPublicRoutes registers the futures' endpoints (gen0-futures.md, section 2), the guards on /send and
// /state, and the admin endpoint. It must be called before Dendrite registers its own routes, because the
// first route that matches wins. If fcfg.Enabled is false, futures may be nil: then all routes exist
// nevertheless, so that no request for a future can end as an event sent at once.
//
// It returns the handler of the token endpoint, which a caller may also put in front of the router.
func AddPublicRoutes(
	routers httputil.Routers, cfg *config.Dendrite, fcfg *fconfig.FutureServer,
	futures api.FutureInternalAPI, userAPI userapi.QueryAcccessTokenAPI,
) *TokenHandler {
	if !fcfg.Enabled {
		futures = disabled{}
	}
	h := &handlers{
		futures:  futures,
		enabled:  fcfg.Enabled,
		creation: newUserLimit(fcfg.RateLimits.Create, cfg.ClientAPI.RateLimiting.ExemptUserIDs),
	}
	tokens := newTokenHandler(futures, fcfg)
	auth := func(name string, f func(*http.Request, *userapi.Device) util.JSONResponse) http.Handler {
		return httputil.MakeAuthAPI(name, userAPI, f, httputil.WithAllowGuests())
	}
	const get, put, post, options = http.MethodGet, http.MethodPut, http.MethodPost, http.MethodOptions

	// E1, E2: schedule a future. The expression with the optional slash is an empty state key (2.1.3).
	c := routers.Client
	create := limitBody(auth("schedule_future", h.create))
	c.Handle(anyVersion+"/rooms/{roomID}/send_future/{eventType}/{txnID}", create).Methods(put, options)
	c.Handle(anyVersion+"/rooms/{roomID}/state_future/{eventType:[^/]+/?}", create).Methods(put, options)
	c.Handle(anyVersion+"/rooms/{roomID}/state_future/{eventType}/{stateKey}", create).Methods(put, options)

	// E3, E4: use a token, list one's own futures.
	c.Handle(anyVersion+"/{futures:futures?}/{token}", tokens).Methods(put, post, options)
	c.Handle(anyVersion+"/{futures:futures?}", auth("list_futures", h.list)).Methods(get, options)

	// A request for a future on Dendrite's own endpoints must not send at once (section 9).
	refuse := auth("refuse_future", refuse)
	guard := func(path string, method string) {
		c.Handle(stockVersion+path, refuse).Methods(method, options).MatcherFunc(asksForFuture)
	}
	guard("/rooms/{roomID}/send/{eventType}", post)
	guard("/rooms/{roomID}/send/{eventType}/{txnID}", put)
	guard("/rooms/{roomID}/state/{eventType:[^/]+/?}", put)
	guard("/rooms/{roomID}/state/{eventType}/{stateKey}", put)

	admin := func(f func(*http.Request, *userapi.Device) util.JSONResponse) http.Handler {
		return httputil.MakeAdminAPI("admin_futures", userAPI, f)
	}
	routers.DendriteAdmin.Handle("/admin/futures", admin(h.adminList)).Methods(get, options)
	routers.DendriteAdmin.Handle("/admin/futures", admin(h.adminCancel)).Methods(http.MethodDelete)
	return tokens
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
