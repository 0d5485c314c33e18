package postgres

import (
	"context"
	"database/sql"
	"sync/atomic"

	"github.com/lib/pq"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
	"github.com/matrix-org/dendrite/futures/futureserver/storage"
	"github.com/matrix-org/dendrite/futures/futureserver/storage/shared"
)

// Each statement takes whole columns as arrays, so that a batch costs a few round trips, whatever its size.
const (
	insertFutures = `
WITH given AS (
	SELECT * FROM unnest($1::bigint[], $2::bytea[], $3::bigint[], $4::bigint[], $5::bytea[], $6::bytea[], $7::bytea[],
		$8::boolean[], $9::bytea[], $10::bytea[], $11::bytea[], $12::bigint[], $13::bytea[], $14::bytea[],
		$15::bigint[], $16::bytea[], $17::bytea[], $18::bigint[], $19::bigint[], $20::bigint[])
	AS g (nid, secret, policy, timeout_ms, user_id, room_id, type,
		is_state, state_key, content, group_id, created_ts, base, device_id,
		session_id, txn_id, timer_group_id, deadline_ts, key_hash, origin_ts)
), stored AS (
	INSERT INTO futureserver_events (nid, secret, policy, timeout_ms, user_id, room_id, type, state_key, content,
		group_id, created_ts, base, device_id, session_id, txn_id, origin_ts)
	SELECT nid, secret, policy, timeout_ms, user_id, room_id, type, CASE WHEN is_state THEN state_key END, content,
		group_id, created_ts, base, device_id, session_id, txn_id, origin_ts
	FROM given
	WHERE (SELECT 1 FROM futureserver_events e WHERE e.secret = given.secret AND e.finished_ts > 0 LIMIT 1) IS NULL
	ON CONFLICT DO NOTHING RETURNING nid, secret
), armed AS (
	INSERT INTO futureserver_timers (nid, state, policy, secret, deadline_ts, timeout_ms, key_hash, user_id, room_id, group_id)
	SELECT nid, 1, policy, secret, deadline_ts, timeout_ms, key_hash, user_id, room_id, timer_group_id
	FROM given JOIN stored USING (nid, secret)
)
SELECT nid FROM stored`

	raiseAgain = `
UPDATE futureserver_raised r SET deadline_ts = g.deadline_ts
FROM unnest($1::bigint[], $2::bigint[]) AS g (nid, deadline_ts)
WHERE r.nid = g.nid AND r.deadline_ts < g.deadline_ts`

	// Only the first heartbeat of a future reads its timer, even if the batch has other heartbeats too.
	raiseFirst = `
WITH new AS MATERIALIZED (
	SELECT * FROM unnest($1::bigint[], $2::bigint[]) AS g (nid, deadline_ts)
	WHERE NOT EXISTS (SELECT 1 FROM futureserver_raised r WHERE r.nid = g.nid)
)
INSERT INTO futureserver_raised (nid, deadline_ts)
SELECT nid, new.deadline_ts FROM new JOIN futureserver_timers t USING (nid)
WHERE t.state = 1 AND t.deadline_ts < new.deadline_ts`

	setDeadlines = `
WITH given AS (
	SELECT * FROM unnest($1::bigint[], $2::bigint[]) AS g (nid, deadline_ts)
), lowered AS (
	DELETE FROM futureserver_raised WHERE nid = ANY($1::bigint[]) RETURNING nid
)
UPDATE futureserver_timers t SET deadline_ts = g.deadline_ts,
	grace_ts = CASE WHEN t.grace_ts < 0 AND l.nid IS NOT NULL THEN 0 ELSE t.grace_ts END
FROM given g LEFT JOIN lowered l USING (nid) WHERE t.nid = g.nid AND t.state = 1`

	setGrace = `
UPDATE futureserver_timers t SET grace_ts = g.deadline_ts
FROM unnest($1::bigint[], $2::bigint[]) AS g (nid, deadline_ts) WHERE t.nid = g.nid AND t.state = 1`

	undoFutures = `
WITH disarmed AS (
	DELETE FROM futureserver_timers WHERE nid = ANY($1::bigint[])
), lowered AS (
	DELETE FROM futureserver_raised WHERE nid = ANY($1::bigint[])
)
DELETE FROM futureserver_events WHERE nid = ANY($1::bigint[])`

	claimTimers = `
WITH given AS (
	SELECT g.*, r.deadline_ts
	FROM unnest($1::bigint[], $2::bytea[], $3::bytea[]) AS g (nid, event_id, pdu) LEFT JOIN futureserver_raised r USING (nid)
), won AS (
	UPDATE futureserver_timers t SET state = 2, deadline_ts = COALESCE(g.deadline_ts, t.deadline_ts) FROM given g
	WHERE t.nid = g.nid AND (t.state = 1
		OR EXISTS (SELECT 1 FROM futureserver_events e WHERE e.nid = g.nid AND e.event_id = g.event_id))
	RETURNING g.*
), lowered AS (
	DELETE FROM futureserver_raised r USING won w WHERE r.nid = w.nid
), stored AS (
	UPDATE futureserver_events e SET event_id = w.event_id, pdu = w.pdu FROM won w WHERE e.nid = w.nid
)
SELECT nid FROM won`

	endFutures = `
WITH disarmed AS (
	DELETE FROM futureserver_timers WHERE nid = ANY($1::bigint[]) RETURNING nid
), lowered AS (
	DELETE FROM futureserver_raised WHERE nid = ANY($1::bigint[])
)
UPDATE futureserver_events e SET state = g.state, finished_ts = g.finished_ts,
	failure_kind = g.failure_kind, failure_message = g.failure_message, deadline_ts = g.deadline_ts, finished_age = g.finished_age
FROM disarmed d JOIN unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bytea[], $6::bigint[], $7::bigint[])
	AS g (nid, state, finished_ts, failure_kind, failure_message, deadline_ts, finished_age) ON g.nid = d.nid
WHERE e.nid = d.nid`
)

// writer holds the connection that writes and has the lock, and the pool that the connection came from.
type writer struct {
	db    *sql.DB
	conn  *sql.Conn    // nil if the session has ended
	pid   atomic.Int64 // of the session's process in PostgreSQL; 0 if the session has ended
	epoch int64

	insert, raiseAgain, raiseFirst, set, setGrace, claim, end, undo *sql.Stmt
}

var _ shared.Writer = (*writer)(nil)

// prepare prepares the statements. database/sql repeats this for each session that uses them.
func (w *writer) prepare(ctx context.Context) (err error) {
	for _, s := range []struct {
		stmt **sql.Stmt
		text string
	}{
		{&w.insert, insertFutures}, {&w.raiseAgain, raiseAgain}, {&w.raiseFirst, raiseFirst}, {&w.set, setDeadlines},
		{&w.setGrace, setGrace}, {&w.claim, claimTimers}, {&w.end, endFutures}, {&w.undo, undoFutures},
	} {
		if err == nil {
			*s.stmt, err = w.db.PrepareContext(ctx, s.text)
		}
	}
	return err
}

// Close implements shared.Writer.
func (w *writer) Close() error {
	w.release()
	return w.db.Close()
}

// Insert implements shared.Writer.
func (w *writer) Insert(ctx context.Context, tx *sql.Tx, futures []*api.Future) ([]bool, error) {
	isState := make(pq.BoolArray, len(futures))
	for i, f := range futures {
		isState[i] = f.StateKey != nil
	}
	nids := ints(futures, func(f *api.Future) int64 { return int64(f.NID) })
	rows, err := tx.StmtContext(ctx, w.insert).QueryContext(ctx,
		nids,
		blobs(futures, func(f *api.Future) []byte { return f.Secret[:] }),
		ints(futures, func(f *api.Future) int64 { return int64(f.Policy) }),
		ints(futures, func(f *api.Future) int64 { return f.Timeout.Milliseconds() }),
		blobs(futures, func(f *api.Future) string { return f.UserID }),
		blobs(futures, func(f *api.Future) string { return f.RoomID }),
		blobs(futures, func(f *api.Future) string { return f.Type }),
		isState,
		blobs(futures, func(f *api.Future) string { t, _ := f.Tuple(); return t.StateKey }),
		blobs(futures, func(f *api.Future) []byte { return f.Content }),
		blobs(futures, func(f *api.Future) string { return f.GroupID }),
		ints(futures, func(f *api.Future) int64 { return f.Created }),
		blobs(futures, func(f *api.Future) string { return f.Base }),
		blobs(futures, func(f *api.Future) string { return f.DeviceID }),
		ints(futures, func(f *api.Future) int64 { return f.SessionID }),
		blobs(futures, func(f *api.Future) string { return f.TxnID }),
		blobs(futures, shared.TimerGroupID),
		ints(futures, func(f *api.Future) int64 { return f.Deadline }),
		ints(futures, func(f *api.Future) int64 { return int64(shared.KeyHash(f)) }),
		ints(futures, func(f *api.Future) int64 { return f.OriginTS }))
	return found(nids, rows, err)
}

// Raise implements shared.Writer.
func (w *writer) Raise(ctx context.Context, tx *sql.Tx, raises []storage.Extend) error {
	nids, deadlines := columns(raises)
	n, err := shared.Affected(tx.StmtContext(ctx, w.raiseAgain).ExecContext(ctx, nids, deadlines))
	if err == nil && n < len(raises) {
		_, err = tx.StmtContext(ctx, w.raiseFirst).ExecContext(ctx, nids, deadlines)
	}
	return err
}

// Set implements shared.Writer.
func (w *writer) Set(ctx context.Context, tx *sql.Tx, exact []storage.Extend) error {
	nids, deadlines := columns(exact)
	_, err := tx.StmtContext(ctx, w.set).ExecContext(ctx, nids, deadlines)
	if graced := shared.Graced(exact); err == nil && len(graced) > 0 {
		nids, deadlines = columns(graced)
		_, err = tx.StmtContext(ctx, w.setGrace).ExecContext(ctx, nids, deadlines)
	}
	return err
}

// Shrink implements shared.Writer. PostgreSQL vacuums by itself.
func (w *writer) Shrink(context.Context, *sql.Tx) error { return nil }

// Undo implements shared.Writer.
func (w *writer) Undo(ctx context.Context, tx *sql.Tx, nids []api.NID) error {
	_, err := tx.StmtContext(ctx, w.undo).ExecContext(ctx, ints(nids, func(nid api.NID) int64 { return int64(nid) }))
	return err
}

func columns(extends []storage.Extend) (nids, deadlines pq.Int64Array) {
	return ints(extends, func(e storage.Extend) int64 { return int64(e.NID) }),
		ints(extends, func(e storage.Extend) int64 { return e.Deadline })
}

// Claim implements shared.Writer.
func (w *writer) Claim(ctx context.Context, tx *sql.Tx, claims []storage.Claim) ([]bool, error) {
	nids := ints(claims, func(c storage.Claim) int64 { return int64(c.NID) })
	rows, err := tx.StmtContext(ctx, w.claim).QueryContext(ctx,
		nids,
		blobs(claims, func(c storage.Claim) string { return c.Event.ID }),
		blobs(claims, func(c storage.Claim) []byte { return c.Event.PDU }))
	return found(nids, rows, err)
}

// End implements shared.Writer.
func (w *writer) End(ctx context.Context, tx *sql.Tx, ends []storage.End) error {
	_, err := tx.StmtContext(ctx, w.end).ExecContext(ctx,
		ints(ends, func(e storage.End) int64 { return int64(e.NID) }),
		ints(ends, func(e storage.End) int64 { return int64(e.State) }),
		ints(ends, func(e storage.End) int64 { return e.At }),
		ints(ends, func(e storage.End) int64 { kind, _ := shared.Failure(e.Failure); return int64(kind) }),
		blobs(ends, func(e storage.End) string { _, message := shared.Failure(e.Failure); return message }),
		ints(ends, func(e storage.End) int64 { return e.Deadline }),
		ints(ends, func(e storage.End) int64 { return e.Age }))
	return err
}

// ints returns one column of a batch.
func ints[T any](batch []T, column func(T) int64) pq.Int64Array {
	a := make(pq.Int64Array, len(batch))
	for i, row := range batch {
		a[i] = column(row)
	}
	return a
}

// blobs returns one column of a batch.
func blobs[T any, B string | []byte](batch []T, column func(T) B) pq.ByteaArray {
	a := make(pq.ByteaArray, len(batch))
	for i, row := range batch {
		a[i] = []byte(column(row))
	}
	return a
}

// found reports which of the nids are in the rows. If a number is in nids twice, each row stands for one of them.
func found(nids pq.Int64Array, rows *sql.Rows, err error) ([]bool, error) {
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	left := make(map[int64]int, len(nids))
	for rows.Next() {
		var nid int64
		if err = rows.Scan(&nid); err != nil {
			return nil, err
		}
		left[nid]++
	}
	in := make([]bool, len(nids))
	for i, nid := range nids {
		in[i] = left[nid] > 0
		left[nid]--
	}
	return in, rows.Err()
}
