package guard_test

import (
	"context"
	"database/sql"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	_ "github.com/lib/pq" // the PostgreSQL driver
	_ "github.com/mattn/go-sqlite3"
	"github.com/tidwall/gjson"

	"github.com/matrix-org/dendrite/futures/test/rig"
)

// TestRolledBackNumbers makes the commits of the roomserver's transactions fail while new event types and state keys
// arrive. The server survives that, and later events are stored under the right numbers.
func TestRolledBackNumbers(t *testing.T) {
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		s := rig.New(t, rig.Config{Postgres: true})
		db := open(t, "postgres", postgresOf(t, s))
		rollBack(t, s, db, func() (mend func()) {
			run(t, db, refuseCommits)
			return func() { run(t, db, acceptCommits) }
		})
	})
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		disk := mountSmallDisk(t)
		file := "file:" + filepath.Join(disk, "roomserver.db")
		s := rig.New(t, rig.Config{Set: map[string]any{"room_server.database.connection_string": file}})
		rollBack(t, s, open(t, "sqlite3", file+"?mode=ro"), func() (mend func()) {
			filler := fill(t, disk)
			return func() {
				if err := os.Remove(filler); err != nil {
					t.Error(err)
				}
			}
		})
	})
}

const (
	// A deferred constraint fails at the commit and rolls everything back.
	refuseCommits = `
CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'the disk is full'; END $$;
CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON roomserver_event_types DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse();
CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON roomserver_event_state_keys DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse();
CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON roomserver_rooms DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse();`
	acceptCommits = `
DROP TRIGGER refuse ON roomserver_event_types;
DROP TRIGGER refuse ON roomserver_event_state_keys;
DROP TRIGGER refuse ON roomserver_rooms;`
)

func rollBack(t *testing.T, s *rig.Server, db *sql.DB, hurt func() (mend func())) {
	alice := s.Register(t, "alice")
	room := alice.CreateRoom(nil)
	for round := range *rounds {
		mend := hurt()
		refused := 0
		for i := 0; refused < 10 && i < 500; i++ {
			if !setState(t, alice, room, fmt.Sprintf("com.example.%d.%d", round, i), fmt.Sprint("key ", i)) {
				refused++
			}
			if !s.Running() {
				t.Fatalf("the server has ended: %s", s.Exit())
			}
		}
		if refused == 0 {
			t.Fatal("no transaction failed")
		}
		alice.Do("POST", "/_matrix/client/v3/createRoom", nil, map[string]any{}) // will fail
		mend()
		for i := range 20 {
			// The types come in another order, each with the key of another, so that the numbers are given to others.
			name, key := fmt.Sprintf("com.example.%d.%d", round, 19-i), fmt.Sprint("key ", (i+7)%20)
			if !setState(t, alice, room, name, key) {
				t.Fatalf("%s is refused after the disk has space", name)
			}
			if got := alice.GetState(room, name, key).Get("of").String(); got != name+key {
				t.Errorf("the state of %s, %s is %q", name, key, got)
			}
		}
		another := alice.CreateRoom(nil)
		alice.Send(another, "com.example.room", rig.Text("in another room"))
	}
	meansWhatItSays(t, db)
}

// setState reports whether the server has accepted it.
func setState(t *testing.T, u *rig.User, room, eventType, key string) bool {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	r, err := u.Client.Do(ctx, "PUT", rig.Path("rooms", room, "state", eventType, key), nil, map[string]any{"of": eventType + key})
	return err == nil && r.Status == http.StatusOK
}

// meansWhatItSays compares all events with the meaning of their numbers.
func meansWhatItSays(t *testing.T, db *sql.DB) {
	t.Helper()
	rows, err := db.QueryContext(t.Context(), `
SELECT j.event_json, COALESCE(t.event_type, '?'), COALESCE(k.event_state_key, '?'), COALESCE(r.room_id, '?')
FROM roomserver_events e
JOIN roomserver_event_json j ON j.event_nid = e.event_nid
LEFT JOIN roomserver_event_types t ON t.event_type_nid = e.event_type_nid
LEFT JOIN roomserver_event_state_keys k ON k.event_state_key_nid = e.event_state_key_nid
LEFT JOIN roomserver_rooms r ON r.room_nid = e.room_nid`)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	events := 0
	for ; rows.Next(); events++ {
		var text, eventType, key, room string
		if err := rows.Scan(&text, &eventType, &key, &room); err != nil {
			t.Fatal(err)
		}
		event := gjson.Parse(text)
		if event.Get("type").String() != eventType || event.Get("state_key").Exists() && event.Get("state_key").String() != key ||
			event.Get("room_id").Exists() && event.Get("room_id").String() != room {
			t.Errorf("stored as %q, %q in %q: %.200s", eventType, key, room, text)
		}
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d events mean what they say", events)
}

func open(t *testing.T, driver, source string) *sql.DB {
	t.Helper()
	db, err := sql.Open(driver, source)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

func run(t *testing.T, db *sql.DB, statements string) {
	t.Helper()
	if _, err := db.ExecContext(t.Context(), statements); err != nil {
		t.Fatal(err)
	}
}

var connectionString = regexp.MustCompile(`connection_string: (host=.*)`)

// postgresOf returns the connection string of the server's database.
func postgresOf(t *testing.T, s *rig.Server) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(s.Dir, "dendrite.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	found := connectionString.FindSubmatch(data)
	if found == nil {
		t.Fatal("dendrite.yaml names no PostgreSQL database")
	}
	return string(found[1])
}
