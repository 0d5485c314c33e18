// Package newerstate tests that a room has one history with any timing: an event of a local user comes either before or
// after a future that fires, never beside it. So newer state always wins over a future, the last event in the timeline
// is the current state, and no two local events follow the same event.
//
//	go test ./test/newerstate -rounds 50 -v    the full measurement, on PostgreSQL too if POSTGRES_HOST is set
package newerstate_test

import (
	"database/sql"
	"flag"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	_ "github.com/mattn/go-sqlite3"
	"github.com/tidwall/gjson"
	"gopkg.in/yaml.v3"

	"github.com/matrix-org/dendrite/futures/test/rig"
)

var rounds = flag.Int("rounds", 0, "how often each pair of events meets at each distance; 0: once, at some of them")

func TestMain(m *testing.M) {
	flag.Parse()
	if *rounds == 0 {
		*rounds, distances = 1, worst
	}
	rig.Main(m)
}

// distances are how many milliseconds before the deadline the other request begins.
var distances = []int{40, 30, 20, 15, 10, 6, 3, 1, 0, -2, -5}

// worst are the distances with most failures before there were gates.
var worst = []int{3, -2}

const (
	timeout   = 80 * time.Millisecond // of a future
	eventType = "com.example.state"
	patience  = time.Minute
)

// A meeting is a future and a request of a local user at about its deadline.
type meeting struct {
	*testing.T
	server     *rig.Server
	alice, bob *rig.User
	room       string
	target     string // of the next redaction
}

// A pairing describes a meeting.
type pairing struct {
	name     string
	schedule func(m *meeting, key string)       // a future of alice's
	act      func(m *meeting, key string)       // at the deadline
	key      func(m *meeting, round int) string // the state key that is set
	eventual string                             // the body that the state must have in the end; "" if either may win
	settle   func(m *meeting)                   // before the next round
}

func text(body string) map[string]any { return map[string]any{"body": body} }

func roundKey(_ *meeting, round int) string { return strconv.Itoa(round) }

func stateFuture(m *meeting, key string) {
	m.alice.StateFuture(m.room, eventType, key, text("future"), rig.Params{Timeout: timeout})
}

func delayed(stateType string, content map[string]any) func(*meeting, string) {
	return func(m *meeting, key string) {
		r := m.alice.Delay(m.room, "state/"+stateType+"/"+url.PathEscape(key), content, timeout)
		if r.Status != http.StatusOK {
			m.Fatalf("scheduling: %d %s", r.Status, r.Body)
		}
	}
}

// put lets two users set the key alternately.
func put(m *meeting, key string) {
	by := m.alice
	if n, _ := strconv.Atoi(key); n%2 == 1 {
		by = m.bob
	}
	by.SendState(m.room, eventType, key, text("newer"))
}

func bobsKey(m *meeting, _ int) string { return m.bob.ID }

func (m *meeting) post(by *rig.User, verb string, body any) {
	m.Helper()
	// A user who has just been kicked cannot leave.
	if r := by.Do(http.MethodPost, rig.Path("rooms", m.room, verb), nil, body); r.Status >= http.StatusInternalServerError {
		m.Errorf("%s: %d %s", verb, r.Status, r.Body)
	}
}

// bobIsIn makes bob join for the next round.
func bobIsIn(m *meeting) { m.bob.Join(m.room) }

func pairings() []pairing {
	state, leave := delayed(eventType, text("future")), delayed("m.room.member", map[string]any{"membership": "leave"})
	return []pairing{
		{name: "future, newer state", schedule: stateFuture, act: put, key: roundKey, eventual: "newer"},
		{name: "delayed event, newer state", schedule: state, act: put, key: roundKey},
		{name: "delayed event, message", schedule: state, key: roundKey, act: func(m *meeting, _ string) {
			m.bob.Send(m.room, "m.room.message", text("hello"))
		}},
		{name: "delayed event, redaction", key: roundKey, schedule: func(m *meeting, key string) {
			m.target = m.bob.Send(m.room, "m.room.message", text("to be redacted"))
			state(m, key)
		}, act: func(m *meeting, _ string) {
			r := m.bob.Do(http.MethodPut, rig.Path("rooms", m.room, "redact", m.target, m.bob.NextTxn()), nil, map[string]any{})
			if r.Status != http.StatusOK {
				m.Errorf("redacting: %d %s", r.Status, r.Body)
			}
		}},
		{name: "delayed kick, leave and join", schedule: leave, key: bobsKey, settle: bobIsIn, act: func(m *meeting, _ string) {
			m.post(m.bob, "leave", map[string]any{})
			m.post(m.bob, "join", map[string]any{})
		}},
		{name: "delayed kick, change of profile", schedule: leave, key: bobsKey, settle: bobIsIn, act: func(m *meeting, _ string) {
			r := m.bob.Do(http.MethodPut, rig.Path("profile", m.bob.ID, "displayname"), nil, map[string]any{"displayname": m.bob.NextTxn()})
			if r.Status != http.StatusOK {
				m.Errorf("changing the profile: %d %s", r.Status, r.Body)
			}
		}},
		{name: "delayed kick, member event", schedule: leave, key: bobsKey, settle: bobIsIn, act: func(m *meeting, _ string) {
			m.bob.Do(http.MethodPut, rig.Path("rooms", m.room, "state", "m.room.member", m.bob.ID), nil,
				map[string]any{"membership": "join", "displayname": m.bob.NextTxn()})
		}},
		{name: "delayed state, kick", schedule: state, key: roundKey, settle: bobIsIn, act: func(m *meeting, _ string) {
			m.post(m.alice, "kick", map[string]any{"user_id": m.bob.ID})
		}},
	}
}

func TestNewerState(t *testing.T) {
	for _, database := range []string{"SQLite", "PostgreSQL"} {
		t.Run(database, func(t *testing.T) {
			server := rig.New(t, rig.Config{Postgres: database == "PostgreSQL"})
			for i, p := range pairings() {
				t.Run(p.name, func(t *testing.T) {
					alice, bob := server.Register(t, fmt.Sprint("alice", i)), server.Register(t, fmt.Sprint("bob", i))
					for _, distance := range distances {
						m := &meeting{T: t, server: server, alice: alice, bob: bob}
						m.meet(p, time.Duration(distance)*time.Millisecond)
					}
				})
			}
		})
	}
}

func (m *meeting) meet(p pairing, distance time.Duration) {
	m.room = m.alice.CreateRoom(map[string]any{
		"preset": "public_chat", "power_level_content_override": map[string]any{"state_default": 0},
	})
	m.bob.Join(m.room)
	forksBefore := m.forks()
	var wrong, last int
	for round := range *rounds {
		key := p.key(m, round)
		p.schedule(m, key)
		deadline := time.Now().Add(timeout - time.Millisecond) // approximately: the answer arrives when the future is stored
		time.Sleep(time.Until(deadline.Add(-distance)))
		p.act(m, key)
		m.rest()
		if p.settle != nil {
			if !m.consistent(key) {
				last++
			}
			p.settle(m)
		}
	}
	if p.settle == nil {
		for round := range *rounds {
			key := p.key(m, round)
			if got := m.state(key).Get("body").Str; p.eventual != "" && got != p.eventual {
				wrong++
			}
			if !m.consistent(key) {
				last++
			}
		}
	}
	forks := m.forks() - forksBefore
	m.Logf("%4d ms: of %d rounds %2d overwrote newer state, in %2d the last event is not the state, %2d forks",
		distance.Milliseconds(), *rounds, wrong, last, forks)
	if wrong+last+forks > 0 {
		m.Errorf("%s, %d ms before the deadline: a room has more than one history", p.name, distance.Milliseconds())
	}
}

// rest waits until nothing is scheduled.
func (m *meeting) rest() {
	m.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		futures := m.alice.Do(http.MethodGet, rig.Path("futures"), nil, nil)
		events := m.alice.Do(http.MethodGet, rig.UnstableDelayed, nil, nil)
		if len(futures.JSON.Get("futures").Array())+len(events.JSON.Get("delayed_events").Array()) == 0 {
			return
		}
	}
	m.Fatal("a future does not end")
}

func (m *meeting) stateType(key string) string {
	if key == m.bob.ID {
		return "m.room.member"
	}
	return eventType
}

func (m *meeting) state(key string) gjson.Result {
	return m.alice.GetState(m.room, m.stateType(key), key)
}

// consistent reports whether the last event in the timeline that sets the key becomes the current state. On a busy
// machine the timeline is late.
func (m *meeting) consistent(key string) bool {
	m.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		r := m.alice.Do(http.MethodGet, rig.Path("rooms", m.room, "state", m.stateType(key), key), url.Values{"format": {"event"}}, nil)
		var last gjson.Result
		for _, event := range m.alice.Timeline(m.room) {
			if event.Get("type").Str == m.stateType(key) && event.Get("state_key").Str == key {
				last = event
			}
		}
		if r.JSON.Get("event_id").Str == last.Get("event_id").Str {
			return true
		}
		if time.Now().After(end) {
			return false
		}
	}
}

// forks is how many events have more than one successor, in all rooms.
func (m *meeting) forks() (n int) {
	m.Helper()
	var driver, source, query string
	if files, _ := filepath.Glob(filepath.Join(m.server.Dir, "*roomserver*.db")); len(files) == 1 {
		driver, source = "sqlite3", "file:"+files[0]+"?mode=ro"
		query = "SELECT count(*) FROM roomserver_previous_events WHERE event_nids LIKE '%,%'"
	} else {
		driver, source = "postgres", m.connection()
		query = "SELECT count(*) FROM roomserver_previous_events WHERE cardinality(event_nids) > 1"
	}
	db, err := sql.Open(driver, source)
	if err != nil {
		m.Fatal(err)
	}
	defer db.Close()
	if err := db.QueryRowContext(m.Context(), query).Scan(&n); err != nil {
		m.Fatal(fmt.Errorf("%s: %w", driver, err))
	}
	return n
}

// connection is the connection string of the server's PostgreSQL database.
func (m *meeting) connection() string {
	data, err := os.ReadFile(filepath.Join(m.server.Dir, "dendrite.yaml"))
	if err != nil {
		m.Fatal(err)
	}
	var cfg struct {
		Global struct {
			Database struct {
				ConnectionString string `yaml:"connection_string"`
			}
		}
	}
	if err := yaml.Unmarshal(data, &cfg); err != nil {
		m.Fatal(err)
	}
	return cfg.Global.Database.ConnectionString
}
