package sqlite3

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strconv"

	"github.com/gofrs/flock"
	"github.com/matrix-org/dendrite/internal/sqlutil"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
	"github.com/matrix-org/dendrite/futures/futureserver/storage"
	"github.com/matrix-org/dendrite/futures/futureserver/storage/shared"
)

// Parameters are ?1, ?2, ... For SQLite $2 is a name, and names are numbered in the order in which they appear.
const (
	// If a finished future has the secret, the value becomes NULL, which the column forbids, and OR IGNORE skips the row.
	// INSERT ... SELECT ... WHERE would be clearer, but SQLite makes a temporary table if that reads the table it writes.
	insertEvent = `
INSERT OR IGNORE INTO futureserver_events (nid, secret, policy, timeout_ms, user_id, room_id, type, state_key, content,
	group_id, created_ts, base, device_id, session_id, txn_id, origin_ts)
VALUES (?1, iif(EXISTS (SELECT 1 FROM futureserver_events WHERE secret = ?2 AND finished_ts > 0), NULL, ?2),
	?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16)`

	insertTimer = `
INSERT INTO futureserver_timers (nid, state, policy, secret, deadline_ts, timeout_ms, key_hash, user_id, room_id, group_id)
VALUES (?1, 1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)`

	// One statement for the batch, with the parameter {"nid": deadline, ...}, is three times as fast as one per future.
	raiseAgain = `
UPDATE futureserver_raised SET deadline_ts = e.value FROM json_each(?1) AS e
WHERE nid = CAST(e.key AS INTEGER) AND deadline_ts < e.value`

	// Only the first heartbeat of a future reads its timer, even if the batch has other heartbeats too.
	raiseFirst = `
INSERT INTO futureserver_raised (nid, deadline_ts)
SELECT t.nid, e.value FROM json_each(?1) AS e CROSS JOIN futureserver_timers AS t ON t.nid = CAST(e.key AS INTEGER)
WHERE NOT EXISTS (SELECT 1 FROM futureserver_raised AS r WHERE r.nid = CAST(e.key AS INTEGER))
	AND t.state = 1 AND t.deadline_ts < e.value`

	setDeadlines = `
UPDATE futureserver_timers SET deadline_ts = e.value,
	grace_ts = iif(grace_ts < 0 AND EXISTS (SELECT 1 FROM futureserver_raised AS r WHERE r.nid = futureserver_timers.nid), 0, grace_ts)
FROM json_each(?1) AS e WHERE nid = CAST(e.key AS INTEGER) AND state = 1`

	setGrace = `
UPDATE futureserver_timers SET deadline_ts = e.value, grace_ts = e.value FROM json_each(?1) AS e
WHERE nid = CAST(e.key AS INTEGER) AND state = 1`

	lowerAll = `DELETE FROM futureserver_raised WHERE nid IN (SELECT CAST(key AS INTEGER) FROM json_each(?1))`

	nextEpoch = `
INSERT INTO futureserver_owner (one, epoch) VALUES (1, 1) ON CONFLICT (one) DO UPDATE SET epoch = epoch + 1 RETURNING epoch`

	thisEpoch = `SELECT epoch FROM futureserver_owner`

	claimTimer = `
UPDATE futureserver_timers SET state = 2,
	deadline_ts = COALESCE((SELECT r.deadline_ts FROM futureserver_raised AS r WHERE r.nid = ?1), deadline_ts)
WHERE nid = ?1 AND (state = 1
	OR EXISTS (SELECT 1 FROM futureserver_events AS e WHERE e.nid = ?1 AND e.event_id = ?2))`

	lower = `DELETE FROM futureserver_raised WHERE nid = ?1`

	storeEvent = `UPDATE futureserver_events SET event_id = ?2, pdu = ?3 WHERE nid = ?1`

	deleteTimer = `DELETE FROM futureserver_timers WHERE nid = ?1`

	endEvent = `
UPDATE futureserver_events SET state = ?2, finished_ts = ?3, failure_kind = ?4, failure_message = ?5, deadline_ts = ?6,
	finished_age = ?7 WHERE nid = ?1`
)

// A checkpoint writes each page once, however often it is in the log, so a log of 40 MB costs less than one of 4 MB.
// temp_store keeps statement journals in memory: beyond 64 KB they would go to a file, and a batch of deadlines or
// claims would cost a quarter more.
// After a checkpoint the log file is cut to 8 MB; otherwise it would keep the largest size that it ever had.
const pragmas = `
PRAGMA wal_autocheckpoint = 10000;
PRAGMA temp_store = MEMORY;
PRAGMA journal_size_limit = 8388608;
`

// writer is the only connection that writes. Its statements ignore the context: they take microseconds, and the driver
// would start a goroutine for each one to watch the context.
type writer struct {
	lock  *flock.Flock
	db    *sql.DB // with one connection
	epoch int64

	insertEvent, insertTimer, raiseAgain, raiseFirst, set, setGrace, lowerAll, claim, lower, store, disarm, end, owner *sql.Stmt
}

var _ shared.Writer = (*writer)(nil)

// newWriter opens the connection and creates the tables. It takes ownership of the lock, also if it fails.
func newWriter(ctx context.Context, path string, lock *flock.Flock) (*writer, error) {
	// auto_vacuum is INCREMENTAL, which lets Shrink work. It can be set only before a file has its first table.
	// synchronous is FULL, because answered requests must survive a power cut.
	db, err := sql.Open(sqlutil.SQLITE_DRIVER_NAME, dsn(path, "auto_vacuum", "2", "journal_mode", "WAL", "synchronous", "FULL"))
	if err != nil {
		return nil, errors.Join(err, lock.Unlock())
	}
	db.SetMaxOpenConns(1)
	w := &writer{lock: lock, db: db}
	if _, err = db.ExecContext(ctx, pragmas); err == nil {
		err = migrate(ctx, db)
	}
	if err == nil {
		err = db.QueryRowContext(ctx, nextEpoch).Scan(&w.epoch)
	}
	for _, s := range []struct {
		stmt **sql.Stmt
		text string
	}{
		{&w.insertEvent, insertEvent}, {&w.insertTimer, insertTimer}, {&w.raiseAgain, raiseAgain}, {&w.raiseFirst, raiseFirst},
		{&w.set, setDeadlines}, {&w.setGrace, setGrace}, {&w.lowerAll, lowerAll}, {&w.claim, claimTimer}, {&w.lower, lower}, {&w.store, storeEvent},
		{&w.disarm, deleteTimer}, {&w.end, endEvent}, {&w.owner, thisEpoch},
	} {
		if err == nil {
			*s.stmt, err = db.PrepareContext(ctx, s.text)
		}
	}
	if err != nil {
		return nil, errors.Join(err, w.Close())
	}
	return w, nil
}

// Begin implements shared.Writer.
func (w *writer) Begin(ctx context.Context) (*sql.Tx, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	tx, err := w.db.BeginTx(context.WithoutCancel(ctx), nil)
	if err != nil {
		return nil, err
	}
	if err = w.check(tx.Stmt(w.owner).QueryRow()); err != nil {
		return nil, errors.Join(err, tx.Rollback())
	}
	return tx, nil
}

// check reads the epoch. Each server that opens the file increments it, so this detects a second server even if somebody
// has deleted the lock file.
func (w *writer) check(row *sql.Row) error {
	var epoch int64
	err := row.Scan(&epoch)
	if err == nil && epoch != w.epoch {
		err = fmt.Errorf("%w: it has opened the file since", storage.ErrLockLost)
	}
	return err
}

// Confirm implements shared.Writer.
func (w *writer) Confirm(ctx context.Context, readers *sql.DB) error {
	return w.check(readers.QueryRowContext(ctx, thisEpoch))
}

const (
	fewPages      = 1024 // free pages that are left alone: 4 MB
	pagesAtOnce   = 1024 // that one batch gives back, so that no batch takes long
	selectPages   = `SELECT freelist_count, page_count FROM pragma_freelist_count, pragma_page_count`
	giveBackPages = `PRAGMA incremental_vacuum(%d)`
)

// Shrink implements shared.Writer. Free pages are used again, so a file needs as many as futures come and go. It gives back
// those beyond as many as are in use. Files that were made by earlier versions, without auto_vacuum, keep them all.
func (w *writer) Shrink(_ context.Context, tx *sql.Tx) error {
	var free, all int
	if err := tx.QueryRow(selectPages).Scan(&free, &all); err != nil {
		return err
	}
	extra := min(free-fewPages, free-all/2, pagesAtOnce)
	if extra <= 0 {
		return nil
	}
	rows, err := tx.Query(fmt.Sprintf(giveBackPages, extra))
	if err != nil {
		return err
	}
	for rows.Next() { // each step gives back one page; Exec would stop after the first
	}
	return errors.Join(rows.Err(), rows.Close())
}

// Undo implements shared.Writer.
func (w *writer) Undo(_ context.Context, tx *sql.Tx, nids []api.NID) error {
	for _, nid := range nids {
		for _, table := range []string{"futureserver_timers", "futureserver_raised", "futureserver_events"} {
			if _, err := tx.Exec("DELETE FROM "+table+" WHERE nid = ?1", int64(nid)); err != nil {
				return err
			}
		}
	}
	return nil
}

// Close implements shared.Writer.
func (w *writer) Close() error { return errors.Join(w.db.Close(), w.lock.Unlock()) }

// Insert implements shared.Writer.
func (w *writer) Insert(_ context.Context, tx *sql.Tx, futures []*api.Future) ([]bool, error) {
	event, timer := tx.Stmt(w.insertEvent), tx.Stmt(w.insertTimer)
	stored := make([]bool, len(futures))
	for i, f := range futures {
		var stateKey any
		if f.StateKey != nil {
			stateKey = []byte(*f.StateKey)
		}
		nid, policy, timeout := int64(f.NID), int64(f.Policy), f.Timeout.Milliseconds()
		user, room := []byte(f.UserID), []byte(f.RoomID)
		n, err := shared.Affected(event.Exec(nid, f.Secret[:], policy, timeout, user, room, []byte(f.Type), stateKey,
			[]byte(f.Content), []byte(f.GroupID), f.Created, []byte(f.Base), []byte(f.DeviceID), f.SessionID, []byte(f.TxnID), f.OriginTS))
		if err != nil {
			return nil, err
		}
		if stored[i] = n > 0; !stored[i] {
			continue
		}
		group := []byte(shared.TimerGroupID(f))
		if _, err = timer.Exec(nid, policy, f.Secret[:], f.Deadline, timeout, int64(shared.KeyHash(f)), user, room, group); err != nil {
			return nil, err
		}
	}
	return stored, nil
}

// Raise implements shared.Writer.
func (w *writer) Raise(_ context.Context, tx *sql.Tx, raises []storage.Extend) error {
	object := deadlines(raises)
	n, err := shared.Affected(tx.Stmt(w.raiseAgain).Exec(object))
	if err == nil && n < len(raises) {
		_, err = tx.Stmt(w.raiseFirst).Exec(object)
	}
	return err
}

// Set implements shared.Writer.
func (w *writer) Set(_ context.Context, tx *sql.Tx, exact []storage.Extend) error {
	object := deadlines(exact)
	_, err := tx.Stmt(w.set).Exec(object)
	if graced := shared.Graced(exact); err == nil && len(graced) > 0 {
		_, err = tx.Stmt(w.setGrace).Exec(deadlines(graced))
	}
	if err == nil {
		_, err = tx.Stmt(w.lowerAll).Exec(object)
	}
	return err
}

// deadlines returns the JSON object {"nid": deadline, ...}.
func deadlines(extends []storage.Extend) string {
	object := []byte{'{'}
	for i, e := range extends {
		if i > 0 {
			object = append(object, ',')
		}
		object = append(strconv.AppendInt(append(object, '"'), int64(e.NID), 10), '"', ':')
		object = strconv.AppendInt(object, e.Deadline, 10)
	}
	return string(append(object, '}'))
}

// Claim implements shared.Writer.
func (w *writer) Claim(_ context.Context, tx *sql.Tx, claims []storage.Claim) ([]bool, error) {
	claim, lower, store := tx.Stmt(w.claim), tx.Stmt(w.lower), tx.Stmt(w.store)
	won := make([]bool, len(claims))
	for i, c := range claims {
		nid, eventID := int64(c.NID), []byte(c.Event.ID)
		n, err := shared.Affected(claim.Exec(nid, eventID))
		if err != nil {
			return nil, err
		}
		if won[i] = n > 0; !won[i] {
			continue
		}
		if _, err = lower.Exec(nid); err != nil {
			return nil, err
		}
		if _, err = store.Exec(nid, eventID, []byte(c.Event.PDU)); err != nil {
			return nil, err
		}
	}
	return won, nil
}

// End implements shared.Writer.
func (w *writer) End(_ context.Context, tx *sql.Tx, ends []storage.End) error {
	disarm, lower, end := tx.Stmt(w.disarm), tx.Stmt(w.lower), tx.Stmt(w.end)
	for _, e := range ends {
		n, err := shared.Affected(disarm.Exec(int64(e.NID)))
		if err != nil {
			return err
		}
		if n == 0 {
			continue
		}
		if _, err = lower.Exec(int64(e.NID)); err != nil {
			return err
		}
		kind, message := shared.Failure(e.Failure)
		if _, err = end.Exec(int64(e.NID), int64(e.State), e.At, int64(kind), []byte(message), e.Deadline, e.Age); err != nil {
			return err
		}
	}
	return nil
}
