// Package shared is what the SQLite and the PostgreSQL storage have in common: the order of changes inside
// a transaction, and all reads. What differs is a Writer.
//
// All text that a client or another server has chosen is stored as bytes. PostgreSQL's text holds neither a
// NUL nor broken UTF-8, and one such character would take everybody else's share of a batch down with it.
package shared

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
	"github.com/matrix-org/dendrite/futures/futureserver/storage"
)

// Writer is the one connection that changes the database and that holds its lock. Its statements are what
// the two databases differ in.
type Writer interface {
	// Begin starts a transaction, unless the lock is lost for good.
	Begin(ctx context.Context) (*sql.Tx, error)

	// Insert stores the futures that collide with none, neither in NID nor in transaction key, and arms
	// their timers. It reports which those were.
	Insert(ctx context.Context, tx *sql.Tx, futures []*api.Future) (stored []bool, err error)

	// Extend raises deadlines, or sets them. It is given no future twice.
	Extend(ctx context.Context, tx *sql.Tx, extends []storage.Extend) error

	// Claim turns scheduled futures into sending ones and stores their events. It reports for which that is
	// true now, and is given no future twice.
	Claim(ctx context.Context, tx *sql.Tx, claims []storage.Claim) (won []bool, err error)

	// End disarms the futures that are live and notes what became of them. It is given no future twice.
	End(ctx context.Context, tx *sql.Tx, ends []storage.End) error

	// Close releases the lock.
	Close() error
}

// Database implements storage.Database over a Writer, and a pool of connections that read.
type Database struct {
	writer  Writer
	readers *sql.DB

	load, loadFinished, loadBase, loadByTransaction, groupUsed, selectSent *sql.Stmt
}

var _ storage.Database = (*Database)(nil)

// New returns the database. It owns the writer and the readers from now on, even if it fails.
func New(ctx context.Context, writer Writer, readers *sql.DB) (*Database, error) {
	d := &Database{writer: writer, readers: readers}
	var err error
	prepare := func(query string) (stmt *sql.Stmt) {
		if err == nil {
			stmt, err = readers.PrepareContext(ctx, query)
		}
		return stmt
	}
	d.load = prepare(selectAny + " WHERE e.nid = $1")
	d.loadByTransaction = prepare(selectAny + " WHERE e.user_id = $1 AND e.txn_key = $2")
	d.loadFinished = prepare(selectAny + fmt.Sprintf(" WHERE e.group_id = $1 AND e.finished_ts > 0 AND e.policy & %d <> 0", api.Managed))
	d.loadBase = prepare(selectBase)
	d.groupUsed = prepare(selectGroup)
	d.selectSent = prepare(selectSent)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("prepare to read futures: %w", err), d.Close())
	}
	return d, nil
}

// Close closes the readers first, so that the writer leaves a tidy database behind, and gives up the lock last.
func (d *Database) Close() error {
	return errors.Join(d.readers.Close(), d.writer.Close())
}
