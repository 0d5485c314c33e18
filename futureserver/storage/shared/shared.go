// Package shared is what the SQLite and the PostgreSQL storage have in common: the order of changes in a transaction,
// and all reads. What differs is in a Writer.
//
// All text that a client or another server has chosen is stored as bytes. PostgreSQL's text type accepts neither NUL
// nor invalid UTF-8, and one such character would make the whole batch fail.
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

// Writer is the only connection that changes the database. It holds the database's lock. No slice that it gets names a
// future twice.
type Writer interface {
	// Begin starts a transaction. The error wraps storage.ErrLockLost if another server owns the database now.
	Begin(ctx context.Context) (*sql.Tx, error)

	// Insert stores futures and their timers. It leaves out a future whose NID is taken or whose secret is that of a
	// finished one. stored says which futures were stored.
	Insert(ctx context.Context, tx *sql.Tx, futures []*api.Future) (stored []bool, err error)

	// Raise raises the deadlines of scheduled futures. It lowers none.
	Raise(ctx context.Context, tx *sql.Tx, raises []storage.Extend) error

	// Set sets the deadlines of scheduled futures, and records which of them are the grace of a restart.
	Set(ctx context.Context, tx *sql.Tx, exact []storage.Extend) error

	// Claim changes scheduled futures to sending and stores their events. won is also true for a future that was claimed
	// with the same event before.
	Claim(ctx context.Context, tx *sql.Tx, claims []storage.Claim) (won []bool, err error)

	// End deletes the timers of live futures and stores their outcomes.
	End(ctx context.Context, tx *sql.Tx, ends []storage.End) error

	// Shrink gives some of the space of deleted rows back to the operating system, if there is much of it.
	Shrink(ctx context.Context, tx *sql.Tx) error

	// Undo deletes all rows of futures whose creation is undone.
	Undo(ctx context.Context, tx *sql.Tx, nids []api.NID) error

	// Confirm does what storage.Database promises.
	Confirm(ctx context.Context, readers *sql.DB) error

	// Close releases the lock.
	Close() error
}

// Database implements storage.Database with a Writer and a pool of connections for reading.
type Database struct {
	writer  Writer
	readers *sql.DB
	key     []byte
	age     int64
	trimmed []byte // the last user whom trimUsers has trimmed in turn; only Commit uses it

	scan, load, loadAll, loadEnded, loadFinished, loadBase, groupUsed, selectSent *sql.Stmt
}

var _ storage.Database = (*Database)(nil)

// New returns the database. It takes ownership of the writer and the readers, also if it fails.
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

// parameters returns the list $1, …, $n.
func parameters(n int) string {
	list := "$1"
	for i := 2; i <= n; i++ {
		list += fmt.Sprintf(", $%d", i)
	}
	return list
}

// loadKey reads the database's key and its age. It creates the key if there is none.
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

// Close closes the readers first, so that the last connection, the writer's, can clean up. It releases the lock last.
func (d *Database) Close() error {
	return errors.Join(d.readers.Close(), d.writer.Close())
}
