// Package sqlite3 keeps futures in their own SQLite file, so that they do not wait for the roomserver's writes. One
// connection writes; others read at the same time, which write-ahead logging allows.
package sqlite3

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"path/filepath"
	"strings"

	"github.com/gofrs/flock"
	"github.com/matrix-org/dendrite/internal/sqlutil"
	"github.com/matrix-org/dendrite/setup/config"

	"github.com/matrix-org/dendrite/futures/futureserver/storage"
	"github.com/matrix-org/dendrite/futures/futureserver/storage/shared"
)

const readers = 4

// Open opens the file of the connection string. It creates the file if needed; its folder must exist. Open locks a file
// beside it until Close, so that no other server can open it; the error then wraps storage.ErrLocked. The lock file is
// never deleted: the operating system releases the lock when the process dies.
//
// The connection limits in opts are ignored.
func Open(ctx context.Context, opts *config.DatabaseOptions) (storage.Database, error) {
	path, err := sqlutil.ParseFileURI(opts.ConnectionString)
	if err != nil {
		return nil, fmt.Errorf("futures database: %w", err)
	}
	if strings.HasPrefix(path, ":") {
		return nil, fmt.Errorf("futures database: %s is not a file, and futures must survive a restart", path)
	}
	lock, err := acquire(path)
	if err != nil {
		return nil, err
	}
	w, err := newWriter(ctx, path, lock)
	if err != nil {
		return nil, fmt.Errorf("open the futures database %s: %w", path, err)
	}
	r, err := sql.Open(sqlutil.SQLITE_DRIVER_NAME, dsn(path, "query_only", "1"))
	if err != nil {
		return nil, errors.Join(err, w.Close())
	}
	r.SetMaxOpenConns(readers)
	r.SetMaxIdleConns(readers)
	return shared.New(ctx, w, r)
}

// acquire locks a file beside the database. A lock on the database file itself would be lost whenever SQLite closes
// another descriptor of it.
func acquire(path string) (*flock.Flock, error) {
	lock := flock.New(path + ".lock")
	ok, err := lock.TryLock()
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("the folder %s of the futures database does not exist", filepath.Dir(path))
	case err != nil:
		return nil, fmt.Errorf("lock the futures database: %w", err)
	case !ok:
		return nil, fmt.Errorf("%w: %s is locked; stop that server, or give this one a file of its own",
			storage.ErrLocked, lock.Path())
	}
	return lock, nil
}

// dsn returns the data source name: the file, and pragmas for each connection. It suits both SQLite drivers. mattn's
// expects _name=value; modernc's, which is used without a C compiler, expects _pragma=name(value). Each ignores the
// other's form.
func dsn(path string, pragmas ...string) string {
	q := url.Values{"_txlock": {"immediate"}} // take the write lock at BEGIN: a later upgrade of the lock could fail
	pragmas = append(pragmas, "busy_timeout", "10000")
	for i := 0; i < len(pragmas); i += 2 {
		q.Set("_"+pragmas[i], pragmas[i+1])
		q.Add("_pragma", fmt.Sprintf("%s(%s)", pragmas[i], pragmas[i+1]))
	}
	return "file:" + (&url.URL{Path: filepath.ToSlash(path)}).EscapedPath() + "?" + q.Encode()
}
