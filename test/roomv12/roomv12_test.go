// Package roomv12 tests rooms of version 12 with the client API of one server: creation, upgrades, and the power of
// creators.
package roomv12

import (
	"database/sql"
	"net/http"
	"path/filepath"
	"testing"

	"github.com/tidwall/gjson"

	"github.com/matrix-org/dendrite/futures/test/rig"
)

func TestMain(m *testing.M) { rig.Main(m) }

// onEach runs the test with a server on SQLite and, if available, with one on PostgreSQL.
func onEach(t *testing.T, test func(t *testing.T, s *rig.Server)) {
	t.Run("SQLite", func(t *testing.T) { test(t, rig.New(t, rig.Config{})) })
	t.Run("PostgreSQL", func(t *testing.T) { test(t, rig.New(t, rig.Config{Postgres: true})) })
}

type object = map[string]any

// create asks for a room of version 12, unless opts name another version.
func create(u *rig.User, opts object) rig.Response {
	body := object{"room_version": "12"}
	for key, value := range opts {
		body[key] = value
	}
	return u.Do(http.MethodPost, rig.Path("createRoom"), nil, body)
}

// mustCreate creates a room and returns its ID.
func mustCreate(t *testing.T, u *rig.User, opts object) string {
	t.Helper()
	r := create(u, opts)
	if r.Status != http.StatusOK {
		t.Fatalf("createRoom %v: %d %s", opts, r.Status, r.Body)
	}
	return r.JSON.Get("room_id").String()
}

func public(opts object) object {
	all := object{"preset": "public_chat"}
	for key, value := range opts {
		all[key] = value
	}
	return all
}

// put sends a state event and returns the response.
func put(u *rig.User, room, eventType, stateKey string, content any) rig.Response {
	return u.Do(http.MethodPut, rig.Path("rooms", room, "state", eventType, stateKey), nil, content)
}

// change kicks, bans or unbans a user.
func change(u *rig.User, room, how, target string) rig.Response {
	return u.Do(http.MethodPost, rig.Path("rooms", room, how), nil, object{"user_id": target})
}

// expect checks the status and the error code of a response; "" for success.
func expect(t *testing.T, what string, r rig.Response, status int, errCode string) {
	t.Helper()
	if r.Status != status || r.ErrCode() != errCode {
		t.Errorf("%s: got %d %s, want %d %s", what, r.Status, r.Body, status, errCode)
	}
}

func ok(t *testing.T, what string, r rig.Response) {
	t.Helper()
	expect(t, what, r, http.StatusOK, "")
}

// powerLevels reads the power levels of a room.
func powerLevels(u *rig.User, room string) gjson.Result {
	return u.GetState(room, "m.room.power_levels", "")
}

// with returns the power levels with one key changed; nil deletes it.
func with(t *testing.T, levels gjson.Result, key string, value any) object {
	t.Helper()
	content, isObject := levels.Value().(map[string]any)
	if !isObject {
		t.Fatalf("there are no power levels: %s", levels.Raw)
	}
	if content[key] = value; value == nil {
		delete(content, key)
	}
	return content
}

// count counts rows in a database of a server on SQLite.
func count(t *testing.T, s *rig.Server, component, from string) (n int) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(s.Dir, "*"+component+"*.db"))
	if err != nil || len(files) != 1 {
		t.Fatalf("the database of %s: %v %v", component, files, err)
	}
	db, err := sql.Open("sqlite3", files[0])
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := db.QueryRow("SELECT count(*) FROM " + from).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}
