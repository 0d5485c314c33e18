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

// The lock belongs to the session that writes: if a transaction commits, its session lived, and so the lock was held.
// Heartbeats that need no transaction are answered as long as Confirm has seen the lock a moment ago.
//
// A session ends without our doing when PostgreSQL restarts or the network breaks. Then the lock is taken
// again in a new one. Another server may have come and gone in between, and what we remember may be wrong
// without a sign; therefore each server that starts counts the epoch up, and it must be ours still.

const (
	lockPatience = 5 * time.Second // PostgreSQL may need a moment to notice that a client was killed
	lockPoll     = 50 * time.Millisecond
)

const (
	// Of these tables, not of the whole database: several servers may share one by schemas.
	tryLock = `SELECT pg_try_advisory_lock(hashtext('futureserver'), hashtext(current_schema()))`

	// What has been answered must survive a power cut, even where the rest of the database need not.
	forceDurable = `
SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'`

	nextEpoch = `
INSERT INTO futureserver_owner (one, epoch) VALUES (1, 1)
ON CONFLICT (one) DO UPDATE SET epoch = futureserver_owner.epoch + 1 RETURNING epoch`

	thisEpoch = `SELECT epoch FROM futureserver_owner`

	thisPID = `SELECT pg_backend_pid()`

	// The session takes no other advisory lock.
	isLocked = `
SELECT epoch, EXISTS (SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND pid = $1 AND granted) FROM futureserver_owner`
)

// start takes the lock for the first time, and makes the tables under it.
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
		w.release() // beginning fails for no other reason than that the session is over
	}
	if err := w.resume(ctx); err != nil {
		return nil, err
	}
	return w.conn.BeginTx(ctx, nil)
}

// resume takes the lock again after the session has ended.
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

// acquire takes the lock in a session of its own.
func (w *writer) acquire(ctx context.Context) error {
	patience := time.After(lockPatience)
	for {
		locked, err := w.try(ctx)
		if locked {
			return nil
		}
		if err == nil {
			err = fmt.Errorf("%w: its tables in this PostgreSQL database are locked; stop that server, or give this one a database of its own", storage.ErrLocked)
		} else if !errors.Is(err, driver.ErrBadConn) { // that was an old connection: the pool has others
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

// Confirm implements shared.Writer. It asks in another session, for the writer's may be busy for long.
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

// release ends the session, and the lock with it. Merely closed, the connection would go back to the pool.
func (w *writer) release() {
	w.pid.Store(0)
	if w.conn != nil {
		_ = w.conn.Raw(func(any) error { return driver.ErrBadConn })
		w.conn.Close()
		w.conn = nil
	}
}
