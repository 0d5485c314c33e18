package main

import (
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/setup/config"

	"github.com/matrix-org/dendrite/futures/setup"
	fconfig "github.com/matrix-org/dendrite/futures/setup/config"
)

// reread writes the output of generate to a file and loads it as the server does.
func reread(t *testing.T) (*config.Dendrite, *fconfig.FutureServer, fconfig.Networks) {
	t.Helper()
	d, f, n, err := generate()
	if err != nil {
		t.Fatal(err)
	}
	text, err := fconfig.Marshal(d, f, n)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "dendrite.yaml")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if f, n, err = fconfig.Load(path); err != nil {
		t.Fatal(err)
	}
	if d, err = config.Load(path); err != nil {
		t.Fatal(err)
	}
	return d, f, n
}

func TestNormaliseKeepsOurSection(t *testing.T) {
	path, _, err := setup.QuickStart(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	*normalise = path
	defer func() { *normalise = "" }()
	d, f, _ := reread(t)
	if !f.SQLiteWAL || f.MaxTimeout != 168*time.Hour || f.Database.ConnectionString == "" || d.ClientAPI.RegistrationSharedSecret == "" {
		t.Errorf("%+v %+v", f, d.ClientAPI)
	}
}

func TestGenerate(t *testing.T) {
	t.Chdir(t.TempDir())
	if _, _, err := setup.QuickStart("."); err != nil { // for the key that the configuration names
		t.Fatal(err)
	}
	if _, _, n := reread(t); !n.Refuses(netip.MustParseAddr("172.17.0.1")) {
		t.Errorf("%+v", n)
	}
	*serverName, *dir, *forCI = "example.com", "data", true
	d, f, n := reread(t)
	if d.Global.ServerName != "example.com" || d.RoomServer.Database.ConnectionString != "file:data/dendrite_roomserver.db" ||
		!d.Global.JetStream.InMemory || d.Global.DatabaseOptions.ConnectionString != "" || !f.Enabled || f.SQLiteWAL {
		t.Errorf("%+v %+v", d.Global, f)
	}
	// Other servers of the test are in private networks, and a test schedules as fast as it can.
	if n.Refuses(netip.MustParseAddr("172.17.0.1")) || f.RateLimits.Create.PerSecond != 0 || f.RateLimits.InvalidToken.PerSecond != 0 ||
		f.MaxFuturesPerUser < 10000 || f.DelayedEvents.MaxScheduled < 10000 {
		t.Errorf("%+v %+v", n, f)
	}
	*dbURI = "postgres://db/dendrite"
	d, _, _ = reread(t)
	if d.Global.DatabaseOptions.ConnectionString != "postgres://db/dendrite" || d.RoomServer.Database.ConnectionString != "" ||
		d.Global.DatabaseOptions.MaxIdleConnections != idleConnections {
		t.Errorf("%+v %+v", d.Global, d.RoomServer)
	}
}
