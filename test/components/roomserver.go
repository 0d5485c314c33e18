package components

import (
	"testing"
	"time"

	"github.com/matrix-org/dendrite/internal/caching"
	"github.com/matrix-org/dendrite/internal/sqlutil"
	"github.com/matrix-org/dendrite/roomserver"
	rsapi "github.com/matrix-org/dendrite/roomserver/api"
	"github.com/matrix-org/dendrite/setup/config"
	"github.com/matrix-org/dendrite/setup/jetstream"
	"github.com/matrix-org/dendrite/setup/process"
	"github.com/matrix-org/dendrite/test"
	"github.com/matrix-org/dendrite/test/testrig"
)

// Roomserver is Dendrite's roomserver, and what other components need to work with it. It has no federation until its
// owner sets one.
type Roomserver struct {
	rsapi.RoomserverInternalAPI
	Config      *config.Dendrite
	Process     *process.ProcessContext
	Connections *sqlutil.Connections
	Caches      *caching.Caches
	NATS        *jetstream.NATSInstance
}

// NewRoomserver starts a roomserver that stops when the test ends.
func NewRoomserver(t *testing.T, dbType test.DBType) *Roomserver {
	cfg, proc, remove := testrig.CreateConfig(t, dbType)
	cfg.Global.JetStream.StoragePath = config.Path(t.TempDir())
	t.Cleanup(func() {
		proc.ShutdownDendrite()
		proc.WaitForComponentsToFinish()
		remove()
	})
	r := &Roomserver{
		Config: cfg, Process: proc, Connections: sqlutil.NewConnectionManager(proc, cfg.Global.DatabaseOptions),
		Caches: caching.NewRistrettoCache(8<<20, time.Hour, caching.DisableMetrics), NATS: new(jetstream.NATSInstance),
	}
	r.RoomserverInternalAPI = roomserver.NewInternalAPI(proc, cfg, r.Connections, r.NATS, r.Caches, caching.DisableMetrics)
	return r
}
