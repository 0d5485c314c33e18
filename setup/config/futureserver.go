// Package config reads what is ours in dendrite.yaml: the future_server section, and the two keys of
// federation_api that Dendrite v0.13.8 does not know.
package config

import (
	"net/netip"
	"time"

	"github.com/matrix-org/dendrite/setup/config"
)

// FutureServer is the future_server section of dendrite.yaml.
type FutureServer struct {
	// Enabled switches futures on. When off, every request that would schedule one is refused.
	Enabled bool `yaml:"enabled"`
	// Database is where futures are kept. Without a connection string it is the global PostgreSQL database, or,
	// if there is none, the file futureserver.db beside the roomserver's SQLite file.
	Database config.DatabaseOptions `yaml:"database"`
	// MaxTimeout is the longest timeout a future may have.
	MaxTimeout time.Duration `yaml:"max_timeout"`
	// MaxFuturesPerUser is how many futures a user may have scheduled at a time.
	MaxFuturesPerUser int `yaml:"max_futures_per_user"`
	// HighWaterSlack is how far beyond the true deadline the stored one may lie: how late, at the most, a
	// refreshed future fires after a crash, and how rarely refreshes are written.
	HighWaterSlack time.Duration `yaml:"high_water_slack"`
	// RoomsInFlight is how many rooms are sent to at the same time; in one room it is always one event.
	RoomsInFlight int `yaml:"rooms_in_flight"`
	// Retention is how long finished futures are remembered, so that a repeated request finds its answer.
	Retention time.Duration `yaml:"retention"`
	// RateLimits bounds what clients may ask.
	RateLimits RateLimits `yaml:"rate_limits"`
	// TrustedProxies lists the networks whose X-Forwarded-For is believed.
	TrustedProxies []netip.Prefix `yaml:"trusted_proxies"`
	// SQLiteWAL switches Dendrite's own SQLite files to write-ahead logging at start. The files stay so.
	SQLiteWAL bool `yaml:"sqlite_wal"`
}

// RateLimits are token buckets: PerSecond refills, Burst is the size.
type RateLimits struct {
	// Create limits scheduling, for each user.
	Create RateLimit `yaml:"create"`
	// InvalidToken limits calls with unknown tokens, for each source address. Valid tokens do not count.
	InvalidToken RateLimit `yaml:"invalid_token"`
	// Token limits calls with one valid token.
	Token RateLimit `yaml:"token"`
}

// RateLimit is one bucket; PerSecond 0 means no limit.
type RateLimit struct {
	PerSecond float64 `yaml:"per_second"`
	Burst     int     `yaml:"burst"`
}

// Networks are federation_api.allow_networks and deny_networks: where the federation client may connect.
// An address in Allow is allowed; else one in Deny is refused; else it is allowed.
type Networks struct {
	Allow []netip.Prefix `yaml:"allow_networks"`
	Deny  []netip.Prefix `yaml:"deny_networks"`
}

// Defaults sets what applies where dendrite.yaml is silent.
func (c *FutureServer) Defaults() {
	c.Enabled = true
	c.MaxTimeout = 7 * 24 * time.Hour
	c.MaxFuturesPerUser = 100
	c.HighWaterSlack = 30 * time.Second
	c.RoomsInFlight = 6
	c.Retention = 7 * 24 * time.Hour
	c.RateLimits = RateLimits{
		Create:       RateLimit{PerSecond: 10, Burst: 50},
		InvalidToken: RateLimit{PerSecond: 0.5, Burst: 5},
		Token:        RateLimit{PerSecond: 5, Burst: 20},
	}
}
