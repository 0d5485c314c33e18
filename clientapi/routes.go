// Package clientapi is the north adapter of the futureserver. It turns a client's HTTP request into a call of
// api.ClientAPI, and the result into a Matrix response. It is the only place that knows paths, JSON shapes and M_ codes.
// It serves the three generations of MSC4140 side by side: futures (0), delayed events as deployed (1) and as merged (2).
// This file lists all routes. The other files are named after the endpoints that they serve, or after what the endpoints
// share.
package clientapi

import (
	"net/http"
	"time"

	"github.com/gorilla/mux"
	"github.com/matrix-org/dendrite/internal/httputil"
	"github.com/matrix-org/dendrite/setup/config"
	userapi "github.com/matrix-org/dendrite/userapi/api"
	"github.com/matrix-org/util"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
	fconfig "github.com/matrix-org/dendrite/futures/setup/config"
)

const (
	// anyVersion matches every prefix under which generation 0 was served (2.1.1, 2.1.4, 2.2).
	anyVersion = `/{version:(?:r0|v1|v3|unstable/org\.matrix\.msc4140|unstable/io\.element\.msc3140)}`
	// stockVersion matches the prefixes of Dendrite's own /send and /state. The variable has the same name as there.
	stockVersion = `/{apiversion:(?:r0|v3)}`
	// unstable is the prefix of generation 2. Generation 1 uses it for everything but scheduling.
	unstable = `/unstable/org.matrix.msc4140`
)

// handlers is shared by the authenticated endpoints.
type handlers struct {
	futures  api.ClientAPI
	creation *userLimit
	looks    *userLimit // limits lookups of delayed events
}

// routes registers the endpoints.
type routes struct {
	*handlers
	client *mux.Router
	users  userapi.QueryAcccessTokenAPI
	cfg    *fconfig.FutureServer
	*answers
}

const get, put, post, options = http.MethodGet, http.MethodPut, http.MethodPost, http.MethodOptions

// AddPublicRoutes registers the endpoints of all three generations, the routes that guard /send and /state, the
// additions to /versions and /capabilities, and the admin endpoint. Call it before Dendrite registers its own routes,
// because the first route that matches wins. If fcfg.Enabled is false, futures may be nil. All routes exist even then,
// so that Dendrite never sends at once what a client wants to schedule.
//
// It returns the handlers of tokens and of actions on delayed events. The caller may put them in front of the router.
func AddPublicRoutes(
	routers httputil.Routers, cfg *config.Dendrite, fcfg *fconfig.FutureServer,
	futures api.ClientAPI, userAPI userapi.QueryAcccessTokenAPI,
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

// auth wraps a handler for users with an access token, including guests.
func (r *routes) auth(name string, f func(*http.Request, *userapi.Device) util.JSONResponse) http.Handler {
	return limitBody(httputil.MakeAuthAPI(name, r.users, r.counted(name, f), httputil.WithAllowGuests()))
}

// addFutures registers generation 0 (docs/gen0-requirements.md, section 2).
func (r *routes) addFutures(tokens *TokenHandler) {
	// E1, E2: schedule a future. The pattern with the optional slash stands for an empty state key (2.1.3).
	c := r.client
	create := r.auth("schedule_future", r.schedule(generation0(r.cfg.Enabled)))
	c.Handle(anyVersion+"/rooms/{roomID}/send_future/{eventType}/{txnID}", create).Methods(put, options)
	c.Handle(anyVersion+"/rooms/{roomID}/state_future/{eventType:[^/]+/?}", create).Methods(put, options)
	c.Handle(anyVersion+"/rooms/{roomID}/state_future/{eventType}/{stateKey}", create).Methods(put, options)

	// E3, E4: use a token, list one's own futures.
	c.Handle(anyVersion+"/{futures:futures?}/{token}", tokens).Methods(put, post, options)
	c.Handle(anyVersion+"/{futures:futures?}", r.auth("list_futures", r.list)).Methods(get, options)

	// On Dendrite's own endpoints a request for a future must not be sent at once (section 9).
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

	// S: an endpoint of its own.
	const scheduling = "/rooms/{roomID}/delayed_event/{eventType}/{txnID}"
	gen2 := func(stable bool) http.Handler {
		return r.auth("schedule_delayed_event", r.schedule(generation2(common, stable)))
	}
	c.Handle("/v3"+scheduling, gen2(true)).Methods(put, options)
	c.Handle(unstable+scheduling, gen2(false)).Methods(put, options)

	// L and G6, M and G4, G3. G5 belongs to generation 1 alone.
	for _, version := range []string{"/v1", unstable} {
		c.Handle(version+"/delayed_events/{delayID}", withoutPath(r.auth("delayed_event", r.lookup))).Methods(get)
		c.Handle(version+"/delayed_events/{delayID}", management).Methods(post, options)
		c.Handle(version+"/delayed_events/{delayID}/{action}", management).Methods(post, options)
	}
	c.Handle(unstable+"/delayed_events", r.auth("delayed_events", r.listDelayed)).Methods(get, options)

	extend(c, "/versions", "unstable_features", features(r.cfg))
	extend(c, stockVersion+"/capabilities", "capabilities", capabilities(r.cfg))
}

// AddGhostRoutes registers the admin endpoint that removes ghosts from calls.
func AddGhostRoutes(routers httputil.Routers, rooms CallRooms, futures api.ClientAPI, users userapi.QueryAcccessTokenAPI) {
	if futures == nil {
		futures = disabled{}
	}
	g := &ghosts{rooms, futures, time.Now}
	routers.DendriteAdmin.Handle("/admin/ghosts", httputil.MakeAdminAPI("admin_ghosts", users, g.list)).Methods(get, options)
	routers.DendriteAdmin.Handle("/admin/ghosts", httputil.MakeAdminAPI("admin_ghosts", users, g.clear)).Methods(http.MethodDelete)
}
