package shared

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
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
	e.state_key IS NOT NULL, e.state_key, e.content, e.group_id, e.timeout_ms, COALESCE(t.deadline_ts, e.deadline_ts),
	e.created_ts, e.base, e.device_id, e.session_id, e.txn_id, e.txn_key, e.event_id, e.pdu,
	e.finished_ts, e.failure_kind, e.failure_message, e.origin_ts`

	selectAny  = selectFutures + " FROM futureserver_events e LEFT JOIN futureserver_timers t ON t.nid = e.nid"
	selectLive = selectFutures + " FROM futureserver_timers t JOIN futureserver_events e ON e.nid = t.nid"
)

const selectBase = `
SELECT type, state_key, base, user_id, policy FROM futureserver_events WHERE nid = $1 AND state_key IS NOT NULL`

// Two halves, for the finished ones have an index of their own.
const selectGroup = `
SELECT EXISTS (SELECT 1 FROM futureserver_events WHERE user_id = $1 AND group_id = $2 AND finished_ts = 0)
	OR EXISTS (SELECT 1 FROM futureserver_events WHERE user_id = $1 AND group_id = $2 AND finished_ts > 0)`

// As the index wants it: api.Sent and api.Managed.
const isSent = "state = 3 AND policy & 4 <> 0"

const selectSent = `
SELECT event_id, group_id FROM (
	SELECT nid, event_id, group_id FROM futureserver_events WHERE user_id = $1 AND ` + isSent + `
	UNION ALL
	SELECT nid, event_id, group_id FROM futureserver_events
	WHERE user_id = $1 AND finished_ts = 0 AND policy & 4 <> 0 AND length(event_id) > 0
) AS sent ORDER BY nid DESC LIMIT $2`

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
func (d *Database) LoadByTransaction(ctx context.Context, userID string, txnKey []byte) (*api.Future, error) {
	return loadOne(d.loadByTransaction.QueryRowContext(ctx, []byte(userID), txnKey))
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
	err = d.loadBase.QueryRowContext(ctx, int64(nid)).Scan((*text)(&b.Type), (*text)(&b.StateKey), (*text)(&b.EventID),
		(*text)(&b.UserID), &b.Policy)
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
		where("e.user_id", []byte(filter.UserID))
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
	return d.selectAll(ctx, query, args)
}

// LoadFinished implements storage.Database.
func (d *Database) LoadFinished(ctx context.Context, groupID string) (*api.Future, error) {
	return loadOne(d.loadFinished.QueryRowContext(ctx, []byte(groupID)))
}

// SelectDelayed implements storage.Database. A user has few live futures, and as many finished ones as are
// kept of them.
func (d *Database) SelectDelayed(ctx context.Context, filter api.DelayedFilter) ([]*api.Future, error) {
	states, query := filter.States, selectAny
	if len(states) == 0 {
		states = []api.State{api.Scheduled}
	}
	if !slices.ContainsFunc(states, func(s api.State) bool { return !s.Live() }) {
		query = selectLive
	}
	query += fmt.Sprintf(" WHERE e.user_id = $1 AND e.policy & %d <> 0", api.Managed)
	args := []any{[]byte(filter.UserID)}
	where := func(condition string, value any) {
		args = append(args, value)
		query += fmt.Sprintf(" AND "+condition, len(args))
	}
	query += " AND COALESCE(t.state, e.state) IN ("
	for i, s := range states {
		query += fmt.Sprintf("%.*s%d", min(i, 1), ",", s)
	}
	query += ")"
	if filter.RoomID != "" {
		where("e.room_id = $%d", []byte(filter.RoomID))
	}
	order, beyond := "ASC", "e.nid > $%d"
	if filter.Backwards {
		order, beyond = "DESC", "e.nid < $%d"
	}
	if filter.After != 0 {
		where(beyond, int64(filter.After))
	}
	query += " ORDER BY e.nid " + order
	if filter.Limit > 0 {
		query += fmt.Sprintf(" LIMIT %d", filter.Limit)
	}
	return d.selectAll(ctx, query, args)
}

// SelectSent implements storage.Database. What is on its way is live still: the two halves have an index each.
func (d *Database) SelectSent(ctx context.Context, userID string, limit int, each func(eventID, groupID string)) error {
	rows, err := d.selectSent.QueryContext(ctx, []byte(userID), limit)
	if err != nil {
		return fmt.Errorf("select sent futures: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var event, group text
		if err = rows.Scan(&event, &group); err != nil {
			return fmt.Errorf("select sent futures: %w", err)
		}
		each(string(event), string(group))
	}
	return rows.Err()
}

// SelectSenders implements storage.Database.
func (d *Database) SelectSenders(ctx context.Context, each func(userID string)) error {
	rows, err := d.readers.QueryContext(ctx, "SELECT DISTINCT user_id FROM futureserver_events WHERE "+isSent)
	if err != nil {
		return fmt.Errorf("select senders: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var user text
		if err = rows.Scan(&user); err != nil {
			return fmt.Errorf("select senders: %w", err)
		}
		each(string(user))
	}
	return rows.Err()
}

// selectAll reads the rows of a query made of selectFutures.
func (d *Database) selectAll(ctx context.Context, query string, args []any) ([]*api.Future, error) {
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
		&f.Finished, &r.Kind, (*text)(&r.Message), &f.OriginTS)
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
