package setup

import (
	"github.com/matrix-org/dendrite/internal/sqlutil"
	"github.com/sirupsen/logrus"

	fconfig "github.com/matrix-org/dendrite/futures/setup/config"
)

// logSettings writes the effective future_server section, with all defaults, in one log line. The line contains no
// secret and no address of a PostgreSQL database.
func logSettings(c *fconfig.FutureServer) {
	if !c.Enabled {
		logrus.Info("futureserver: settings: switched off")
		return
	}
	database := "PostgreSQL"
	if c.Database.ConnectionString.IsSQLite() {
		database, _ = sqlutil.ParseFileURI(c.Database.ConnectionString) // it has been opened
	}
	limits := c.RateLimits
	logrus.WithFields(logrus.Fields{
		"database":             database,
		"max_timeout":          fconfig.Spell(c.MaxTimeout),
		"max_futures_per_user": c.MaxFuturesPerUser,
		"high_water_slack":     fconfig.Spell(c.HighWaterSlack),
		"restart_grace":        fconfig.Spell(c.RestartGrace),
		"rooms_in_flight":      c.RoomsInFlight,
		"unhealthy_after":      fconfig.Spell(c.UnhealthyAfter),
		"retention":            fconfig.Spell(c.Retention),
		"max_delay":            fconfig.Spell(c.DelayedEvents.MaxDelay),
		"max_scheduled":        c.DelayedEvents.MaxScheduled,
		"cancel_on_others":     c.DelayedEvents.CancelOnOthersState,
		"open_management":      c.DelayedEvents.OpenManagement,
		"keep_per_user":        c.DelayedEvents.KeepPerUser,
		"create_per_second":    limits.Create.PerSecond,
		"token_per_second":     limits.Token.PerSecond,
		"invalid_per_second":   limits.InvalidToken.PerSecond,
		"trusted_proxies":      len(c.TrustedProxies),
		"sqlite_wal":           c.SQLiteWAL,
		"page":                 c.Page,
		"new_room_levels":      c.NewRoomEventLevels,
	}).Info("futureserver: settings")
}
