// Package config reads our parts of dendrite.yaml: the future_server section, and the two keys of federation_api that
// Dendrite v0.13.8 does not know.
package config

import (
	"net/netip"
	"time"

	"github.com/matrix-org/dendrite/setup/config"
)

// Day is a unit that Go's notation for durations lacks.
const Day = 24 * time.Hour

const (
	shortestTimeout   = time.Millisecond
	longestTimeout    = 49 * Day // the futureserver counts milliseconds in 32 bits
	longestRetention  = 3650 * Day
	shortestSlack     = time.Second
	longestSlack      = 10 * time.Minute
	longestGrace      = 30 * time.Second
	shortestRetention = time.Minute
	shortestUnhealthy = time.Second
	longestUnhealthy  = time.Hour
)

// FutureServer is the future_server section of dendrite.yaml.
type FutureServer struct {
	// Enabled switches futures on. If it is off, every request that would schedule one is refused.
	Enabled bool `yaml:"enabled"`
	// Database is where futures are stored. The default is the global PostgreSQL database or, without one, the file
	// futureserver.db beside the roomserver's SQLite file.
	Database config.DatabaseOptions `yaml:"database"`
	// MaxTimeout is the longest timeout of a future, 1ms to 49d.
	MaxTimeout time.Duration `yaml:"max_timeout"`
	// MaxFuturesPerUser is how many scheduled futures a user may have, at least 1.
	MaxFuturesPerUser int `yaml:"max_futures_per_user"`
	// HighWaterSlack is by how much the stored deadline may exceed the true one, 1s to 10m. It is how late a refreshed
	// future fires after a crash at most. With a larger value refreshes are written less often.
	HighWaterSlack time.Duration `yaml:"high_water_slack"`
	// RestartGrace applies to futures with heartbeats that became due while the server was down. It is how long after
	// the start they wait for one more heartbeat, 0 to 30s; with 0 they are sent at once.
	RestartGrace time.Duration `yaml:"restart_grace"`
	// RoomsInFlight is how many rooms events are sent to at the same time, 0 to 64. In one room events are sent one
	// after the other. 0 means 2 if Dendrite's rooms are on SQLite, and on PostgreSQL one for each processor, 2 to 8.
	RoomsInFlight int `yaml:"rooms_in_flight"`
	// UnhealthyAfter is how long an event may be overdue, and how long a consumer of the roomserver's output may make
	// no progress, before the health check fails. 1s to 1h.
	UnhealthyAfter time.Duration `yaml:"unhealthy_after"`
	// Retention is how long finished futures are remembered, so that a repeated request gets its answer. 1m to 10
	// years.
	Retention time.Duration `yaml:"retention"`
	// DelayedEvents has the settings for delayed events, the later generations of MSC4140.
	DelayedEvents DelayedEvents `yaml:"delayed_events"`
	// RateLimits limits the requests of clients.
	RateLimits RateLimits `yaml:"rate_limits"`
	// TrustedProxies lists the networks whose X-Forwarded-For is trusted.
	TrustedProxies []netip.Prefix `yaml:"trusted_proxies"`
	// MaxConnectionsPerAddress is how many connections one address may have, unless it is a trusted proxy. 0 means a
	// quarter of the files that the process may have open.
	MaxConnectionsPerAddress int `yaml:"max_connections_per_address"`
	// SQLiteWAL switches Dendrite's own SQLite files to write-ahead logging at start. The files keep the mode.
	SQLiteWAL bool `yaml:"sqlite_wal"`
	// IgnoreUnknownRooms lets the server start although its database has rooms of unknown versions.
	IgnoreUnknownRooms bool `yaml:"ignore_unknown_rooms"`
	// NewRoomEventLevels are the power levels that new rooms ask for these types of events, where the room's creator does
	// not say. Each is 0 to 100.
	NewRoomEventLevels map[string]int64 `yaml:"new_room_event_levels"`
	// Page serves a web page for users, administrators and developers.
	Page bool `yaml:"page"`
	// MatrixRTC names the SFUs that carry the media of calls.
	MatrixRTC MatrixRTC `yaml:"matrix_rtc"`
}

// DelayedEvents has the settings for generations 1 and 2.
type DelayedEvents struct {
	// MaxDelay is the longest delay; 0 switches delayed events off.
	MaxDelay time.Duration `yaml:"max_delay"`
	// MaxScheduled is how many scheduled delayed events a user may have; 0 switches delayed events off.
	MaxScheduled int `yaml:"max_scheduled"`
	// CancelOnOthersState cancels a delayed state event when another user sends newer state for its key.
	CancelOnOthersState bool `yaml:"cancel_on_others_state"`
	// OpenManagement lets everybody who knows a delay_id act on it, on the unstable path. Services that hold the leave
	// event for a client need it.
	OpenManagement bool `yaml:"open_management"`
	// KeepPerUser is how many finished delayed events of each user are kept within the retention time; 0: all.
	KeepPerUser int `yaml:"keep_per_user"`
}

// RateLimits are token buckets: PerSecond is the refill rate, Burst is the size.
type RateLimits struct {
	// Create limits scheduling, for each user.
	Create RateLimit `yaml:"create"`
	// InvalidToken limits calls with unknown tokens and delay_ids, for each source address. Valid ones do not count.
	InvalidToken RateLimit `yaml:"invalid_token"`
	// Token limits calls with one valid token or delay_id, and how often a user looks up delayed events.
	Token RateLimit `yaml:"token"`
	// CallToken limits how often a user gets a LiveKit token, and how often a user's device gets an OpenID token. Another
	// server may ask for LiveKit tokens for its users five times as often.
	CallToken RateLimit `yaml:"call_token"`
}

// RateLimit is one bucket; PerSecond 0 means no limit.
type RateLimit struct {
	PerSecond float64 `yaml:"per_second"`
	Burst     int     `yaml:"burst"`
}

// Defaults sets the defaults.
func (c *FutureServer) Defaults() {
	c.Enabled = true
	c.MaxTimeout = 7 * Day
	c.MaxFuturesPerUser = 100
	c.HighWaterSlack = 30 * time.Second
	c.RestartGrace = 10 * time.Second
	c.UnhealthyAfter = 30 * time.Second
	c.Retention = 7 * Day
	c.Page = true
	c.DelayedEvents = DelayedEvents{
		MaxDelay: 7 * 24 * time.Hour, MaxScheduled: 100, OpenManagement: true, KeepPerUser: 1000,
	}
	c.NewRoomEventLevels = map[string]int64{ // who is in a call says so in a state event
		"org.matrix.msc3401.call.member": 0,
		"org.matrix.msc4143.rtc.member":  0,
		"m.rtc.member":                   0,
	}
	c.MatrixRTC = MatrixRTC{Enabled: true, WellKnown: true}
	c.RateLimits = RateLimits{
		Create:       RateLimit{PerSecond: 10, Burst: 50},
		InvalidToken: RateLimit{PerSecond: 0.5, Burst: 5},
		Token:        RateLimit{PerSecond: 5, Burst: 20},
		CallToken:    RateLimit{PerSecond: 1, Burst: 30}, // a call asks once for each homeserver in it
	}
}
