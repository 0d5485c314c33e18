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

// This file reads tables of Dendrite v0.13.8's sync API. No other file of this package knows them. A stream position is
// the id of a row of syncapi_output_room_events. Each row lists the state events that its event added to the current
// state of the room and those that it removed. Together the rows are a journal of the state as the roomserver resolved
// it. An event that lost in state resolution is in no list. An event that state resolution restores is in the list of
// the event that caused the resolution.

// A syncDatabase is the database of Dendrite's sync API, SQLite or PostgreSQL.
type syncDatabase struct{ *sql.DB }

const (
	outputEvents = "syncapi_output_room_events"
	currentState = "syncapi_current_room_state"

	// maxQueried limits the parameters of one query. Both databases accept a limited number.
	maxQueried = 500
)

// stateChange is the change of a room's state by one event.
type stateChange struct {
	added, removed eventIDs
	rewrites       bool // all earlier state is gone, although it is not listed as removed
}

// eventIDs scans a list of strings: JSON on SQLite, an array on PostgreSQL.
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

// changes returns the changes of a room's state after position from, up to and including to.
func (db syncDatabase) changes(ctx context.Context, roomID string, from, to types.StreamPosition) ([]stateChange, error) {
	// If nothing was added, SQLite has '' and PostgreSQL has NULL. Neither is greater than ''.
	const query = "SELECT add_state_ids, remove_state_ids FROM " + outputEvents +
		" WHERE room_id = $1 AND id > $2 AND id <= $3" +
		" AND (CAST(add_state_ids AS TEXT) > '' OR CAST(remove_state_ids AS TEXT) > '') ORDER BY id"
	changes, err := collect(ctx, db, func(rows *sql.Rows) (c stateChange, err error) {
		return c, rows.Scan(&c.added, &c.removed)
	}, query, roomID, from, to)
	if err != nil || !slices.ContainsFunc(changes, func(c stateChange) bool { return len(c.added) > 1 }) {
		return changes, err
	}
	// An event that came with its own state, for example from another server, adds the whole state.
	const creation = "SELECT COALESCE(MAX(event_id), '') FROM " + currentState + " WHERE room_id = $1 AND type = $2"
	var create string
	err = db.QueryRowContext(ctx, creation, roomID, spec.MRoomCreate).Scan(&create)
	for i := range changes {
		changes[i].rewrites = slices.Contains(changes[i].added, create)
	}
	return changes, err
}

// changedRooms returns those of the user's joined rooms whose state changed in that range.
func (db syncDatabase) changedRooms(ctx context.Context, userID string, from, to types.StreamPosition) ([]string, error) {
	const query = "SELECT DISTINCT room_id FROM " + outputEvents +
		" WHERE id > $1 AND id <= $2 AND CAST(add_state_ids AS TEXT) > '' AND room_id IN" +
		" (SELECT room_id FROM " + currentState + " WHERE type = $3 AND state_key = $4 AND membership = $5)"
	return collect(ctx, db, func(rows *sql.Rows) (roomID string, err error) {
		return roomID, rows.Scan(&roomID)
	}, query, from, to, spec.MRoomMember, userID, spec.Join)
}

// oldest returns the lowest position of these events, or 0 if none has a position.
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

// events returns the events that the database has. A redacted event is redacted only in the stream, so the stream is
// searched first. State from before the server joined is not in the stream.
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

// ownMemberships returns the membership events that a user sent about themselves, oldest first.
func (db syncDatabase) ownMemberships(ctx context.Context, roomID, userID string, from, to types.StreamPosition) ([]*rstypes.HeaderedEvent, error) {
	const query = "SELECT headered_event_json FROM " + outputEvents +
		" WHERE room_id = $1 AND id > $2 AND id <= $3 AND type = $4 AND sender = $5 ORDER BY id"
	events, err := collect(ctx, db, scanEvent, query, roomID, from, to, spec.MRoomMember, userID)
	return slices.DeleteFunc(events, func(e *rstypes.HeaderedEvent) bool {
		return !e.StateKeyEquals(string(e.SenderID()))
	}), err
}

// state returns the current state of a room, with or without the members.
func (db syncDatabase) state(ctx context.Context, roomID string, members bool) ([]*rstypes.HeaderedEvent, error) {
	const query = "SELECT headered_event_json FROM " + currentState + " WHERE room_id = $1 AND (type <> $2 OR $3)"
	return collect(ctx, db, scanEvent, query, roomID, spec.MRoomMember, members)
}

// storedFilter returns the stored filter as JSON, or nothing if the ID is unknown.
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

// list returns the right side of an IN expression and its parameters.
func list(ids []string) (in string, args []any) {
	places := make([]string, len(ids))
	for i, id := range ids {
		places[i] = fmt.Sprintf("$%d", i+1)
		args = append(args, id)
	}
	return "(" + strings.Join(places, ", ") + ")", args
}
