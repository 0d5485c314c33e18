package main

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	_ "github.com/lib/pq" // the PostgreSQL driver
	"github.com/matrix-org/dendrite/internal/sqlutil"
	"github.com/matrix-org/dendrite/setup/config"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
	"github.com/matrix-org/dendrite/futures/futureserver/storage"
	"github.com/matrix-org/dendrite/futures/futureserver/storage/postgres"
	"github.com/matrix-org/dendrite/futures/futureserver/storage/sqlite3"
	fconfig "github.com/matrix-org/dendrite/futures/setup/config"
)

// A kind is one of the two databases.
type kind string

const (
	onSQLite   kind = "SQLite"
	onPostgres kind = "PostgreSQL"
)

// kinds are the databases that can be measured here.
func kinds() []kind {
	if hasPostgres() {
		return []kind{onSQLite, onPostgres}
	}
	return []kind{onSQLite}
}

func hasPostgres() bool { return os.Getenv("POSTGRES_HOST") != "" }

// database creates an empty database and returns its connection string.
func (b *bench) database(k kind) (config.DataSource, error) {
	if k == onSQLite {
		dir, err := b.folder()
		return fconfig.FileDataSource(filepath.Join(dir, "futureserver.db")), err
	}
	b.made++
	name := fmt.Sprintf("bench_%d_%d", os.Getpid(), b.made)
	admin, err := sql.Open("postgres", postgresSource(env("POSTGRES_DB", "postgres")))
	if err != nil {
		return "", err
	}
	if _, err := admin.Exec("CREATE DATABASE " + name); err != nil {
		return "", err
	}
	b.undo = append(b.undo, func() {
		if _, err := admin.Exec("DROP DATABASE " + name + " WITH (FORCE)"); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
		}
		admin.Close()
	})
	return config.DataSource(postgresSource(name)), nil
}

func postgresSource(database string) string {
	s := fmt.Sprintf("host=%s user=%s dbname=%s sslmode=disable", os.Getenv("POSTGRES_HOST"), env("POSTGRES_USER", "postgres"), database)
	for key, variable := range map[string]string{"password": "POSTGRES_PASSWORD", "port": "PGPORT"} {
		if value := os.Getenv(variable); value != "" {
			s += fmt.Sprintf(" %s=%s", key, value)
		}
	}
	return s
}

func env(variable, otherwise string) string {
	if value := os.Getenv(variable); value != "" {
		return value
	}
	return otherwise
}

// openStorage opens it as the futureserver does.
func openStorage(ctx context.Context, source config.DataSource) (storage.Database, error) {
	o := &config.DatabaseOptions{ConnectionString: source}
	if source.IsSQLite() {
		return sqlite3.Open(ctx, o)
	}
	return postgres.Open(ctx, o)
}

// openSQL opens it for plain SQL with the same driver, with the futureserver's durability.
func openSQL(source config.DataSource) (*sql.DB, error) {
	if !source.IsSQLite() {
		return sql.Open("postgres", string(source))
	}
	path, err := sqlutil.ParseFileURI(source)
	if err != nil {
		return nil, err
	}
	pragmas := url.Values{"_journal_mode": {"WAL"}, "_synchronous": {"FULL"}, "_txlock": {"immediate"}, "_busy_timeout": {"10000"}}
	return sql.Open(sqlutil.SQLITE_DRIVER_NAME, "file:"+path+"?"+pragmas.Encode())
}

// crowd is a number of similar pending futures.
type crowd struct {
	n       int
	perUser int // futures of one user
	perRoom int // and in one room
	timeout time.Duration
	slack   time.Duration // of the heartbeats so far: stored deadlines may be higher by that much
}

// calls is the usual crowd: all users are in calls of ten, each refreshing one future.
func calls(n int) crowd {
	return crowd{n: n, perUser: 1, perRoom: 10, timeout: 6 * fconfig.Day}
}

// pending returns a database with the usual crowd, a million in a full run. All rows share it.
func (b *bench) pending(ctx context.Context, k kind) (source config.DataSource, n int, err error) {
	n = size(b, 1_000_000, 100_000)
	if source, ok := b.seeded[k]; ok {
		return source, n, settle(source, n)
	}
	if source, err = b.database(k); err != nil {
		return "", 0, err
	}
	b.seeded[k] = source
	if err := calls(n).seed(ctx, source); err != nil {
		return "", 0, err
	}
	return source, n, settle(source, n) // the seeding took a while
}

// secret is that of the i-th future, so its tokens are known.
func secret(i int) (s api.Secret) {
	sum := sha256.Sum256(binary.LittleEndian.AppendUint64([]byte("bench"), uint64(i)))
	copy(s[:], sum[:])
	return s
}

// refreshTokens returns those of the first n futures.
func refreshTokens(n int) []api.Token {
	tokens := make([]api.Token, n)
	for i := range tokens {
		tokens[i] = secret(i).Token(api.RefreshToken)
	}
	return tokens
}

// content resembles a call's member event.
var content = json.RawMessage(`{"application":"m.call","call_id":"","device_id":"ABCDEFGHIJ","expires":14400000,` +
	`"foci_preferred":[{"livekit_alias":"!room:example.com","livekit_service_url":"https://sfu.example.com","type":"livekit"}],` +
	`"focus_active":{"focus_selection":"oldest_membership","type":"livekit"},"scope":"m.room"}`)

func (c crowd) future(i int, now time.Time) *api.Future {
	s := secret(i)
	key := sha256.Sum256(s[:])
	slack := c.slack * time.Duration(i%100) / 100
	return &api.Future{
		NID: api.NID(i + 1), Secret: s, State: api.Scheduled,
		UserID:  fmt.Sprintf("@participant%d:example.com", i/c.perUser),
		RoomID:  fmt.Sprintf("!call%d:example.com", i/c.perRoom),
		Type:    "org.matrix.msc3401.call.member",
		Content: content,
		GroupID: s.Token(api.GroupToken).String(),
		Timeout: c.timeout, Deadline: now.Add(c.timeout + slack).UnixMilli(), Created: now.UnixMilli(),
		DeviceID: "ABCDEFGHIJ", TxnKey: key[:],
	}
}

// seed stores the crowd, as if it had been scheduled and the server had been killed.
func (c crowd) seed(ctx context.Context, source config.DataSource) error {
	db, err := openStorage(ctx, source)
	if err != nil {
		return err
	}
	defer closing(db)
	for i := 0; i < c.n; {
		batch := &storage.Batch{}
		for now := time.Now(); i < c.n && len(batch.Inserts) < 10_000; i++ {
			batch.Inserts = append(batch.Inserts, c.future(i, now))
		}
		if _, err := db.Commit(ctx, batch); err != nil {
			return err
		}
	}
	if source.IsSQLite() {
		return nil
	}
	return vacuum(source)
}

// settle sets the deadlines on disk as after a clean stop now, and removes all but the first n futures.
func settle(source config.DataSource, n int) error {
	db, err := openSQL(source)
	if err != nil {
		return err
	}
	defer closing(db)
	if _, err := db.Exec("DELETE FROM futureserver_timers WHERE nid > $1", n); err != nil {
		return err
	}
	if _, err := db.Exec("DELETE FROM futureserver_raised"); err != nil {
		return err
	}
	_, err = db.Exec("UPDATE futureserver_timers SET state = 1, deadline_ts = timeout_ms + $1", time.Now().UnixMilli())
	return err
}

// refreshed sets the deadlines on disk as if heartbeats had raised them all.
func refreshed(source config.DataSource) error {
	db, err := openSQL(source)
	if err != nil {
		return err
	}
	defer closing(db)
	_, err = db.Exec(`
INSERT INTO futureserver_raised SELECT nid, deadline_ts + 1 FROM futureserver_timers WHERE true ORDER BY nid ON CONFLICT DO NOTHING`)
	if err == nil && !source.IsSQLite() {
		_, err = db.Exec("VACUUM ANALYZE futureserver_raised")
	}
	return err
}

// vacuum does what PostgreSQL would do by itself within minutes.
func vacuum(source config.DataSource) error {
	db, err := openSQL(source)
	if err != nil {
		return err
	}
	defer closing(db)
	_, err = db.Exec("VACUUM ANALYZE")
	return err
}

// folderOf returns the SQLite file's folder, where a server looks for it.
func folderOf(source config.DataSource) string {
	return filepath.Dir(strings.TrimPrefix(string(source), "file:"))
}
