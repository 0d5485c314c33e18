// Package components starts parts of Dendrite in the process of a test: its roomserver, JetStream and a database. Tests of
// a whole server use package rig instead.
package components

import (
	"os"
	"testing"

	"github.com/matrix-org/dendrite/test"
)

// WithDatabases runs the test on SQLite, and on PostgreSQL if the environment names one. FUTURES_TEST_POSTGRES=required
// fails the test instead of skipping it.
func WithDatabases(t *testing.T, f func(*testing.T, test.DBType)) {
	t.Run("sqlite", func(t *testing.T) { f(t, test.DBTypeSQLite) })
	t.Run("postgres", func(t *testing.T) {
		if os.Getenv("POSTGRES_HOST") == "" && os.Getenv("POSTGRES_DB") == "" && os.Getenv("FUTURES_TEST_POSTGRES") != "required" {
			t.Skip("the environment names no PostgreSQL")
		}
		f(t, test.DBTypePostgres)
	})
}
