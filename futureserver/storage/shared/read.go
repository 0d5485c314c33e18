package shared

import (
	"cmp"
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
SELECT t.nid, state, policy, secret, COALESCE(r.deadline_ts, t.deadline_ts), timeout_ms, key_hash, user_id, room_id, group_id,
	CASE WHEN r.nid IS NULL THEN t.grace_ts WHEN t.grace_ts < 0 THEN 0 ELSE t.grace_ts END
FROM futureserver_timers t LEFT JOIN futureserver_raised r ON r.nid = t.nid ORDER BY t.nid`

// The state and deadline of a live future come from its timer. A finished future has no timer.
const (
	selectFutures = `
SELECT e.nid, e.secret, COALESCE(t.state, e.state), e.policy, e.user_id, e.room_id, e.type,
	e.state_key IS NOT NULL, e.state_key, e.content, e.group_id, e.timeout_ms, COALESCE(r.deadline_ts, t.deadline_ts, e.deadline_ts),
	e.created_ts, e.base, e.device_id, e.session_id, e.txn_id, e.event_id, e.pdu,
	e.finished_ts, e.failure_kind, e.failure_message, e.origin_ts`

	selectAny  = selectFutures + " FROM futureserver_events e LEFT JOIN futureserver_timers t ON t.nid = e.nid" + joinRaised
	selectLive = selectFutures + " FROM futureserver_timers t JOIN futureserver_events e ON e.nid = t.nid" + joinRaised
	joinRaised = " LEFT JOIN futureserver_raised r ON r.nid = t.nid"
)

const selectBase = `
SELECT type, state_key, base, user_id, policy FROM futureserver_events WHERE nid = $1 AND state_key IS NOT NULL`

const selectGroup = `
SELECT EXISTS (SELECT 1 FROM futureserver_events WHERE group_id = $1 AND user_id = $2 AND finished_ts > 0)`

// The numbers are literals, because an index is used only for its own condition: api.Managed is 4, api.Sent is 3.
const (
	isDelayed = "e.finished_ts > 0 AND e.policy & 4 <> 0"
	isSent    = isDelayed + " AND e.state = 3"
)

const selectSent = `
SELECT event_id, group_id FROM futureserver_events e WHERE user_id = $1 AND ` + isSent + ` ORDER BY nid DESC LIMIT $2`

// block is how many futures one statement loads.
const block = 16

// SelectDelegations implements storage.Database.
func (d *Database) SelectDelegations(ctx context.Context, each func(storage.Delegation) error) error {
	rows, err := d.readers.QueryContext(ctx, "SELECT nid, body FROM futureserver_delegations ORDER BY nid")
	if err != nil {
		return fmt.Errorf("read delegations: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var row storage.Delegation
		if err := rows.Scan(&row.NID, &row.Body); err != nil {
			return fmt.Errorf("read delegations: %w", err)
		}
		if err := each(row); err != nil {
			return err
		}
	}
	return rows.Err()
}

// Scan implements storage.Database. The blobs are in the driver's memory and valid until the next row. The statement is
// prepared although it runs once, because lib/pq uses the binary format for prepared statements only.
func (d *Database) Scan(ctx context.Context, each func(*storage.Timer) error) (highest api.NID, err error) {
	rows, err := d.scan.QueryContext(ctx)
	if err != nil {
		return 0, fmt.Errorf("scan timers: %w", err)
	}
	defer rows.Close()
	var t storage.Timer
	var nid, state, policy, timeout, keyHash, grace int64 // not their own types: the conversion inside Scan is slow
	var secret, user, room, group sql.RawBytes
	for rows.Next() {
		if err = rows.Scan(&nid, &state, &policy, &secret, &t.Deadline, &timeout, &keyHash, &user, &room, &group, &grace); err != nil {
			return 0, fmt.Errorf("scan timers: %w", err)
		}
		t.NID, t.State, t.Policy, t.KeyHash = api.NID(nid), api.State(state), api.Policy(policy), uint32(keyHash)
		t.Timeout = time.Duration(timeout) * time.Millisecond
		copy(t.Secret[:], secret)
		t.UserID, t.RoomID, t.GroupID = user, room, group
		t.Refreshed, t.Graced = grace >= 0, max(grace, 0)
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

// LoadAll implements storage.Database.
func (d *Database) LoadAll(ctx context.Context, nids []api.NID) (futures []*api.Future, err error) {
	args := make([]any, block)
	for some := range slices.Chunk(nids, block) {
		for i := range args {
			args[i] = int64(some[min(i, len(some)-1)])
		}
		rows, err := d.loadAll.QueryContext(ctx, args...)
		if futures, err = appendFutures(futures, rows, err); err != nil {
			return nil, err
		}
	}
	slices.SortFunc(futures, func(a, b *api.Future) int { return cmp.Compare(a.NID, b.NID) })
	return futures, nil
}

// LoadEnded implements storage.Database.
func (d *Database) LoadEnded(ctx context.Context, secret api.Secret) (*api.Future, error) {
	return loadOne(d.loadEnded.QueryRowContext(ctx, secret[:]))
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
	if err = d.groupUsed.QueryRowContext(ctx, []byte(groupID), []byte(userID)).Scan(&used); err != nil {
		return false, fmt.Errorf("look for a group: %w", err)
	}
	return used, nil
}

// Select implements storage.Database.
func (d *Database) Select(ctx context.Context, f api.Filter) ([]*api.Future, error) {
	var q selection
	switch states := f.Wanted(); {
	case states&api.Live == 0:
		q = selection{query: selectAny + " WHERE e.finished_ts > 0 AND " + isIn(states), of: "e"}
	case states&api.Finished == 0:
		q = selection{query: selectLive + " WHERE 1 = 1", of: "t"}
	default:
		q = selection{query: selectAny + " WHERE (t.nid IS NOT NULL OR " + isIn(states) + ")", of: "e"}
	}
	if f.UserID != "" {
		q.where("user_id = $%d", []byte(f.UserID))
	}
	if f.RoomID != "" {
		q.where("room_id = $%d", []byte(f.RoomID))
	}
	if f.NID != 0 {
		q.where("nid = $%d", int64(f.NID))
	}
	switch f.Kind { // api.Managed is 4
	case api.OneOfGroup:
		q.query += " AND e.policy & 4 = 0"
	case api.DelayedKind:
		q.query += " AND e.policy & 4 <> 0"
	}
	if f.From != 0 {
		q.query += fmt.Sprintf(" AND (e.finished_ts = 0 OR e.finished_ts >= %d)", f.From)
	}
	if f.Until != 0 {
		q.query += fmt.Sprintf(" AND e.finished_ts < %d", f.Until)
	}
	return d.inOrder(ctx, &q, f.After, f.Backwards, f.Limit)
}

// isIn says that a finished future's state is one of these.
func isIn(states api.States) string {
	return fmt.Sprintf("(1 << e.state) & %d <> 0", states&api.Finished)
}

// selection is a query for futures that grows.
type selection struct {
	query string
	of    string // the table whose columns the conditions name
	args  []any
}

func (q *selection) where(condition string, value any) {
	q.args = append(q.args, value)
	q.query += " AND " + q.of + "." + fmt.Sprintf(condition, len(q.args))
}

// inOrder reads what is selected by NID, from the one behind after on.
func (d *Database) inOrder(ctx context.Context, q *selection, after api.NID, backwards bool, limit int) ([]*api.Future, error) {
	order, behind := "ASC", "nid > $%d"
	if backwards {
		order, behind = "DESC", "nid < $%d"
	}
	if after != 0 {
		q.where(behind, int64(after))
	}
	return d.selectAll(ctx, q.query+" ORDER BY "+q.of+".nid "+order+limited(limit), q.args)
}

func limited(n int) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf(" LIMIT %d", n)
}

// LoadFinished implements storage.Database.
func (d *Database) LoadFinished(ctx context.Context, groupID string) (*api.Future, error) {
	return loadOne(d.loadFinished.QueryRowContext(ctx, []byte(groupID)))
}

// SelectFinished implements storage.Database.
func (d *Database) SelectFinished(ctx context.Context, filter api.DelayedFilter) ([]*api.Future, error) {
	query := selectAny + " WHERE e.user_id = $1 AND " + isDelayed + " AND e.state IN ("
	for i, s := range filter.States {
		query += fmt.Sprintf("%.*s%d", min(i, 1), ",", s)
	}
	query += ")"
	q := selection{query, "e", []any{[]byte(filter.UserID)}}
	if filter.RoomID != "" {
		q.where("room_id = $%d", []byte(filter.RoomID))
	}
	return d.inOrder(ctx, &q, filter.After, filter.Backwards, filter.Limit)
}

// SelectSent implements storage.Database.
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

// SelectWatchedRooms implements storage.Database. api.CancelOnNewerState is 1, api.CancelOnOthersState 2.
func (d *Database) SelectWatchedRooms(ctx context.Context) (rooms []string, err error) {
	rows, err := d.readers.QueryContext(ctx, "SELECT DISTINCT room_id FROM futureserver_timers WHERE key_hash <> 0 AND policy & 3 <> 0")
	if err != nil {
		return nil, fmt.Errorf("select watched rooms: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var room text
		if err = rows.Scan(&room); err != nil {
			return nil, fmt.Errorf("select watched rooms: %w", err)
		}
		rooms = append(rooms, string(room))
	}
	return rooms, rows.Err()
}

// SelectSenders implements storage.Database.
func (d *Database) SelectSenders(ctx context.Context, each func(userID string)) error {
	rows, err := d.readers.QueryContext(ctx, "SELECT DISTINCT user_id FROM futureserver_events e WHERE "+isSent)
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

// selectAll runs a query that begins with selectFutures and reads its rows.
func (d *Database) selectAll(ctx context.Context, query string, args []any) ([]*api.Future, error) {
	rows, err := d.readers.QueryContext(ctx, query, args...)
	return appendFutures(nil, rows, err)
}

// appendFutures appends the rows of selectFutures. It takes the two results of Query.
func appendFutures(futures []*api.Future, rows *sql.Rows, err error) ([]*api.Future, error) {
	if err != nil {
		return nil, fmt.Errorf("select futures: %w", err)
	}
	defer rows.Close()
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
		&f.Created, (*text)(&f.Base), (*text)(&f.DeviceID), &f.SessionID, (*text)(&f.TxnID), (*text)(&e.ID), &e.PDU,
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
