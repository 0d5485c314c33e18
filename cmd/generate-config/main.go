// Command generate-config prints a dendrite.yaml: a new one, or an existing one with all missing defaults. It replaces
// Dendrite's own program, which would drop the future_server section.
package main

import (
	"flag"
	"fmt"
	"log"
	"path/filepath"

	"github.com/matrix-org/dendrite/setup/config"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"golang.org/x/crypto/bcrypt"

	fconfig "github.com/matrix-org/dendrite/futures/setup/config"
)

var (
	forCI      = flag.Bool("ci", false, "Settings for tests: open registration, no limits, all networks allowed, the message queue in memory")
	serverName = flag.String("server", "", "The server's domain name, if not localhost")
	dbURI      = flag.String("db", "", "The database for all components (PostgreSQL), if not a SQLite file for each")
	dir        = flag.String("dir", "./", "The folder for databases, media and the like")
	normalise  = flag.String("normalise", "", "Print this configuration with all options that it lacks, at their defaults")
)

func main() {
	flag.Parse()
	d, f, n, err := generate()
	if err != nil {
		log.Fatal(err)
	}
	text, err := fconfig.Marshal(d, f, n)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(string(text))
}

func generate() (*config.Dendrite, *fconfig.FutureServer, fconfig.Networks, error) {
	if *normalise != "" {
		d, err := config.Load(*normalise)
		if err != nil {
			return nil, nil, fconfig.Networks{}, err
		}
		f, n, err := fconfig.Load(*normalise)
		return d, f, n, err
	}
	d, f := new(config.Dendrite), new(fconfig.FutureServer)
	d.Defaults(config.DefaultOpts{Generate: true, SingleDatabase: true})
	f.Defaults()
	if *serverName != "" {
		d.Global.ServerName = spec.ServerName(*serverName)
	}
	placeDatabases(d, config.DataSource(*dbURI))
	d.MediaAPI.BasePath = in("media")
	d.SyncAPI.Fulltext.IndexPath = in("searchindex")
	d.Global.JetStream.StoragePath = config.Path(*dir)
	d.Logging = []config.LogrusHook{{Type: "file", Level: "info", Params: map[string]any{"path": string(in("log"))}}}
	n := fconfig.Networks{Deny: fconfig.PrivateNetworks()}
	if *forCI {
		tuneForCI(d)
		n = fconfig.Networks{} // the servers of a test are all in private networks
		f.MaxFuturesPerUser, f.DelayedEvents.MaxScheduled = most, most
		f.RateLimits = fconfig.RateLimits{Create: unlimited(), InvalidToken: unlimited(), Token: unlimited(), CallToken: unlimited()}
	}
	return d, f, n, nil
}

func in(name string) config.Path { return config.Path(filepath.Join(*dir, name)) }

// idleConnections is how many connections to PostgreSQL stay open. With Dendrite's default of 2, PostgreSQL would start
// a process for nearly every query as soon as several clients are active.
const idleConnections = 30

// placeDatabases sets one PostgreSQL database for all components, or one SQLite file for each.
func placeDatabases(d *config.Dendrite, uri config.DataSource) {
	if uri != "" && !uri.IsSQLite() {
		d.Global.DatabaseOptions.ConnectionString = uri
		d.Global.DatabaseOptions.MaxIdleConnections = idleConnections
		return
	}
	for name, db := range map[string]*config.DatabaseOptions{
		"federationapi": &d.FederationAPI.Database,
		"keyserver":     &d.KeyServer.Database,
		"mediaapi":      &d.MediaAPI.Database,
		"mscs":          &d.MSCs.Database,
		"relayapi":      &d.RelayAPI.Database,
		"roomserver":    &d.RoomServer.Database,
		"syncapi":       &d.SyncAPI.Database,
		"userapi":       &d.UserAPI.AccountDatabase,
	} {
		db.ConnectionString = uri
		if uri == "" {
			db.ConnectionString = config.DataSource("file:" + string(in("dendrite_"+name+".db")))
		}
	}
}

// most is the highest limit that futures can have.
const most = 1000000

func unlimited() fconfig.RateLimit { return fconfig.RateLimit{PerSecond: 0, Burst: 1} }

func tuneForCI(d *config.Dendrite) {
	d.AppServiceAPI.DisableTLSValidation = true
	d.ClientAPI.RateLimiting.Enabled = false
	d.ClientAPI.RegistrationDisabled = false
	d.ClientAPI.OpenRegistrationWithoutVerificationEnabled = true
	d.ClientAPI.RegistrationSharedSecret = "complement"
	d.FederationAPI.DisableTLSValidation = false
	d.FederationAPI.DisableHTTPKeepalives = true
	d.FederationAPI.KeyPerspectives = config.KeyPerspectives{} // tests must not ask servers on the Internet
	d.Global.JetStream.InMemory = true
	d.Global.Presence = config.PresenceOptions{EnableInbound: true, EnableOutbound: true}
	d.Logging[0].Level, d.Logging[0].Type = "trace", "std"
	d.MSCs.MSCs = []string{"msc2836", "msc2444", "msc2753"}
	d.SyncAPI.Fulltext.Enabled, d.SyncAPI.Fulltext.InMemory, d.SyncAPI.Fulltext.Language = true, true, "en"
	d.UserAPI.BCryptCost = bcrypt.MinCost
}
