package storagetest

import (
	"context"
	"crypto/rand"
	"database/sql"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"testing"

	"github.com/matrix-org/dendrite/setup/config"

	"github.com/matrix-org/dendrite/futures/futureserver/storage"
	"github.com/matrix-org/dendrite/futures/futureserver/storage/postgres"
	"github.com/matrix-org/dendrite/futures/futureserver/storage/sqlite3"
)

// A Source creates a new, empty database that exists as long as the test, and returns how to open it.
type Source func(testing.TB) *config.DatabaseOptions

// SQLite is a Source of files.
func SQLite(t testing.TB) *config.DatabaseOptions {
	path := filepath.Join(t.TempDir(), "futureserver.db")
	return &config.DatabaseOptions{ConnectionString: config.DataSource((&url.URL{Scheme: "file", Path: path}).String())}
}

// Postgres is a Source of schemas in the PostgreSQL database that POSTGRES_HOST, POSTGRES_USER,
// POSTGRES_PASSWORD and POSTGRES_DB name (and PGPORT, which the driver reads by itself). Without them it skips
// the test, or fails it if FUTURES_TEST_POSTGRES is "required".
func Postgres(t testing.TB) *config.DatabaseOptions {
	t.Helper()
	if os.Getenv("POSTGRES_DB") == "" {
		if os.Getenv("FUTURES_TEST_POSTGRES") == "required" {
			t.Fatal("FUTURES_TEST_POSTGRES=required, but POSTGRES_DB names no database")
		}
		t.Skip("POSTGRES_DB names no PostgreSQL database")
	}
	dsn := "sslmode=disable"
	for key, env := range map[string]string{
		"host": "POSTGRES_HOST", "user": "POSTGRES_USER", "password": "POSTGRES_PASSWORD", "dbname": "POSTGRES_DB",
	} {
		if v := os.Getenv(env); v != "" {
			dsn += fmt.Sprintf(" %s='%s'", key, v)
		}
	}
	schema := fmt.Sprintf("futures_%x", rand.Text()[:10])
	execute := func(statement string) {
		db, err := sql.Open("postgres", dsn)
		if err == nil {
			defer db.Close()
			_, err = db.Exec(statement)
		}
		if err != nil {
			t.Fatalf("PostgreSQL: %v", err)
		}
	}
	execute("CREATE SCHEMA " + schema)
	t.Cleanup(func() { execute("DROP SCHEMA " + schema + " CASCADE") })
	return &config.DatabaseOptions{ConnectionString: config.DataSource(dsn + " search_path=" + schema)}
}

// Open opens a database of a Source.
func Open(opts *config.DatabaseOptions) (storage.Database, error) {
	if opts.ConnectionString.IsSQLite() {
		return sqlite3.Open(context.Background(), opts)
	}
	return postgres.Open(context.Background(), opts)
}

// MustOpen opens a database of a Source and closes it after the test, if the test has not done so.
func MustOpen(t testing.TB, opts *config.DatabaseOptions) storage.Database {
	t.Helper()
	db, err := Open(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}
