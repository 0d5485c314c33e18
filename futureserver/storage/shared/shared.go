// Package shared is what the SQLite and the PostgreSQL storage have in common: the order of changes inside
// a transaction, and all reads. What differs is a Writer.
//
// All text that a client or another server has chosen is stored as bytes. PostgreSQL's text holds neither a
// NUL nor broken UTF-8, and one such character would take everybody else's share of a batch down with it.
package shared

import (
	"context"
	"crypto/rand"
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

	// Insert stores the futures that collide with none in NID, nor with a finished one in their secret, and arms
	// their timers. It reports which those were.
	Insert(ctx context.Context, tx *sql.Tx, futures []*api.Future) (stored []bool, err error)

	// Raise raises the deadlines of scheduled futures and lowers none. It is given no future twice.
	Raise(ctx context.Context, tx *sql.Tx, raises []storage.Extend) error

	// Set sets the deadlines of scheduled futures, and remembers which of them are the grace of a restart. It is given no
	// future twice.
	Set(ctx context.Context, tx *sql.Tx, exact []storage.Extend) error

	// Claim turns scheduled futures into sending ones and stores their events. It reports for which that is
	// true now, and is given no future twice.
	Claim(ctx context.Context, tx *sql.Tx, claims []storage.Claim) (won []bool, err error)

	// End disarms the futures that are live and notes what became of them. It is given no future twice.
	End(ctx context.Context, tx *sql.Tx, ends []storage.End) error

	// Undo deletes all rows of futures whose creation was taken back.
	Undo(ctx context.Context, tx *sql.Tx, nids []api.NID) error

	// Confirm is storage.Database's.
	Confirm(ctx context.Context, readers *sql.DB) error

	// Close releases the lock.
	Close() error
}

// Database implements storage.Database over a Writer, and a pool of connections that read.
type Database struct {
	writer  Writer
	readers *sql.DB
	key     []byte
	age     int64
	trimmed []byte // the user whose turn it was last; of Commit

	scan, load, loadAll, loadEnded, loadFinished, loadBase, groupUsed, selectSent *sql.Stmt
}

var _ storage.Database = (*Database)(nil)

// New returns the database. It owns the writer and the readers from now on, even if it fails.
func New(ctx context.Context, writer Writer, readers *sql.DB) (*Database, error) {
	d := &Database{writer: writer, readers: readers, trimmed: []byte{}}
	err := d.loadKey(ctx)
	prepare := func(query string) (stmt *sql.Stmt) {
		if err == nil {
			stmt, err = readers.PrepareContext(ctx, query)
		}
		return stmt
	}
	d.scan = prepare(selectTimers)
	d.load = prepare(selectAny + " WHERE e.nid = $1")
	d.loadAll = prepare(selectAny + " WHERE e.nid IN (" + parameters(block) + ")")
	d.loadEnded = prepare(selectAny + " WHERE e.secret = $1 AND e.finished_ts > 0")
	d.loadFinished = prepare(selectAny + " WHERE e.group_id = $1 AND " + isDelayed)
	d.loadBase = prepare(selectBase)
	d.groupUsed = prepare(selectGroup)
	d.selectSent = prepare(selectSent)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("prepare to read futures: %w", err), d.Close())
	}
	return d, nil
}

// parameters lists $1 to $n.
func parameters(n int) string {
	list := "$1"
	for i := 2; i <= n; i++ {
		list += fmt.Sprintf(", $%d", i)
	}
	return list
}

// loadKey reads the database's key, which it makes if there is none yet, and its age.
func (d *Database) loadKey(ctx context.Context) error {
	tx, err := d.writer.Begin(ctx)
	if err != nil {
		return err
	}
	defer tx.Rollback() //nolint:errcheck // does nothing after a commit, and cannot help before one
	fresh := make([]byte, 32)
	rand.Read(fresh) // never fails
	_, err = tx.ExecContext(ctx, "INSERT INTO futureserver_key (one, key) VALUES (1, $1) ON CONFLICT DO NOTHING", fresh)
	if err != nil {
		return err
	}
	if err = tx.QueryRowContext(ctx, "SELECT key FROM futureserver_key").Scan(&d.key); err != nil {
		return err
	}
	if err = tx.QueryRowContext(ctx, "SELECT age_ms FROM futureserver_owner").Scan(&d.age); err != nil {
		return err
	}
	return tx.Commit()
}

// Key implements storage.Database.
func (d *Database) Key() []byte { return d.key }

// Age implements storage.Database.
func (d *Database) Age() int64 { return d.age }

// Confirm implements storage.Database.
func (d *Database) Confirm(ctx context.Context) error { return d.writer.Confirm(ctx, d.readers) }

// Close closes the readers first, so that the writer leaves a tidy database behind, and gives up the lock last.
func (d *Database) Close() error {
	return errors.Join(d.readers.Close(), d.writer.Close())
}
