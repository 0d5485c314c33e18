// Package postgres keeps futures in a PostgreSQL database, usually the one that the rest of the server uses. It has its
// own tables and connections.
package postgres

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	_ "github.com/lib/pq" // the driver
	"github.com/matrix-org/dendrite/setup/config"

	"github.com/matrix-org/dendrite/futures/futureserver/storage"
	"github.com/matrix-org/dendrite/futures/futureserver/storage/shared"
)

// maxConnections is how many connections Open uses at most: one writes, the others read. It is small, because the rest
// of the server may use nearly all that PostgreSQL allows.
const maxConnections = 5

// Open opens the database of the connection string and creates the tables. It holds an advisory lock for its tables
// until Close. If another server has the lock, Open waits five seconds for it; then the error wraps storage.ErrLocked.
// The connection must go to PostgreSQL directly: a pooler that shares sessions would share the lock too.
func Open(ctx context.Context, opts *config.DatabaseOptions) (storage.Database, error) {
	db, err := sql.Open("postgres", string(opts.ConnectionString))
	if err != nil {
		return nil, fmt.Errorf("open the futures database: %w", err)
	}
	limit := maxConnections
	if n := opts.MaxOpenConns(); n > 0 {
		limit = max(min(n, maxConnections), 2)
	}
	db.SetMaxOpenConns(limit)
	db.SetMaxIdleConns(limit)
	db.SetConnMaxLifetime(opts.ConnMaxLifetime()) // does not close the writer's connection, which is never idle
	w := &writer{db: db}
	if err = w.start(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("open the futures database: %w", err), w.Close())
	}
	return shared.New(ctx, w, db)
}
