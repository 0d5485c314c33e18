package postgres

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"time"

	"github.com/matrix-org/dendrite/futures/futureserver/storage"
)

// The lock belongs to the session that writes. A commit proves that the session was alive and so held the lock.
// Heartbeats that need no transaction rely on Confirm, which has seen the lock recently.
//
// The session ends when PostgreSQL restarts or the network breaks. A new session then takes the lock again. Another
// server may have held the lock in between, which would make our memory stale. So each server that starts increments the
// epoch, and the new session checks that the epoch is still ours.

const (
	lockPatience = 5 * time.Second // PostgreSQL may take a moment to notice that a client was killed
	lockPoll     = 50 * time.Millisecond
)

const (
	// The lock is that of the schema, because several servers may share a database by schemas.
	tryLock = `SELECT pg_try_advisory_lock(hashtext('futureserver'), hashtext(current_schema()))`

	// Answered requests must survive a power cut, even if the operator accepts less for the rest of the database.
	forceDurable = `
SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'`

	nextEpoch = `
INSERT INTO futureserver_owner (one, epoch) VALUES (1, 1)
ON CONFLICT (one) DO UPDATE SET epoch = futureserver_owner.epoch + 1 RETURNING epoch`

	thisEpoch = `SELECT epoch FROM futureserver_owner`

	thisPID = `SELECT pg_backend_pid()`

	// Any advisory lock of the session is ours: it takes no other.
	isLocked = `
SELECT epoch, EXISTS (SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND pid = $1 AND granted) FROM futureserver_owner`
)

// start takes the lock, creates the tables and increments the epoch.
func (w *writer) start(ctx context.Context) error {
	if err := w.acquire(ctx); err != nil {
		return err
	}
	if _, err := w.conn.ExecContext(ctx, schema); err != nil {
		return err
	}
	if err := w.conn.QueryRowContext(ctx, nextEpoch).Scan(&w.epoch); err != nil {
		return err
	}
	return w.prepare(ctx)
}

// Begin implements shared.Writer.
func (w *writer) Begin(ctx context.Context) (*sql.Tx, error) {
	if w.conn != nil {
		tx, err := w.conn.BeginTx(ctx, nil)
		if err == nil || ctx.Err() != nil {
			return tx, err
		}
		w.release() // BEGIN fails only if the session has ended
	}
	if err := w.resume(ctx); err != nil {
		return nil, err
	}
	return w.conn.BeginTx(ctx, nil)
}

// resume takes the lock again after the session has ended, and checks the epoch.
func (w *writer) resume(ctx context.Context) error {
	err := w.acquire(ctx)
	if errors.Is(err, storage.ErrLocked) {
		return fmt.Errorf("%w: it holds the lock", storage.ErrLockLost)
	}
	if err != nil {
		return err
	}
	var epoch int64
	if err = w.conn.QueryRowContext(ctx, thisEpoch).Scan(&epoch); err == nil && epoch != w.epoch {
		err = fmt.Errorf("%w: it has held the lock since", storage.ErrLockLost)
	}
	if err != nil {
		w.release()
	}
	return err
}

// acquire takes the lock in a new session. It gives up after lockPatience.
func (w *writer) acquire(ctx context.Context) error {
	patience := time.After(lockPatience)
	for {
		locked, err := w.try(ctx)
		if locked {
			return nil
		}
		if err == nil {
			err = fmt.Errorf("%w: its tables in this PostgreSQL database are locked; stop that server, or give this one a database of its own", storage.ErrLocked)
		} else if !errors.Is(err, driver.ErrBadConn) { // ErrBadConn: a dead connection from the pool; try the next one
			return err
		}
		select {
		case <-time.After(lockPoll):
		case <-patience:
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (w *writer) try(ctx context.Context) (locked bool, err error) {
	conn, err := w.db.Conn(ctx)
	if err != nil {
		return false, err
	}
	if err = conn.QueryRowContext(ctx, tryLock).Scan(&locked); err != nil || !locked {
		conn.Close()
		return false, err
	}
	w.conn = conn
	if _, err = conn.ExecContext(ctx, forceDurable); err != nil {
		w.release()
		return false, err
	}
	var pid int64
	if err = conn.QueryRowContext(ctx, thisPID).Scan(&pid); err != nil {
		w.release()
		return false, err
	}
	w.pid.Store(pid)
	return true, nil
}

// Confirm implements shared.Writer. It asks in another session, because the writer's may be busy for a long time.
func (w *writer) Confirm(ctx context.Context, readers *sql.DB) error {
	var epoch int64
	var locked bool
	switch err := readers.QueryRowContext(ctx, isLocked, w.pid.Load()).Scan(&epoch, &locked); {
	case err != nil:
		return err
	case epoch != w.epoch:
		return fmt.Errorf("%w: it has held the lock since", storage.ErrLockLost)
	case !locked:
		return storage.ErrLockUnsure
	}
	return nil
}

// release ends the session and so releases the lock. Close alone would return the connection to the pool.
func (w *writer) release() {
	w.pid.Store(0)
	if w.conn != nil {
		_ = w.conn.Raw(func(any) error { return driver.ErrBadConn })
		w.conn.Close()
		w.conn = nil
	}
}
