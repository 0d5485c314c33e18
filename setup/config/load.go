package config

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/sirupsen/logrus"
	"gopkg.in/yaml.v3"
)

// Load reads our parts of the dendrite.yaml at path, over the defaults. Dendrite reads the rest. An unknown key or a
// bad value in the future_server section, or a bad network, is an error that names the key and its line. All errors are
// reported at once.
func Load(path string) (*FutureServer, Networks, error) {
	futures, networks := new(FutureServer), Networks{Deny: PrivateNetworks()}
	futures.Defaults()
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, Networks{}, err
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(data, &doc); err != nil {
		return nil, Networks{}, fmt.Errorf("%s: %w", path, err)
	}
	if len(doc.Content) == 0 { // an empty file; Dendrite will say what is missing
		return futures, networks, nil
	}
	r := reader{file: path}
	root := doc.Content[0]
	r.layout("", root, sections())
	r.section(section, member(root, section), futures.fields(&r, clientURL(root)))
	federation := member(root, "federation_api")
	r.layout("federation_api.", federation, []string{"allow_networks", "deny_networks"})
	r.prefixes(&networks.Allow)("federation_api.allow_networks", member(federation, "allow_networks"))
	r.prefixes(&networks.Deny)("federation_api.deny_networks", member(federation, "deny_networks"))
	if err := errors.Join(r.errs...); err != nil {
		return nil, Networks{}, err
	}
	if futures.MaxTimeout > 30*Day {
		logrus.Warnf("future_server.max_timeout is %s; MSC4140 advises no more than a month", Spell(futures.MaxTimeout))
	}
	return futures, networks, nil
}

// clientURL returns the URL under which clients reach this server, or "" if the file does not say.
func clientURL(root *yaml.Node) string {
	if name := member(member(root, "global"), "well_known_client_name"); name != nil {
		return strings.TrimRight(name.Value, "/")
	}
	return ""
}

// fields lists the keys of the section with their parsers. clients is the URL under which clients reach this server.
func (c *FutureServer) fields(r *reader, clients string) fields {
	limits := &c.RateLimits
	return fields{
		"enabled": r.boolean(&c.Enabled),
		"database": r.nested(fields{
			"connection_string": r.text((*string)(&c.Database.ConnectionString)),
			"max_open_conns":    r.integer(&c.Database.MaxOpenConnections, -1, 10_000),
			"max_idle_conns":    r.integer(&c.Database.MaxIdleConnections, -1, 10_000),
			"conn_max_lifetime": r.integer(&c.Database.ConnMaxLifetimeSeconds, -1, 1<<31-1),
		}),
		"max_timeout":          r.duration(&c.MaxTimeout, shortestTimeout, longestTimeout),
		"max_futures_per_user": r.integer(&c.MaxFuturesPerUser, 1, 1_000_000),
		"high_water_slack":     r.duration(&c.HighWaterSlack, shortestSlack, longestSlack),
		"restart_grace":        r.duration(&c.RestartGrace, 0, longestGrace),
		"rooms_in_flight":      r.integer(&c.RoomsInFlight, 0, 64),
		"unhealthy_after":      r.duration(&c.UnhealthyAfter, shortestUnhealthy, longestUnhealthy),
		"retention":            r.duration(&c.Retention, shortestRetention, longestRetention),
		"delayed_events": r.nested(fields{
			"max_delay":              r.duration(&c.DelayedEvents.MaxDelay, 0, longestTimeout),
			"max_scheduled":          r.integer(&c.DelayedEvents.MaxScheduled, 0, 1_000_000),
			"cancel_on_others_state": r.boolean(&c.DelayedEvents.CancelOnOthersState),
			"open_management":        r.boolean(&c.DelayedEvents.OpenManagement),
			"keep_per_user":          r.integer(&c.DelayedEvents.KeepPerUser, 0, 1_000_000),
		}),
		"rate_limits": r.nested(fields{
			"create":        r.rate(&limits.Create),
			"invalid_token": r.rate(&limits.InvalidToken),
			"token":         r.rate(&limits.Token),
			"call_token":    r.rate(&limits.CallToken),
		}),
		"trusted_proxies":             r.prefixes(&c.TrustedProxies),
		"max_connections_per_address": r.integer(&c.MaxConnectionsPerAddress, 0, 1_000_000),
		"sqlite_wal":                  r.boolean(&c.SQLiteWAL),
		"ignore_unknown_rooms":        r.boolean(&c.IgnoreUnknownRooms),
		"new_room_event_levels":       r.levels(&c.NewRoomEventLevels),
		"page":                        r.boolean(&c.Page),
		"matrix_rtc":                  r.nested(c.MatrixRTC.fields(r, clients)),
	}
}

func (r *reader) rate(to *RateLimit) field {
	return r.nested(fields{
		"per_second": r.number(&to.PerSecond, 0, 1_000_000),
		"burst":      r.integer(&to.Burst, 1, 1_000_000),
	})
}
