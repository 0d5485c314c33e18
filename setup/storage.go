package setup

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/gofrs/flock"
	"github.com/matrix-org/dendrite/internal/sqlutil"
	"github.com/matrix-org/dendrite/setup/config"
)

// lockStorage prevents a second server on the same embedded JetStream, which would damage the files unnoticed. The lock
// ends with the process.
func lockStorage(cfg *config.Dendrite) (unlock func(), err error) {
	js := &cfg.Global.JetStream
	if len(js.Addresses) > 0 || js.InMemory {
		return func() {}, nil
	}
	dir := cmp.Or(string(js.StoragePath), ".")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	lock := flock.New(filepath.Join(dir, "dendrite.lock"))
	switch locked, err := lock.TryLock(); {
	case err != nil:
		return nil, fmt.Errorf("cannot lock %s: %w", lock.Path(), err)
	case !locked:
		return nil, fmt.Errorf("another server is running on the files in %s", dir)
	}
	return func() { lock.Close() }, nil
}

// openDatabases lists the databases that Dendrite opens on every server.
func openDatabases(cfg *config.Dendrite) []*config.DatabaseOptions {
	return []*config.DatabaseOptions{
		&cfg.RoomServer.Database, &cfg.SyncAPI.Database, &cfg.UserAPI.AccountDatabase, &cfg.FederationAPI.Database, &cfg.MediaAPI.Database,
	}
}

// databases lists the databases of all of Dendrite's components.
func databases(cfg *config.Dendrite) []*config.DatabaseOptions {
	all := append([]*config.DatabaseOptions{&cfg.Global.DatabaseOptions}, openDatabases(cfg)...)
	return append(all, &cfg.KeyServer.Database, &cfg.MSCs.Database, &cfg.RelayAPI.Database)
}

// enableWAL switches Dendrite's SQLite files to write-ahead logging, which more than doubles the rate of events.
// Dendrite has no setting for it, so it is done before Dendrite opens the files. SQLite stores the mode in the file, so
// it stays on even if the setting is switched off later.
func enableWAL(ctx context.Context, cfg *config.Dendrite) error {
	var files []string
	for _, db := range databases(cfg) {
		if !db.ConnectionString.IsSQLite() {
			continue
		}
		path, err := sqlutil.ParseFileURI(db.ConnectionString)
		if err != nil {
			return err
		}
		if path != ":memory:" && !slices.Contains(files, path) {
			files = append(files, path)
		}
	}
	for _, path := range files {
		if err := setWAL(ctx, path); err != nil {
			return fmt.Errorf("future_server.sqlite_wal: %s: %w", path, err)
		}
	}
	return nil
}

func setWAL(ctx context.Context, path string) (err error) {
	db, err := sql.Open(sqlutil.SQLITE_DRIVER_NAME, path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	var mode string
	if err := db.QueryRowContext(ctx, "PRAGMA journal_mode=WAL").Scan(&mode); err != nil {
		return err
	}
	if mode != "wal" {
		return fmt.Errorf("the journal mode remains %q", mode)
	}
	return nil
}
