package sqlite3

import "github.com/matrix-org/dendrite/futures/futureserver/storage/shared"

// schema is version 1. A change of it comes as a sqlutil.Migration with a version that begins with
// "futureserver: ", applied in Open after these statements, which then create the newest form.
//
// A live future has a row in futureserver_timers and in futureserver_events, a finished one in futureserver_events only.
const schema = tables + shared.Indexes

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
	group_id BLOB NOT NULL
) STRICT;

-- Of scheduled futures whose heartbeats have raised the deadline: the stored one, Unix ms, never below the true one. It
-- counts instead of the timer's.
CREATE TABLE IF NOT EXISTS futureserver_raised (
	nid INTEGER PRIMARY KEY,
	deadline_ts INTEGER NOT NULL
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
	-- of a finished future: when its timer would have run out
	deadline_ts INTEGER NOT NULL DEFAULT 0,
	-- api.RefusalKind, 0 for none
	failure_kind INTEGER NOT NULL DEFAULT 0,
	failure_message BLOB NOT NULL DEFAULT x''
) STRICT;

-- One row: 32 random bytes, from which the secrets of transactions are derived.
CREATE TABLE IF NOT EXISTS futureserver_key (
	one INTEGER PRIMARY KEY CHECK (one = 1),
	key BLOB NOT NULL
) STRICT;
`
