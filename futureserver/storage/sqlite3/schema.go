package sqlite3

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/matrix-org/dendrite/futures/futureserver/storage/shared"
)

// migrate creates the tables, or upgrades those of an older version.
func migrate(ctx context.Context, db *sql.DB) error {
	if _, err := db.ExecContext(ctx, tables); err != nil {
		return err
	}
	for _, c := range []struct {
		table, column string
		value         int
	}{ // columns that tables of version 1 do not have
		{"futureserver_timers", "grace_ts", -1}, {"futureserver_events", "finished_age", 0},
	} {
		var n int
		err := db.QueryRowContext(ctx, "SELECT COUNT(*) FROM pragma_table_info(?1) WHERE name = ?2", c.table, c.column).Scan(&n)
		if err == nil && n == 0 {
			_, err = db.ExecContext(ctx, fmt.Sprintf("ALTER TABLE %s ADD COLUMN %s INTEGER NOT NULL DEFAULT %d", c.table, c.column, c.value))
		}
		if err != nil {
			return err
		}
	}
	_, err := db.ExecContext(ctx, shared.Indexes)
	return err
}

// A live future has a row in futureserver_timers and one in futureserver_events. A finished future has only the latter.
const tables = `
CREATE TABLE IF NOT EXISTS futureserver_timers (
	nid INTEGER PRIMARY KEY,
	-- 1 scheduled, 2 sending
	state INTEGER NOT NULL,
	-- api.Policy
	policy INTEGER NOT NULL,
	-- all tokens are derived from these 16 bytes
	secret BLOB NOT NULL,
	-- Unix ms; 0 for an action future
	deadline_ts INTEGER NOT NULL,
	-- 0 for an action future
	timeout_ms INTEGER NOT NULL,
	-- storage.KeyHash; 0 for a message
	key_hash INTEGER NOT NULL,
	user_id BLOB NOT NULL,
	room_id BLOB NOT NULL,
	-- empty if it is derived from the secret
	group_id BLOB NOT NULL,
	-- -1: it is not known to have a heartbeat; else the deadline that was the grace of a restart, 0 for none
	grace_ts INTEGER NOT NULL DEFAULT -1
) STRICT;

-- Scheduled futures whose heartbeats have raised the deadline: the stored deadline, Unix ms, never before the true one.
-- It replaces the timer's.
CREATE TABLE IF NOT EXISTS futureserver_raised (
	nid INTEGER PRIMARY KEY,
	deadline_ts INTEGER NOT NULL
) STRICT;

-- Delayed events that the server keeps alive for their user's connection to a call: api.Delegation, as JSON.
CREATE TABLE IF NOT EXISTS futureserver_delegations (
	nid INTEGER PRIMARY KEY,
	body BLOB NOT NULL
) STRICT;

CREATE TABLE IF NOT EXISTS futureserver_events (
	nid INTEGER PRIMARY KEY,
	secret BLOB NOT NULL,
	policy INTEGER NOT NULL,
	timeout_ms INTEGER NOT NULL,
	user_id BLOB NOT NULL,
	room_id BLOB NOT NULL,
	type BLOB NOT NULL,
	-- NULL for a message
	state_key BLOB,
	content BLOB NOT NULL,
	-- as the client knows it
	group_id BLOB NOT NULL,
	created_ts INTEGER NOT NULL,
	-- event ID that was current for the state key at creation
	base BLOB NOT NULL,
	device_id BLOB NOT NULL,
	session_id INTEGER NOT NULL,
	txn_id BLOB NOT NULL,
	-- origin_server_ts that the event is to have; 0 for the time of sending
	origin_ts INTEGER NOT NULL,
	-- the claimed event; empty before
	event_id BLOB NOT NULL DEFAULT x'',
	pdu BLOB NOT NULL DEFAULT x'',
	-- the final state and its time; 0 while the future is live
	state INTEGER NOT NULL DEFAULT 0,
	finished_ts INTEGER NOT NULL DEFAULT 0,
	-- for how long servers had run on this database at that time, ms; retention counts this time
	finished_age INTEGER NOT NULL DEFAULT 0,
	-- of a finished future: when its timer would have run out
	deadline_ts INTEGER NOT NULL DEFAULT 0,
	-- api.RefusalKind, 0 for none
	failure_kind INTEGER NOT NULL DEFAULT 0,
	failure_message BLOB NOT NULL DEFAULT x''
) STRICT;

-- One row: how often a server has opened this file, and for how long servers have run on it, ms.
CREATE TABLE IF NOT EXISTS futureserver_owner (
	one INTEGER PRIMARY KEY CHECK (one = 1),
	epoch INTEGER NOT NULL,
	age_ms INTEGER NOT NULL DEFAULT 0
) STRICT;

-- One row: 32 random bytes, from which the secrets of transactions are derived.
CREATE TABLE IF NOT EXISTS futureserver_key (
	one INTEGER PRIMARY KEY CHECK (one = 1),
	key BLOB NOT NULL
) STRICT;
`
