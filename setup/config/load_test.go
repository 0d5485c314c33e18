package config

import (
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/internal/sqlutil"
	"github.com/matrix-org/dendrite/setup/config"
)

func load(t *testing.T, yaml string) (*FutureServer, Networks, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "dendrite.yaml")
	if err := os.WriteFile(path, []byte(yaml), 0o600); err != nil {
		t.Fatal(err)
	}
	return Load(path)
}

func TestLoadWithoutSectionIsDefaults(t *testing.T) {
	var want FutureServer
	want.Defaults()
	for _, yaml := range []string{"", "version: 2\n", "future_server:\n", "future_server: {}\nfederation_api:\n", "future_server:\n  rate_limits:\n  enabled:\n"} {
		got, networks, err := load(t, yaml)
		if err != nil {
			t.Fatalf("%q: %v", yaml, err)
		}
		if got.MaxTimeout != 168*time.Hour || !got.Enabled || got.MaxFuturesPerUser != want.MaxFuturesPerUser || got.RateLimits != want.RateLimits ||
			!maps.Equal(got.NewRoomEventLevels, want.NewRoomEventLevels) {
			t.Errorf("%q: %+v", yaml, got)
		}
		if !networks.Refuses(netip.MustParseAddr("10.0.0.1")) {
			t.Errorf("%q: no default deny list", yaml)
		}
	}
	if _, _, err := Load(filepath.Join(t.TempDir(), "absent.yaml")); err == nil {
		t.Error("no error for a file that is not there")
	}
}

func TestLoadReadsEveryKey(t *testing.T) {
	got, networks, err := load(t, `
version: 2
global: {server_name: localhost, future_server: {not: ours}}
federation_api:
  allow_networks: [127.0.0.1/8, "2001:db8::1"]
  deny_networks: ["::ffff:10.0.0.0/104"]
future_server:
  enabled: no
  database: {connection_string: "file:x.db", max_open_conns: 3, max_idle_conns: 2, conn_max_lifetime: -1}
  max_timeout: 1d
  max_futures_per_user: 7
  high_water_slack: 500s
  rooms_in_flight: 64
  retention: 48h
  delayed_events:
    {max_delay: 0, max_scheduled: 5, cancel_on_others_state: yes, open_management: no, keep_per_user: 6}
  rate_limits:
    create: {per_second: 0, burst: 1}
    invalid_token: {per_second: 1.5, burst: 2}
    token: {per_second: 3, burst: 4}
    call_token: {per_second: 5, burst: 6}
  trusted_proxies: [192.0.2.0/24, 198.51.100.7]
  max_connections_per_address: 9
  sqlite_wal: true
  page: no
  new_room_event_levels: {m.rtc.member: 1, com.example.game: 100}
`)
	if err != nil {
		t.Fatal(err)
	}
	if got.Enabled || got.Page || !got.SQLiteWAL || got.MaxTimeout != 24*time.Hour || got.MaxFuturesPerUser != 7 ||
		got.HighWaterSlack != 500*time.Second || got.RoomsInFlight != 64 || got.MaxConnectionsPerAddress != 9 || got.Retention != 48*time.Hour {
		t.Errorf("%+v", got)
	}
	if want := (config.DatabaseOptions{ConnectionString: "file:x.db", MaxOpenConnections: 3, MaxIdleConnections: 2, ConnMaxLifetimeSeconds: -1}); got.Database != want {
		t.Errorf("database %+v", got.Database)
	}
	if want := (DelayedEvents{0, 5, true, false, 6}); got.DelayedEvents != want {
		t.Errorf("delayed events %+v", got.DelayedEvents)
	}
	if want := (RateLimits{RateLimit{0, 1}, RateLimit{1.5, 2}, RateLimit{3, 4}, RateLimit{5, 6}}); got.RateLimits != want {
		t.Errorf("rate limits %+v", got.RateLimits)
	}
	if want := map[string]int64{"m.rtc.member": 1, "com.example.game": 100}; !maps.Equal(got.NewRoomEventLevels, want) {
		t.Errorf("levels %v", got.NewRoomEventLevels)
	}
	same := func(got []netip.Prefix, want string) {
		t.Helper()
		var s []string
		for _, p := range got {
			s = append(s, p.String())
		}
		if g := strings.Join(s, " "); g != want {
			t.Errorf("got %s, want %s", g, want)
		}
	}
	same(got.TrustedProxies, "192.0.2.0/24 198.51.100.7/32")
	same(networks.Allow, "127.0.0.0/8 2001:db8::1/128")
	same(networks.Deny, "10.0.0.0/8")
}

func TestLoadNamesKeyAndLine(t *testing.T) {
	for _, c := range []struct{ yaml, want string }{
		{"future_server:\n  enabled: true\n  max_timeot: 1h\n", "line 3: future_server.max_timeot: unknown key"},
		{"future_server:\n  enabled: 1\n", `line 2: future_server.enabled: "1" is neither true nor false`},
		{"future_server:\n  enabled: on\n  enabled: off\n", "line 3: future_server.enabled: stands here twice"},
		{"future_server:\n  max_timeout: 1000\n", "line 2: future_server.max_timeout: \"1000\" is not a duration"},
		{"future_server:\n  max_timeout: 0s\n", "line 2: future_server.max_timeout: \"0s\" is not between 1ms"},
		{"future_server:\n  max_timeout: 99999d\n", "line 2: future_server.max_timeout: \"99999d\" is not a duration"},
		{"future_server:\n  max_timeout: -1d\n", "line 2: future_server.max_timeout: \"-1d\" is not a duration"},
		{"future_server:\n  high_water_slack: 11m\n", "is not between 1s and 10m"},
		{"future_server:\n  rooms_in_flight: 65\n", "line 2: future_server.rooms_in_flight: \"65\" is not between 0 and 64"},
		{"future_server:\n  max_futures_per_user: 1.5\n", "is not a whole number"},
		{"future_server:\n  rate_limits:\n    create:\n      per_second: -1\n", "line 4: future_server.rate_limits.create.per_second: \"-1\" is not between"},
		{"future_server:\n  rate_limits:\n    create:\n      per_second: .nan\n", "is not a number"},
		{"future_server:\n  rate_limits:\n    refresh: {}\n", "line 3: future_server.rate_limits.refresh: unknown key"},
		{"future_server:\n  rate_limits: 5\n", "line 2: future_server.rate_limits: should hold keys and values"},
		{"future_server: true\n", "line 1: future_server: should hold keys and values"},
		{"future_server:\n  database:\n    conection_string: x\n", "line 3: future_server.database.conection_string: unknown key"},
		{"future_server:\n  retention: [1h]\n", "line 2: future_server.retention: should be a single value"},
		{"future_server:\n  trusted_proxies:\n  - 10.0.0.0/8\n  - proxy\n", "line 4: future_server.trusted_proxies: \"proxy\" is not a network"},
		{"federation_api:\n  deny_networks: 10.0.0.0/8\n", "line 2: federation_api.deny_networks: should be a list"},
		{"federation_api:\n  allow_networks: [10.0.0.0/33]\n", "line 2: federation_api.allow_networks: \"10.0.0.0/33\" is not a network"},
		{"future_server:\n  max_timeout: 50d\n", "is not between 1ms and 49d"},
		{"future_server:\n  max_timeout: 1d\n\nfuture_server:\n  max_timeout: 2d\n", "line 4: future_server: stands here twice; the first is in line 1"},
		{"version: 2\nfutureserver:\n  max_timeout: 1d\n", "line 2: futureserver: nobody reads this; is it future_server?"},
		{"future-server: {}\n", "line 1: future-server: nobody reads this; is it future_server?"},
		{"futures:\n", "line 1: futures: nobody reads this; is it future_server?"},
		{"version: 2\nsync_apis: {}\n", "line 2: sync_apis: nobody reads this; is it sync_api?"},
		{"global: {}\nclient_api: {}\nglobal: {}\n", "line 3: global: stands here twice; the first is in line 1"},
		{"federation_api:\n  deny_network: []\n", "line 2: federation_api.deny_network: nobody reads this; is it federation_api.deny_networks?"},
		{"future_server:\n  new_room_event_levels: 0\n", "line 2: future_server.new_room_event_levels: should hold types of events"},
		{"future_server:\n  new_room_event_levels:\n    a: 101\n", `line 3: future_server.new_room_event_levels.a: "101" is not between 0 and 100`},
		{"future_server:\n  new_room_event_levels: {a: 0, a: 1}\n", "line 2: future_server.new_room_event_levels.a: stands here twice"},
		{"future_server: [\n", "yaml: line"},
	} {
		_, _, err := load(t, c.yaml)
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "dendrite.yaml") {
			t.Errorf("%q:\n got %v\nwant %s", c.yaml, err, c.want)
		}
	}
	_, _, err := load(t, "future_server:\n  a: 1\n  rooms_in_flight: x\n")
	if err == nil || strings.Count(err.Error(), "line ") != 2 {
		t.Errorf("should report both mistakes: %v", err)
	}
}

// Unknown keys in other sections, from other programs or older Dendrites, are accepted.
func TestOtherSectionsAreLeftAlone(t *testing.T) {
	for _, yaml := range []string{
		"x-common: &x {a: 1}\nglobal: *x\n", "profiling: {}\n", "edu_server: {}\n", "state_server: {}\nroom_server: {}\n", "mscs: {}\n",
		"federation_api:\n  send_max_retries: 16\n  key_perspectives: []\n", "send_future: {}\n", "push_server: {}\n", "media: {}\n",
	} {
		if _, _, err := load(t, yaml); err != nil {
			t.Errorf("%q: %v", yaml, err)
		}
	}
}

func TestDurations(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"7d": 7 * Day, "2w": 14 * Day, "1w1d": 8 * Day, "1d12h": 36 * time.Hour, "0": 0, "90s": 90 * time.Second, "0d": 0,
	} {
		if got, err := parseDuration(text); err != nil || got != want {
			t.Errorf("%s is %s, %v; want %s", text, got, err, want)
		}
	}
	for _, text := range []string{"", "d", "1d1w", "1d-1h", "-1d", "1.5d", "99999d", "5001w", "1d9000000h", "7"} {
		if got, err := parseDuration(text); err == nil {
			t.Errorf("%q is %s", text, got)
		}
	}
	for want, d := range map[string]time.Duration{
		"49d": 49 * Day, "1d12h": 36 * time.Hour, "30s": 30 * time.Second, "10m": 10 * time.Minute, "1h0m1s": time.Hour + time.Second,
		"12h": 12 * time.Hour, "1h30m": 90 * time.Minute, "500ms": 500 * time.Millisecond, "0s": 0, "10s": 10 * time.Second,
	} {
		if got := Spell(d); got != want {
			t.Errorf("%s is spelt %s, want %s", d, got, want)
		}
		if back, err := parseDuration(Spell(d)); err != nil || back != d {
			t.Errorf("%s does not come back: %s, %v", d, back, err)
		}
	}
}

func TestComplete(t *testing.T) {
	const global, room = "postgres://h/dendrite", "file:data/roomserver.db"
	many := min(max(2, runtime.NumCPU()), 8)
	for _, c := range []struct {
		own, global, room, want config.DataSource
		rooms                   int
	}{
		{"", global, "", global, many},
		{"", global, room, global, 2},
		{"", "", room, "file:data/futureserver.db", 2},
		{"", "", "postgres://h/room", "postgres://h/room", many},
		{"", "", "file:///var/lib/a%20b/r.db", "file:///var/lib/a%20b/futureserver.db", 2},
		{"", "file:all.db", "", "file:futureserver.db", 2},
		{"file:mine.db", global, room, "file:mine.db", 2},
	} {
		var f FutureServer
		f.Database.ConnectionString = c.own
		var d config.Dendrite
		d.Global.DatabaseOptions.ConnectionString, d.RoomServer.Database.ConnectionString = c.global, c.room
		if err := f.Complete(&d); err != nil || f.Database.ConnectionString != c.want || f.Database.MaxOpenConns() == 0 || f.RoomsInFlight != c.rooms {
			t.Errorf("%+v: got %+v, %v", c, f, err)
		}
		f.RoomsInFlight = 9
		if err := f.Complete(&d); err != nil || f.RoomsInFlight != 9 {
			t.Errorf("%+v: what the operator has set became %d, %v", c, f.RoomsInFlight, err)
		}
	}
}

func TestFileDataSourceSurvivesOddPaths(t *testing.T) {
	for _, path := range []string{"/srv/a b/50% #1?/x.db", "data/x.db"} {
		got, err := sqlutil.ParseFileURI(FileDataSource(path))
		if err != nil || got != path {
			t.Errorf("%s came back as %s, %v", path, got, err)
		}
	}
}
