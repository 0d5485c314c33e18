package shared

// Indexes is SQL for both databases that creates the indexes of futureserver_events. Their conditions are those of the
// reads (isDelayed, finished_ts > 0): a database uses a partial index only if the query has its condition.
const Indexes = `
-- All indexes are of finished futures. A new future would have a random place in an index, and updating one index would
-- cost as much as all the rest of storing the future. So a creation updates none.
CREATE INDEX IF NOT EXISTS futureserver_events_secret_idx
	ON futureserver_events (secret) WHERE finished_ts > 0;
CREATE INDEX IF NOT EXISTS futureserver_events_group_id_idx
	ON futureserver_events (group_id, user_id) WHERE finished_ts > 0;
CREATE INDEX IF NOT EXISTS futureserver_events_finished_age_idx
	ON futureserver_events (finished_age) WHERE finished_ts > 0;
-- For users who list their delayed events, and for delay_id of those that were sent.
CREATE INDEX IF NOT EXISTS futureserver_events_delayed_idx
	ON futureserver_events (user_id, state) WHERE finished_ts > 0 AND policy & 4 <> 0;
-- Indexes of earlier versions.
DROP INDEX IF EXISTS futureserver_events_finished_ts_idx;
DROP INDEX IF EXISTS futureserver_events_user_txn_idx;
DROP INDEX IF EXISTS futureserver_events_txn_key_idx;
DROP INDEX IF EXISTS futureserver_events_user_id_idx;
DROP INDEX IF EXISTS futureserver_events_sent_idx;
`
