package setup

import (
	"context"
	"net/http"

	"github.com/matrix-org/dendrite/setup/config"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/matrix-org/dendrite/futures/clientapi"
	"github.com/matrix-org/dendrite/futures/clientapi/rtc"
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
