package syncapi

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/lib/pq"
	rstypes "github.com/matrix-org/dendrite/roomserver/types"
	"github.com/matrix-org/dendrite/syncapi/types"
	"github.com/matrix-org/gomatrixserverlib/spec"
)

// This file reads the tables of Dendrite v0.13.8's sync API, the only place in this package that knows them.
// A position in the stream of events is the id of a row of syncapi_output_room_events; with each event the
// row keeps which state events it brought into the current state of the room and which it drove out. That is
// a journal of the state as the roomserver resolved it: an event that lost resolution is in no such list, and
// one that resolution brings back is in the list of whatever event came along at the time.

// A syncDatabase is the database of Dendrite's sync API, SQLite or PostgreSQL.
type syncDatabase struct{ *sql.DB }

const (
	outputEvents = "syncapi_output_room_events"
	currentState = "syncapi_current_room_state"

	// maxQueried bounds the number of parameters of one query, of which both databases take a limited number.
	maxQueried = 500
)

// stateChange is what one event did to the state of its room.
type stateChange struct {
	added, removed eventIDs
	rewrites       bool // all that was before is gone, though it is not listed as removed
}

// eventIDs scans a list of strings: SQLite's are JSON, PostgreSQL's arrays.
type eventIDs []string

// Scan implements sql.Scanner.
func (ids *eventIDs) Scan(column any) error {
	var text sql.NullString
	if err := text.Scan(column); err != nil {
		return err
	}
	*ids = nil
	switch {
	case text.String == "":
		return nil
	case text.String[0] == '{':
		return (*pq.StringArray)(ids).Scan(text.String)
	}
	return json.Unmarshal([]byte(text.String), ids)
}

// changes returns what happened to the state of a room after the position from, up to and with to.
func (db syncDatabase) changes(ctx context.Context, roomID string, from, to types.StreamPosition) ([]stateChange, error) {
	// Where nothing was added, SQLite has '' and PostgreSQL NULL, neither of which is greater than ''.
	const query = "SELECT add_state_ids, remove_state_ids FROM " + outputEvents +
		" WHERE room_id = $1 AND id > $2 AND id <= $3" +
		" AND (CAST(add_state_ids AS TEXT) > '' OR CAST(remove_state_ids AS TEXT) > '') ORDER BY id"
	changes, err := collect(ctx, db, func(rows *sql.Rows) (c stateChange, err error) {
		return c, rows.Scan(&c.added, &c.removed)
	}, query, roomID, from, to)
	if err != nil || !slices.ContainsFunc(changes, func(c stateChange) bool { return len(c.added) > 1 }) {
		return changes, err
	}
	// An event that came with a state of its own, as from another server, adds the whole of it.
	const creation = "SELECT COALESCE(MAX(event_id), '') FROM " + currentState + " WHERE room_id = $1 AND type = $2"
	var create string
	err = db.QueryRowContext(ctx, creation, roomID, spec.MRoomCreate).Scan(&create)
	for i := range changes {
		changes[i].rewrites = slices.Contains(changes[i].added, create)
	}
	return changes, err
}

// changedRooms returns the rooms, of those that the user is in, where the state changed in that time.
func (db syncDatabase) changedRooms(ctx context.Context, userID string, from, to types.StreamPosition) ([]string, error) {
	const query = "SELECT DISTINCT room_id FROM " + outputEvents +
		" WHERE id > $1 AND id <= $2 AND CAST(add_state_ids AS TEXT) > '' AND room_id IN" +
		" (SELECT room_id FROM " + currentState + " WHERE type = $3 AND state_key = $4 AND membership = $5)"
	return collect(ctx, db, func(rows *sql.Rows) (roomID string, err error) {
		return roomID, rows.Scan(&roomID)
	}, query, from, to, spec.MRoomMember, userID, spec.Join)
}

// oldest returns the position of the first of these events, 0 if none has a position.
func (db syncDatabase) oldest(ctx context.Context, ids []string) (oldest types.StreamPosition, err error) {
	for some := range slices.Chunk(ids, maxQueried) {
		in, args := list(some)
		var first sql.NullInt64
		if err := db.QueryRowContext(ctx, "SELECT MIN(id) FROM "+outputEvents+" WHERE event_id IN "+in, args...).Scan(&first); err != nil {
			return 0, err
		}
		if first.Valid && (oldest == 0 || types.StreamPosition(first.Int64) < oldest) {
			oldest = types.StreamPosition(first.Int64)
		}
	}
	return oldest, nil
}

// events returns those of the events that the database has. Redacted ones are redacted in the stream alone,
// so that is where they are looked for first; but state from before the server joined is not in it.
func (db syncDatabase) events(ctx context.Context, ids []string) ([]*rstypes.HeaderedEvent, error) {
	var found []*rstypes.HeaderedEvent
	for some := range slices.Chunk(ids, maxQueried) {
		for _, table := range []string{outputEvents, currentState} {
			in, args := list(some)
			events, err := collect(ctx, db, scanEvent, "SELECT headered_event_json FROM "+table+" WHERE event_id IN "+in, args...)
			if err != nil {
				return nil, err
			}
			found = append(found, events...)
			some = slices.DeleteFunc(slices.Clone(some), func(id string) bool {
				return slices.ContainsFunc(events, func(e *rstypes.HeaderedEvent) bool { return e.EventID() == id })
			})
			if len(some) == 0 {
				break
			}
		}
	}
	return found, nil
}

// ownMemberships returns the membership events that a user sent of himself, oldest first.
func (db syncDatabase) ownMemberships(ctx context.Context, roomID, userID string, from, to types.StreamPosition) ([]*rstypes.HeaderedEvent, error) {
	const query = "SELECT headered_event_json FROM " + outputEvents +
		" WHERE room_id = $1 AND id > $2 AND id <= $3 AND type = $4 AND sender = $5 ORDER BY id"
	events, err := collect(ctx, db, scanEvent, query, roomID, from, to, spec.MRoomMember, userID)
	return slices.DeleteFunc(events, func(e *rstypes.HeaderedEvent) bool {
		return !e.StateKeyEquals(string(e.SenderID()))
	}), err
}

// state returns the current state of a room, without the members if they are not wanted.
func (db syncDatabase) state(ctx context.Context, roomID string, members bool) ([]*rstypes.HeaderedEvent, error) {
	const query = "SELECT headered_event_json FROM " + currentState + " WHERE room_id = $1 AND (type <> $2 OR $3)"
	return collect(ctx, db, scanEvent, query, roomID, spec.MRoomMember, members)
}

// storedFilter returns a filter as JSON, nothing if there is none with this ID.
func (db syncDatabase) storedFilter(ctx context.Context, localpart, id string) (filter []byte, err error) {
	err = db.QueryRowContext(ctx, "SELECT filter FROM syncapi_filter WHERE localpart = $1 AND id = $2", localpart, id).Scan(&filter)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	return filter, err
}

func collect[T any](ctx context.Context, db syncDatabase, scan func(*sql.Rows) (T, error), query string, args ...any) (all []T, err error) {
	rows, err := db.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		row, err := scan(rows)
		if err != nil {
			return nil, err
		}
		all = append(all, row)
	}
	return all, rows.Err()
}

func scanEvent(rows *sql.Rows) (*rstypes.HeaderedEvent, error) {
	var text []byte
	if err := rows.Scan(&text); err != nil {
		return nil, err
	}
	event := new(rstypes.HeaderedEvent)
	return event, json.Unmarshal(text, event)
}

// list returns the right side of an IN and its parameters.
func list(ids []string) (in string, args []any) {
	places := make([]string, len(ids))
	for i, id := range ids {
		places[i] = fmt.Sprintf("$%d", i+1)
		args = append(args, id)
	}
	return "(" + strings.Join(places, ", ") + ")", args
}
