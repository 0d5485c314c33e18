// Package postgres keeps futures in a PostgreSQL database, as a rule the one that the rest of the server
// uses, in tables of their own and over connections of its own.
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

// connections is how many Open takes if the options allow more: one writes, the others read. The rest of
// the server may use up nearly all that PostgreSQL grants.
const connections = 5

// Open opens the database that the connection string names and makes the tables. It holds an advisory lock
// for its tables until Close or until its connection ends; if another server has it, Open waits five seconds
// for it to go, and then the error wraps storage.ErrLocked. The connection must be to PostgreSQL itself:
// a pooler that hands sessions round would hand the lock round too.
func Open(ctx context.Context, opts *config.DatabaseOptions) (storage.Database, error) {
	db, err := sql.Open("postgres", string(opts.ConnectionString))
	if err != nil {
		return nil, fmt.Errorf("open the futures database: %w", err)
	}
	limit := connections
	if n := opts.MaxOpenConns(); n > 0 {
		limit = max(min(n, connections), 2)
	}
	db.SetMaxOpenConns(limit)
	db.SetMaxIdleConns(limit)
	db.SetConnMaxLifetime(opts.ConnMaxLifetime()) // the writer's is never idle, so it is never too old
	w := &writer{db: db}
	if err = w.start(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("open the futures database: %w", err), w.Close())
	}
	return shared.New(ctx, w, db)
}
