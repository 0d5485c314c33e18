package postgres_test

import (
	"context"
	"database/sql"
	"errors"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/setup/config"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
	"github.com/matrix-org/dendrite/futures/futureserver/storage"
	"github.com/matrix-org/dendrite/futures/test/storagetest"
)

// What both databases promise is tested in test/storagetest; here is what only a server can do: go away.

// bundle is an open database and an administrator's connection to the same schema.
type bundle struct {
	opts  *config.DatabaseOptions
	db    storage.Database
	admin *sql.DB
	next  api.NID
}

func setup(t *testing.T) *bundle {
	t.Parallel()
	opts := storagetest.Postgres(t)
	admin, err := sql.Open("postgres", string(opts.ConnectionString))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { admin.Close() })
	return &bundle{opts: opts, db: storagetest.MustOpen(t, opts), admin: admin}
}

// insert stores one more future.
func (b *bundle) insert() error {
	b.next++
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	_, err := b.db.Commit(ctx, &storage.Batch{Inserts: []*api.Future{
		{NID: b.next, Secret: api.NewSecret(), UserID: "@alice:example.org", Content: []byte("{}")},
	}})
	return err
}

// disconnect ends the session that holds the lock, as a restart would.
func (b *bundle) disconnect(t *testing.T) {
	t.Helper()
	var n int
	err := b.admin.QueryRow(`
SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_locks
WHERE locktype = 'advisory' AND objid::bigint = hashtext(current_schema())::bigint & 4294967295`).Scan(&n)
	if err != nil || n != 1 {
		t.Fatalf("%d sessions held the lock, %v", n, err)
	}
}

// commit inserts until it works: an error is returned to the caller, who tries again.
func (b *bundle) commit(t *testing.T) {
	t.Helper()
	var err error
	for range 10 {
		if err = b.insert(); err == nil {
			return
		}
	}
	t.Fatal(err)
}

func TestSessionEnds(t *testing.T) {
	b := setup(t)
	b.commit(t)
	for range 8 { // more than there are connections
		b.disconnect(t)
		b.commit(t)
	}
	second, err := storagetest.Open(b.opts)
	if err == nil {
		second.Close()
	}
	if !errors.Is(err, storage.ErrLocked) {
		t.Fatalf("the lock was not taken again: %v", err)
	}
}

func TestLockLost(t *testing.T) {
	b := setup(t)
	b.commit(t)
	b.disconnect(t)
	second := storagetest.MustOpen(t, b.opts)
	for range 2 {
		if err := b.insert(); !errors.Is(err, storage.ErrLockLost) {
			t.Fatalf("two servers write: %v", err)
		}
	}
	// Even when the other one has gone, what this one remembers may be wrong.
	if err := second.Close(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := b.insert(); !errors.Is(err, storage.ErrLockLost) {
			t.Fatalf("a server writes that missed what another one wrote: %v", err)
		}
	}
	// It must not stand in the way of a third.
	storagetest.MustOpen(t, b.opts)
}

// TestLostInTheMiddle ends the session between the statements of a batch.
func TestLostInTheMiddle(t *testing.T) {
	b := setup(t)
	b.commit(t)
	tx, err := b.admin.Begin()
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback()
	if _, err = tx.Exec("LOCK TABLE futureserver_events"); err != nil { // where the next insert waits
		t.Fatal(err)
	}
	result := make(chan error, 1)
	go func() { result <- b.insert() }()
	waitFor(t, b.admin, `
SELECT EXISTS (SELECT 1 FROM pg_locks WHERE NOT granted AND relation = 'futureserver_events'::regclass)`)
	b.disconnect(t)
	if err = <-result; err == nil {
		t.Fatal("a batch was committed without the lock")
	}
	if err = tx.Rollback(); err != nil {
		t.Fatal(err)
	}
	b.commit(t)
	if f, err := b.db.Load(t.Context(), 2); f != nil || err != nil {
		t.Errorf("part of a lost batch was applied: %v, %v", f, err)
	}
}

// TestRestart ends all sessions, as a restart of PostgreSQL does.
func TestRestart(t *testing.T) {
	b := setup(t)
	b.db.Close()
	b.opts.ConnectionString += " application_name=survivor"
	b.db = storagetest.MustOpen(t, b.opts)
	b.commit(t)
	load := func() error {
		f, err := b.db.Load(t.Context(), 1)
		if err == nil && f == nil {
			err = errors.New("the future is gone")
		}
		return err
	}
	if err := load(); err != nil {
		t.Fatal(err)
	}
	_, err := b.admin.Exec(`
SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
WHERE application_name = 'survivor'`)
	if err != nil {
		t.Fatal(err)
	}
	for range 10 {
		if err = load(); err == nil {
			break
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	b.commit(t)
}

// TestDurable: a database set up for speed does not make our answers less durable.
func TestDurable(t *testing.T) {
	b := setup(t)
	b.db.Close()
	b.opts.ConnectionString += " synchronous_commit=off"
	b.db = storagetest.MustOpen(t, b.opts)
	if _, err := b.admin.Exec(`
CREATE FUNCTION check_durable() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF current_setting('synchronous_commit') <> 'on' THEN RAISE 'not durable'; END IF;
	RETURN NULL;
END $$;
CREATE TRIGGER durable AFTER INSERT ON futureserver_events EXECUTE FUNCTION check_durable()`); err != nil {
		t.Fatal(err)
	}
	if err := b.insert(); err != nil {
		t.Fatal(err)
	}
}

func waitFor(t *testing.T, db *sql.DB, condition string) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		var ok bool
		if err := db.QueryRow(condition).Scan(&ok); err != nil {
			t.Fatal(err)
		}
		if ok {
			return
		}
	}
	t.Fatal("waited in vain for: " + condition)
}

// TestOlderTables opens tables as the first version made them, with a live and a finished future in them.
func TestOlderTables(t *testing.T) {
	b := setup(t)
	b.commit(t)
	b.commit(t)
	end := &storage.Batch{Ends: []storage.End{{NID: 2, State: api.Cancelled, At: 5}}}
	if _, err := b.db.Commit(t.Context(), end); err != nil {
		t.Fatal(err)
	}
	if err := b.db.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := b.admin.Exec(`
ALTER TABLE futureserver_timers DROP COLUMN grace_ts;
ALTER TABLE futureserver_events DROP COLUMN finished_age;
ALTER TABLE futureserver_owner DROP COLUMN age_ms;
DROP TABLE futureserver_raised;
CREATE INDEX futureserver_events_finished_ts_idx ON futureserver_events (finished_ts) WHERE finished_ts > 0`); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time there is nothing to add
		db := storagetest.MustOpen(t, b.opts)
		fs, err := db.LoadAll(t.Context(), []api.NID{1, 2})
		if err != nil || len(fs) != 2 || fs[0].State != api.Scheduled || fs[1].State != api.Cancelled {
			t.Fatalf("the futures are %+v, %v", fs, err)
		}
		timers := 0
		last, err := db.Scan(t.Context(), func(*storage.Timer) error { timers++; return nil })
		if err != nil || timers != 1 || last != 2 {
			t.Fatalf("%d timers, the last future is %d, %v", timers, last, err)
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
