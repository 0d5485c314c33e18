// Package unknownrooms tests a database with rooms of unknown versions.
package unknownrooms_test

import (
	"database/sql"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	_ "github.com/lib/pq"
	_ "github.com/mattn/go-sqlite3"
	"github.com/tidwall/gjson"

	"github.com/matrix-org/dendrite/futures/test/rig"
)

func TestMain(m *testing.M) { rig.Main(m) }

const (
	patience = 30 * time.Second
	unknown  = "13-unknown"
)

// TestUnknownRooms: the server does not start, and says why. If it is told to ignore these rooms it starts, and
// everything else works for their members.
func TestUnknownRooms(t *testing.T) {
	for _, database := range []string{"SQLite", "PostgreSQL"} {
		t.Run(database, func(t *testing.T) {
			t.Parallel()
			c := newScene(t, database == "PostgreSQL")
			c.s.Stop()
			c.change()
			if err := c.s.TryStart(); err == nil {
				t.Fatal("the server starts")
			}
			for _, text := range []string{"has 11 rooms", c.bad[0], unknown, "and 1 more", "ignore_unknown_rooms"} {
				if !strings.Contains(c.s.Log(), text) {
					t.Errorf("the log does not say %q", text)
				}
			}
			c.ignore()
			c.s.Start()
			c.firstSync()
			c.stateAfter()
			c.goesOn()
		})
	}
}

type scene struct {
	*testing.T
	s     *rig.Server
	f     *rig.Fake
	alice *rig.User
	bob   string
	good  *rig.FakeRoom
	bad   []string
	since string
}

func newScene(t *testing.T, postgres bool) *scene {
	c := &scene{T: t, s: rig.New(t, rig.Config{Federation: true, Postgres: postgres}), f: rig.NewFake(t)}
	c.alice, c.bob = c.s.Register(t, "alice"), c.f.User("bob")
	for range 11 {
		c.bad = append(c.bad, c.alice.CreateRoom(map[string]any{"room_version": "11"}))
	}
	c.good = c.f.Join(c.s, c.alice.CreateRoom(map[string]any{"preset": "public_chat", "room_version": "12"}), c.bob, "12")
	c.alice.StateFuture(c.bad[1], "com.example.due", "", rig.Text("due"), rig.Params{Timeout: 3 * time.Second})
	last := c.alice.Send(c.good.ID, "m.room.message", rig.Text("before"))
	c.alice.WaitFor(c.good.ID, func(e gjson.Result) bool { return e.Get("event_id").Str == last }, patience)
	c.good.Receive(c.f.WaitPDU(patience, func(pdu gjson.Result) bool { return pdu.Get("content.body").Str == "before" }).Raw)
	c.since = c.alice.Do(http.MethodGet, rig.Path("sync"), nil, nil).JSON.Get("next_batch").Str
	return c
}

// change sets the room's version to an unknown one in all tables.
func (c *scene) change() {
	c.Helper()
	for database, commands := range map[string][]string{
		"roomserver": {"UPDATE roomserver_rooms SET room_version = $1 WHERE room_id = $2"},
		"syncapi": {
			`UPDATE syncapi_output_room_events SET headered_event_json = replace(headered_event_json, '"_room_version":"11"', '"_room_version":"' || CAST($1 AS TEXT) || '"') WHERE room_id = $2`,
			`UPDATE syncapi_current_room_state SET headered_event_json = replace(headered_event_json, '"_room_version":"11"', '"_room_version":"' || CAST($1 AS TEXT) || '"') WHERE room_id = $2`,
		},
	} {
		db := c.open(database)
		defer db.Close()
		for _, command := range commands {
			for _, room := range c.bad {
				res, err := db.Exec(command, unknown, room)
				if err != nil {
					c.Fatal(err)
				}
				if n, err := res.RowsAffected(); n == 0 || err != nil {
					c.Fatalf("%s: %d rows, %v", command, n, err)
				}
			}
		}
	}
}

func (c *scene) config() string { return filepath.Join(c.s.Dir, "dendrite.yaml") }

func (c *scene) open(component string) *sql.DB {
	c.Helper()
	driver, source := "sqlite3", "file:"+filepath.Join(c.s.Dir, component+".db")
	config, err := os.ReadFile(c.config())
	if err != nil {
		c.Fatal(err)
	}
	if found := regexp.MustCompile(`connection_string: (.*sslmode.*)\n`).FindSubmatch(config); found != nil {
		driver, source = "postgres", string(found[1])
	}
	db, err := sql.Open(driver, source)
	if err != nil {
		c.Fatal(err)
	}
	return db
}

// ignore switches the setting on.
func (c *scene) ignore() {
	c.Helper()
	config, err := os.ReadFile(c.config())
	if err != nil {
		c.Fatal(err)
	}
	changed := regexp.MustCompile(`(?m)^(\s*)ignore_unknown_rooms: false$`).ReplaceAll(config, []byte("${1}ignore_unknown_rooms: true"))
	if string(changed) == string(config) {
		changed = regexp.MustCompile(`(?m)^future_server:\n(\s+)`).ReplaceAll(config, []byte("future_server:\n${1}ignore_unknown_rooms: true\n${1}"))
	}
	if err := os.WriteFile(c.config(), changed, 0o600); err != nil {
		c.Fatal(err)
	}
}

func (c *scene) sync(query url.Values) gjson.Result {
	c.Helper()
	r := c.alice.Do(http.MethodGet, rig.Path("sync"), query, nil)
	if r.Status != http.StatusOK {
		c.Fatalf("sync: %d %s", r.Status, r.Body)
	}
	for _, room := range c.bad {
		if got := r.JSON.Get("rooms.join." + gjson.Escape(room)); got.Exists() {
			c.Errorf("sync has a room of an unknown version: %s", got.Raw)
		}
	}
	return r.JSON
}

func (c *scene) room(sync gjson.Result) gjson.Result {
	return sync.Get("rooms.join." + gjson.Escape(c.good.ID))
}

func (c *scene) firstSync() {
	c.Helper()
	room := c.room(c.sync(nil))
	if !strings.Contains(room.Raw, "before") || !strings.Contains(room.Raw, "m.room.create") {
		c.Errorf("the first sync has of the room %q", room.Raw)
	}
}

func (c *scene) stateAfter() {
	c.Helper()
	room := c.room(c.sync(url.Values{"org.matrix.msc4222.use_state_after": {"true"}}))
	state := room.Get("org\\.matrix\\.msc4222\\.state_after.events").Array()
	if len(state) < 5 {
		c.Errorf("state_after has %d events: %s", len(state), room.Raw)
	}
}

// goesOn checks that the room works in both directions, and that its user can use what concerns all rooms.
func (c *scene) goesOn() {
	c.Helper()
	id := c.alice.Send(c.good.ID, "m.room.message", rig.Text("to the other server"))
	c.good.Receive(c.f.WaitPDU(patience, func(pdu gjson.Result) bool { return rig.ReadEvent("12", pdu.Raw).ID == id }).Raw)
	e := c.good.Message(c.bob, "from the other server")
	c.f.MustSend(c.s, e)
	c.alice.WaitFor(c.good.ID, func(got gjson.Result) bool { return got.Get("event_id").Str == e.ID }, patience)
	if room := c.room(c.sync(url.Values{"since": {c.since}})); !strings.Contains(room.Raw, "from the other server") {
		c.Errorf("the incremental sync has of the room %q", room.Raw)
	}
	other := c.alice.CreateRoom(nil)
	c.alice.StateFuture(other, "com.example.due", "", rig.Text("due"), rig.Params{Timeout: time.Millisecond})
	c.alice.WaitFor(other, func(e gjson.Result) bool { return e.Get("type").Str == "com.example.due" }, patience)
	for what, r := range map[string]rig.Response{
		"joined_rooms": c.alice.Do(http.MethodGet, rig.Path("joined_rooms"), nil, nil),
		"displayname":  c.alice.Do(http.MethodPut, rig.Path("profile", c.alice.ID, "displayname"), nil, map[string]any{"displayname": "Alice"}),
	} {
		if r.Status != http.StatusOK {
			c.Errorf("%s: %d %s", what, r.Status, r.Body)
		}
	}
	for _, room := range c.bad[:1] {
		r := c.alice.Do(http.MethodPut, rig.Path("rooms", room, "send", "m.room.message", "t"), nil, rig.Text("text"))
		if r.Status/100 == 2 || r.ErrCode() == "" {
			c.Errorf("a message to a room of an unknown version: %d %s", r.Status, r.Body)
		}
	}
	if log := c.s.Log(); strings.Contains(log, "panic") {
		c.Error(fmt.Sprint("the server has panicked: ", log[strings.Index(log, "panic"):][:500]))
	}
}
