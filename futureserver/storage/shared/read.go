package shared

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
	"github.com/matrix-org/dendrite/futures/futureserver/storage"
)

const selectTimers = `
SELECT nid, state, policy, secret, deadline_ts, timeout_ms, key_hash, user_id, room_id, group_id
FROM futureserver_timers ORDER BY nid`

// A live future's state and deadline are its timer's, a finished future has no timer.
const (
	selectFutures = `
SELECT e.nid, e.secret, COALESCE(t.state, e.state), e.policy, e.user_id, e.room_id, e.type,
	e.state_key IS NOT NULL, e.state_key, e.content, e.group_id, e.timeout_ms, COALESCE(t.deadline_ts, 0),
	e.created_ts, e.base, e.device_id, e.session_id, e.txn_id, e.txn_key, e.event_id, e.pdu,
	e.finished_ts, e.failure_kind, e.failure_message`

	selectAny  = selectFutures + " FROM futureserver_events e LEFT JOIN futureserver_timers t ON t.nid = e.nid"
	selectLive = selectFutures + " FROM futureserver_timers t JOIN futureserver_events e ON e.nid = t.nid"
)

const selectBase = `
SELECT type, state_key, base FROM futureserver_events WHERE nid = $1 AND state_key IS NOT NULL`

// Two halves, because each has an index of its own.
const selectGroup = `
SELECT EXISTS (SELECT 1 FROM futureserver_events WHERE user_id = $1 AND group_id = $2 AND finished_ts = 0)
	OR EXISTS (SELECT 1 FROM futureserver_events WHERE user_id = $1 AND group_id = $2 AND finished_ts > 0)`

// Scan implements storage.Database. The blobs are the driver's own memory, lent until the next row.
func (d *Database) Scan(ctx context.Context, each func(*storage.Timer) error) (highest api.NID, err error) {
	rows, err := d.readers.QueryContext(ctx, selectTimers)
	if err != nil {
		return 0, fmt.Errorf("scan timers: %w", err)
	}
	defer rows.Close()
	var t storage.Timer
	var nid, state, policy, timeout, keyHash int64 // plain, because converting costs more than reading
	var secret, user, room, group sql.RawBytes
	for rows.Next() {
		if err = rows.Scan(&nid, &state, &policy, &secret, &t.Deadline, &timeout, &keyHash, &user, &room, &group); err != nil {
			return 0, fmt.Errorf("scan timers: %w", err)
		}
		t.NID, t.State, t.Policy, t.KeyHash = api.NID(nid), api.State(state), api.Policy(policy), uint32(keyHash)
		t.Timeout = time.Duration(timeout) * time.Millisecond
		copy(t.Secret[:], secret)
		t.UserID, t.RoomID, t.GroupID = user, room, group
		if err = each(&t); err != nil {
			return 0, err
		}
	}
	if err = rows.Err(); err != nil {
		return 0, fmt.Errorf("scan timers: %w", err)
	}
	err = d.readers.QueryRowContext(ctx, "SELECT COALESCE(MAX(nid), 0) FROM futureserver_events").Scan(&highest)
	if err != nil {
		return 0, fmt.Errorf("find the highest future: %w", err)
	}
	return highest, nil
}

// Load implements storage.Database.
func (d *Database) Load(ctx context.Context, nid api.NID) (*api.Future, error) {
	return loadOne(d.load.QueryRowContext(ctx, int64(nid)))
}

// LoadByTransaction implements storage.Database.
func (d *Database) LoadByTransaction(ctx context.Context, txnKey []byte) (*api.Future, error) {
	return loadOne(d.loadByTransaction.QueryRowContext(ctx, txnKey))
}

func loadOne(row *sql.Row) (*api.Future, error) {
	f, err := scanFuture(row)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("load a future: %w", err)
	}
	return f, nil
}

// LoadBase implements storage.Database.
func (d *Database) LoadBase(ctx context.Context, nid api.NID) (b storage.Base, ok bool, err error) {
	err = d.loadBase.QueryRowContext(ctx, int64(nid)).Scan((*text)(&b.Type), (*text)(&b.StateKey), (*text)(&b.EventID))
	if errors.Is(err, sql.ErrNoRows) {
		return b, false, nil
	}
	if err != nil {
		return b, false, fmt.Errorf("load a future's base: %w", err)
	}
	return b, true, nil
}

// GroupUsed implements storage.Database.
func (d *Database) GroupUsed(ctx context.Context, userID, groupID string) (used bool, err error) {
	if err = d.groupUsed.QueryRowContext(ctx, []byte(userID), []byte(groupID)).Scan(&used); err != nil {
		return false, fmt.Errorf("look for a group: %w", err)
	}
	return used, nil
}

// Select implements storage.Database. A user's futures are found by an index, a room's by reading the
// narrow table: the first is for every client, the second for an administrator.
func (d *Database) Select(ctx context.Context, filter api.Filter) ([]*api.Future, error) {
	query, glue := selectLive, " WHERE "
	var args []any
	where := func(column string, value any) {
		args = append(args, value)
		query += fmt.Sprintf("%s%s = $%d", glue, column, len(args))
		glue = " AND "
	}
	if filter.UserID != "" {
		where("e.finished_ts = 0 AND e.user_id", []byte(filter.UserID)) // as the index wants it
	}
	if filter.RoomID != "" {
		where("t.room_id", []byte(filter.RoomID))
	}
	if filter.NID != 0 {
		where("t.nid", int64(filter.NID))
	}
	query += " ORDER BY t.nid"
	if filter.Limit > 0 {
		query += fmt.Sprintf(" LIMIT %d", filter.Limit)
	}
	rows, err := d.readers.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, fmt.Errorf("select futures: %w", err)
	}
	defer rows.Close()
	var futures []*api.Future
	for rows.Next() {
		f, err := scanFuture(rows)
		if err != nil {
			return nil, fmt.Errorf("select futures: %w", err)
		}
		futures = append(futures, f)
	}
	return futures, rows.Err()
}

// scanFuture reads one row of selectFutures.
func scanFuture(row interface{ Scan(...any) error }) (*api.Future, error) {
	var (
		f       api.Future
		e       api.Event
		r       api.Refusal
		secret  []byte
		isState bool
		key     text
		timeout int64
	)
	err := row.Scan(&f.NID, &secret, &f.State, &f.Policy, (*text)(&f.UserID), (*text)(&f.RoomID), (*text)(&f.Type),
		&isState, &key, &f.Content, (*text)(&f.GroupID), &timeout, &f.Deadline,
		&f.Created, (*text)(&f.Base), (*text)(&f.DeviceID), &f.SessionID, (*text)(&f.TxnID), &f.TxnKey, (*text)(&e.ID), &e.PDU,
		&f.Finished, &r.Kind, (*text)(&r.Message))
	if err != nil {
		return nil, err
	}
	copy(f.Secret[:], secret)
	f.Timeout = time.Duration(timeout) * time.Millisecond
	if isState {
		f.StateKey = (*string)(&key)
	}
	if e.ID != "" {
		f.Event = &e
	}
	if r.Kind != 0 {
		f.Failure = &r
	}
	return &f, nil
}
