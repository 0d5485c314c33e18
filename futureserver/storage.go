package futureserver

import (
	"context"

	"github.com/matrix-org/dendrite/setup/config"

	"github.com/matrix-org/dendrite/futures/futureserver/storage"
	"github.com/matrix-org/dendrite/futures/futureserver/storage/postgres"
	"github.com/matrix-org/dendrite/futures/futureserver/storage/sqlite3"
)

// openDatabase opens the storage for the connection string: SQLite for "file:", as everywhere in Dendrite, otherwise
// PostgreSQL.
func openDatabase(ctx context.Context, opts *config.DatabaseOptions) (storage.Database, error) {
	if opts.ConnectionString.IsSQLite() {
		return sqlite3.Open(ctx, opts)
	}
	return postgres.Open(ctx, opts)
}
