package postgres

import "github.com/matrix-org/dendrite/futures/futureserver/storage/shared"

// schema creates the tables, or upgrades those of an older version.
//
// A live future has a row in futureserver_timers and one in futureserver_events. A finished future has only the latter.
const schema = tables + added + shared.Indexes

const tables = `
CREATE TABLE IF NOT EXISTS futureserver_timers (
	nid BIGINT PRIMARY KEY,
	-- 1 scheduled, 2 sending
	state SMALLINT NOT NULL,
	-- api.Policy
	policy SMALLINT NOT NULL,
	-- all tokens are derived from these 16 bytes
	secret BYTEA NOT NULL,
	-- Unix ms; 0 for an action future
	deadline_ts BIGINT NOT NULL,
	-- 0 for an action future
	timeout_ms BIGINT NOT NULL,
	-- storage.KeyHash; 0 for a message
	key_hash BIGINT NOT NULL,
	user_id BYTEA NOT NULL,
	room_id BYTEA NOT NULL,
	-- empty if it is derived from the secret
	group_id BYTEA NOT NULL,
	-- -1: it is not known to have a heartbeat; else the deadline that was the grace of a restart, 0 for none
	grace_ts BIGINT NOT NULL DEFAULT -1
);

-- Scheduled futures whose heartbeats have raised the deadline: the stored deadline, Unix ms, never before the true one.
-- It replaces the timer's.
CREATE TABLE IF NOT EXISTS futureserver_raised (
	nid BIGINT PRIMARY KEY,
	deadline_ts BIGINT NOT NULL
) WITH (fillfactor = 50); -- new versions of a row fit into its page, so an update changes no index

-- Delayed events that the server keeps alive for their user's connection to a call: api.Delegation, as JSON.
CREATE TABLE IF NOT EXISTS futureserver_delegations (
	nid BIGINT PRIMARY KEY,
	body BYTEA NOT NULL
);

CREATE TABLE IF NOT EXISTS futureserver_events (
	nid BIGINT PRIMARY KEY,
	secret BYTEA NOT NULL,
	policy SMALLINT NOT NULL,
	timeout_ms BIGINT NOT NULL,
	user_id BYTEA NOT NULL,
	room_id BYTEA NOT NULL,
	type BYTEA NOT NULL,
	-- NULL for a message
	state_key BYTEA,
	content BYTEA NOT NULL,
	-- as the client knows it
	group_id BYTEA NOT NULL,
	created_ts BIGINT NOT NULL,
	-- event ID that was current for the state key at creation
	base BYTEA NOT NULL,
	device_id BYTEA NOT NULL,
	session_id BIGINT NOT NULL,
	txn_id BYTEA NOT NULL,
	-- origin_server_ts that the event is to have; 0 for the time of sending
	origin_ts BIGINT NOT NULL,
	-- the claimed event; empty before
	event_id BYTEA NOT NULL DEFAULT '',
	pdu BYTEA NOT NULL DEFAULT '',
	-- the final state and its time; 0 while the future is live
	state SMALLINT NOT NULL DEFAULT 0,
	finished_ts BIGINT NOT NULL DEFAULT 0,
	-- for how long servers had run on this database at that time, ms; retention counts this time
	finished_age BIGINT NOT NULL DEFAULT 0,
	-- of a finished future: when its timer would have run out
	deadline_ts BIGINT NOT NULL DEFAULT 0,
	-- api.RefusalKind, 0 for none
	failure_kind SMALLINT NOT NULL DEFAULT 0,
	failure_message BYTEA NOT NULL DEFAULT ''
);

-- One row: how often a server has started on this database.
CREATE TABLE IF NOT EXISTS futureserver_owner (
	one SMALLINT PRIMARY KEY CHECK (one = 1),
	epoch BIGINT NOT NULL,
	-- for how long servers have run on this database, ms
	age_ms BIGINT NOT NULL DEFAULT 0
);

-- One row: 32 random bytes, from which the secrets of transactions are derived.
CREATE TABLE IF NOT EXISTS futureserver_key (
	one SMALLINT PRIMARY KEY CHECK (one = 1),
	key BYTEA NOT NULL
);
`

// added adds the columns that tables of version 1 do not have.
const added = `
ALTER TABLE futureserver_timers ADD COLUMN IF NOT EXISTS grace_ts BIGINT NOT NULL DEFAULT -1;
ALTER TABLE futureserver_events ADD COLUMN IF NOT EXISTS finished_age BIGINT NOT NULL DEFAULT 0;
ALTER TABLE futureserver_owner ADD COLUMN IF NOT EXISTS age_ms BIGINT NOT NULL DEFAULT 0;
`
