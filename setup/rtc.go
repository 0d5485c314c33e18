package setup

import (
	"context"
	"database/sql"
	"net/http"

	"github.com/matrix-org/dendrite/internal/httputil"
	"github.com/matrix-org/dendrite/setup/config"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/matrix-org/dendrite/futures/clientapi"
	"github.com/matrix-org/dendrite/futures/clientapi/rtc"
	"github.com/matrix-org/dendrite/futures/clientapi/syncapi"
	"github.com/matrix-org/dendrite/futures/futureserver/api"
	fconfig "github.com/matrix-org/dendrite/futures/setup/config"
)

// fitForCalls sets what calls need otherwise than Dendrite does it.
func fitForCalls(d *config.Dendrite, f *fconfig.FutureServer) {
	d.RoomServer.NewRoomEventLevels = f.NewRoomEventLevels
	d.ClientAPI.OpenIDTokenWait = clientapi.NewLimit(f.RateLimits.CallToken)
}

// newRTC gives MatrixRTC access to Dendrite. Requests to other servers go through the federation client's transport, so
// the same networks are refused.
func newRTC(c *components, o Options) *rtc.Service {
	options := rtc.Options{
		Dendrite: o.Dendrite,
		Config:   &o.Futures.MatrixRTC,
		Users:    c.UserAPI,
		Rooms:    c.RoomserverAPI,
		Keys:     c.KeyRing,
		Rate:     o.Futures.RateLimits.CallToken,
		NewLimit: clientapi.NewLimit,
		Source:   clientapi.NewSource(o.Futures.TrustedProxies),
	}
	if o.Metrics {
		options.Registerer = prometheus.DefaultRegisterer
	}
	client, ok := c.FedClient.(interface {
		DoHTTPRequest(ctx context.Context, req *http.Request) (*http.Response, error)
	})
	if ok && !o.Dendrite.Global.DisableFederation {
		options.Federation = client.DoHTTPRequest
	}
	return rtc.New(options)
}

// addGhostRoutes registers the admin endpoint for ghosts in calls.
func (s *Server) addGhostRoutes(routers httputil.Routers, syncDB *sql.DB) {
	rooms := clientapi.CallRooms{
		Members: syncapi.CallMembers(syncDB), Send: s.rooms.Send, IsLocal: s.components.Config.Global.IsLocalServerName,
	}
	var futures api.ClientAPI
	if s.futures != nil {
		futures = s.futures
	}
	clientapi.AddGhostRoutes(routers, rooms, futures, s.sessions.Remembered())
}
