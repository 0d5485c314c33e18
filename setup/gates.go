package setup

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/gorilla/mux"
	"github.com/matrix-org/dendrite/clientapi/auth"
	fedapi "github.com/matrix-org/dendrite/federationapi/api"
	"github.com/matrix-org/dendrite/internal/httputil"
	rsapi "github.com/matrix-org/dendrite/roomserver/api"
	userapi "github.com/matrix-org/dendrite/userapi/api"
	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"

	south "github.com/matrix-org/dendrite/futures/roomserver"
)

// One writer per room: this file puts the rooms' gates (roomserver.Gates) before those of Dendrite's routes that create
// events in a room. A turn of futures enters the same gates.
//
// A request enters when its body has been read and its user is known, so that neither slow clients nor strangers block
// others. It leaves when its handler returns, or when Dendrite begins to talk to another server (yieldingFederation),
// so that nobody waits for a join over federation.
//
// These routes have no gate:
//
//   - createRoom: nobody else is in the room yet.
//   - typing, receipts, read markers, tags, account data, presence: they create no events in the room's history.
//   - knock: Dendrite has none. forget, peek, unpeek: they create no event.
//   - join by an alias of another server: only that server knows the room. A join by a local alias has the gate.
//   - account/deactivate and admin/evacuateUser: Dendrite leaves the rooms one by one, perhaps thousands. The account's
//     futures are dropped, and another user's future sees the user in the room or not.
//   - a change of profile by a user who is in more than mostProfileRooms rooms: Dendrite builds the events of all rooms
//     before it sends the first, and all these rooms would be blocked meanwhile.
//   - upgrade: simultaneous upgrades share one new room (patch 32-upgrade-room). Behind a gate they would run one after
//     the other, and each would create a room of its own. An upgrade also creates a whole room, which takes long.
//   - send_server_notice: it writes to a room of its own, after finding or creating it.
//   - transactions of other servers: their events have other predecessors in any case.
//
// Requests that schedule an event have no gate, because our own routes answer them.

// A target returns the rooms that a request is going to write to.
type target func(g *gating, ctx context.Context, vars map[string]string, device *userapi.Device) []string

// gatedRoutes are keyed by method and path, as Dendrite registers them.
var gatedRoutes = map[string]target{
	"POST /rooms/{roomID}/send/{eventType}":            thisRoom,
	"PUT /rooms/{roomID}/send/{eventType}/{txnID}":     thisRoom,
	"PUT /rooms/{roomID}/state/{eventType:[^/]+/?}":    thisRoom,
	"PUT /rooms/{roomID}/state/{eventType}/{stateKey}": thisRoom,
	"POST /rooms/{roomID}/redact/{eventID}":            thisRoom,
	"PUT /rooms/{roomID}/redact/{eventID}/{txnId}":     thisRoom,
	"POST /rooms/{roomID}/join":                        thisRoom,
	"POST /rooms/{roomID}/leave":                       thisRoom,
	"POST /rooms/{roomID}/kick":                        thisRoom,
	"POST /rooms/{roomID}/ban":                         thisRoom,
	"POST /rooms/{roomID}/unban":                       thisRoom,
	"POST /rooms/{roomID}/invite":                      thisRoom,
	"POST /join/{roomIDOrAlias}":                       thisRoomOrAlias,
	"DELETE /directory/room/{roomAlias}":               roomOfAlias, // may change m.room.canonical_alias
	"PUT /profile/{userID}/displayname":                roomsOfUser,
	"PUT /profile/{userID}/avatar_url":                 roomsOfUser,
	"POST /_dendrite/admin/evacuateRoom/{roomID}":      thisRoom,
}

// mostProfileRooms is how many gates one request may hold at once.
const mostProfileRooms = 64

func thisRoom(_ *gating, _ context.Context, vars map[string]string, _ *userapi.Device) []string {
	return []string{vars["roomID"]}
}

func thisRoomOrAlias(g *gating, ctx context.Context, vars map[string]string, _ *userapi.Device) []string {
	if room := vars["roomIDOrAlias"]; !strings.HasPrefix(room, "#") {
		return []string{room}
	}
	return g.lookUp(ctx, vars["roomIDOrAlias"])
}

func roomOfAlias(g *gating, ctx context.Context, vars map[string]string, _ *userapi.Device) []string {
	return g.lookUp(ctx, vars["roomAlias"])
}

// roomsOfUser returns the rooms in order, so that two such requests cannot deadlock.
func roomsOfUser(g *gating, ctx context.Context, _ map[string]string, device *userapi.Device) []string {
	user, err := spec.NewUserID(device.UserID, true)
	if err != nil {
		return nil
	}
	ids, err := g.rooms.QueryRoomsForUser(ctx, *user, spec.Join)
	if err != nil || len(ids) > mostProfileRooms {
		return nil
	}
	rooms := make([]string, len(ids))
	for i := range ids {
		rooms[i] = ids[i].String()
	}
	slices.Sort(rooms)
	return rooms
}

// gating makes requests enter the gates of the rooms that they write to.
type gating struct {
	gates *south.Gates
	rooms rsapi.RoomserverInternalAPI
	users userapi.QueryAcccessTokenAPI
}

// lookUp finds the room of an alias that this server knows.
func (g *gating) lookUp(ctx context.Context, alias string) []string {
	var res rsapi.GetRoomIDForAliasResponse
	if err := g.rooms.GetRoomIDForAlias(ctx, &rsapi.GetRoomIDForAliasRequest{Alias: alias}, &res); err != nil || res.RoomID == "" {
		return nil
	}
	return []string{res.RoomID}
}

// guard puts the gates before those routes that are not in ours. It returns an error if one of gatedRoutes does not
// exist.
func (g *gating) guard(routers httputil.Routers, ours map[*mux.Route]bool) error {
	missing := make(map[string]bool, len(gatedRoutes))
	for name := range gatedRoutes {
		missing[name] = true
	}
	wrapRoutes(routers, ours, func(name string, next http.Handler) http.Handler {
		rooms, ok := gatedRoutes[name]
		if !ok {
			return next
		}
		delete(missing, name)
		return g.handler(rooms, next)
	})
	if len(missing) > 0 {
		return fmt.Errorf("Dendrite has no routes %v; the rooms' gates cannot be put before them", missing)
	}
	return nil
}

// wrapRoutes wraps the handlers of those routes that are not in ours.
func wrapRoutes(routers httputil.Routers, ours map[*mux.Route]bool, wrap func(name string, next http.Handler) http.Handler) {
	for route := range routesOf(routers) {
		if name := routeName(route); name != "" && !ours[route] {
			route.Handler(wrap(name, route.GetHandler()))
		}
	}
}

// routesOf returns all registered routes.
func routesOf(routers httputil.Routers) map[*mux.Route]bool {
	routes := make(map[*mux.Route]bool)
	for _, router := range []*mux.Router{routers.Client, routers.DendriteAdmin, routers.SynapseAdmin} {
		_ = router.Walk(func(route *mux.Route, _ *mux.Router, _ []*mux.Route) error {
			routes[route] = true
			return nil
		})
	}
	return routes
}

// routeName returns the route's first method and its path, without the prefix and version of the client API; "" if the
// route has none.
func routeName(route *mux.Route) string {
	path, err := route.GetPathTemplate()
	methods, noMethods := route.GetMethods()
	if err != nil || noMethods != nil || route.GetHandler() == nil {
		return ""
	}
	path = strings.TrimPrefix(path, strings.TrimSuffix(httputil.PublicClientPathPrefix, "/"))
	path = strings.TrimPrefix(path, "/{apiversion:(?:r0|v3)}")
	return methods[0] + " " + path
}

// mostBuffered is the longest body that is read before a request enters a gate. An event has at most 64 KiB, and JSON
// may escape each byte in six. A longer body is streamed, without the gate.
const mostBuffered = 400 << 10

// handler makes requests enter the gates of their rooms before next answers them.
func (g *gating) handler(rooms target, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.Method == http.MethodOptions {
			next.ServeHTTP(w, req)
			return
		}
		req, whole := buffer(req)
		if whole {
			defer g.enter(req, rooms)()
		}
		next.ServeHTTP(w, req)
	})
}

// buffer reads the body, and reports whether that was the whole body.
func buffer(req *http.Request) (_ *http.Request, whole bool) {
	data, err := io.ReadAll(io.LimitReader(req.Body, mostBuffered+1))
	copied := *req
	copied.Body = struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(data), req.Body), req.Body}
	return &copied, err == nil && len(data) <= mostBuffered
}

// enter enters all gates, with one time limit for all of them. A request that Dendrite is going to refuse does not
// wait.
func (g *gating) enter(req *http.Request, rooms target) (leave func()) {
	leave = func() {}
	device, refusal := auth.VerifyUserFromRequest(req, g.users)
	if refusal != nil {
		return leave
	}
	vars, err := httputil.URLDecodeMapValues(mux.Vars(req))
	if err != nil {
		return leave
	}
	ctx, cancel := context.WithTimeout(req.Context(), gatesPatience)
	defer cancel()
	var leaves []func()
	for _, room := range rooms(g, ctx, vars, device) {
		leaves = append(leaves, g.gates.Enter(ctx, room, device.UserID))
	}
	return func() {
		for _, leave := range leaves {
			leave()
		}
	}
}

// gatesPatience is the time limit for all gates of a request together.
const gatesPatience = 5 * time.Second

// yieldingFederation is the federation API as the roomserver sees it. A request that begins to wait for another server
// leaves the room's gate.
type yieldingFederation struct {
	fedapi.RoomserverFederationAPI
	gates *south.Gates
}

// PerformJoin implements fedapi.RoomserverFederationAPI.
func (y yieldingFederation) PerformJoin(ctx context.Context, req *fedapi.PerformJoinRequest, res *fedapi.PerformJoinResponse) {
	y.gates.Yield(req.RoomID, req.UserID)
	y.RoomserverFederationAPI.PerformJoin(ctx, req, res)
}

// PerformLeave implements fedapi.RoomserverFederationAPI.
func (y yieldingFederation) PerformLeave(ctx context.Context, req *fedapi.PerformLeaveRequest, res *fedapi.PerformLeaveResponse) error {
	y.gates.Yield(req.RoomID, req.UserID)
	return y.RoomserverFederationAPI.PerformLeave(ctx, req, res)
}

// SendInvite implements fedapi.RoomserverFederationAPI. The invited server may be slow. Meanwhile others may build on
// the predecessor of the invite.
func (y yieldingFederation) SendInvite(ctx context.Context, event gomatrixserverlib.PDU, state []gomatrixserverlib.InviteStrippedState) (gomatrixserverlib.PDU, error) {
	y.gates.Yield(event.RoomID().String(), string(event.SenderID()))
	return y.RoomserverFederationAPI.SendInvite(ctx, event, state)
}
