package shared

// Indexes makes the indexes of futureserver_events, in words that both databases know. Their conditions are those of the
// reads (isDelayed, finished_ts > 0): a database uses a partial index only where it sees that.
const Indexes = `
-- All indexes are of finished futures. A future lies anywhere in an index, so that each costs as much as all the rest of
-- storing it; those who schedule one wait for none.
CREATE INDEX IF NOT EXISTS futureserver_events_secret_idx
	ON futureserver_events (secret) WHERE finished_ts > 0;
CREATE INDEX IF NOT EXISTS futureserver_events_group_id_idx
	ON futureserver_events (group_id, user_id) WHERE finished_ts > 0;
CREATE INDEX IF NOT EXISTS futureserver_events_finished_age_idx
	ON futureserver_events (finished_age) WHERE finished_ts > 0;
-- Delayed events, for their users, who list them and recognise those that were sent.
CREATE INDEX IF NOT EXISTS futureserver_events_delayed_idx
	ON futureserver_events (user_id, state) WHERE finished_ts > 0 AND policy & 4 <> 0;
-- These were of all futures once, of fewer, or by the wall clock.
DROP INDEX IF EXISTS futureserver_events_finished_ts_idx;
DROP INDEX IF EXISTS futureserver_events_user_txn_idx;
DROP INDEX IF EXISTS futureserver_events_txn_key_idx;
DROP INDEX IF EXISTS futureserver_events_user_id_idx;
DROP INDEX IF EXISTS futureserver_events_sent_idx;
`
