package sqlite3

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matrix-org/dendrite/internal/sqlutil"
	"github.com/matrix-org/dendrite/setup/config"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
	"github.com/matrix-org/dendrite/futures/futureserver/storage"
)

// test/storagetest tests what both databases have in common. These tests are about files.

func optionsFor(path string) *config.DatabaseOptions {
	return &config.DatabaseOptions{ConnectionString: config.DataSource((&url.URL{Scheme: "file", Path: path}).String())}
}

func future() *api.Future {
	return &api.Future{NID: 1, Secret: api.NewSecret(), UserID: "@alice:example.org", Content: []byte("{}")}
}

// In a synctest bubble, time advances only when every goroutine is blocked, and every goroutine must end before the bubble
// does. The storage must work under these rules.
func TestBubble(t *testing.T) {
	path := filepath.Join(t.TempDir(), "futureserver.db")
	synctest.Test(t, func(t *testing.T) {
		for run := range 2 {
			db, err := Open(t.Context(), optionsFor(path))
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 24*time.Hour)
			f := future()
			f.NID += api.NID(run)
			if _, err = db.Commit(ctx, &storage.Batch{Inserts: []*api.Future{f}}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Hour)
			n := 0
			highest, err := db.Scan(ctx, func(*storage.Timer) error { n++; return nil })
			if err != nil || n != run+1 || highest != f.NID {
				t.Errorf("run %d: %d timers, the highest %d, %v", run, n, highest, err)
			}
			cancel()
			if err = db.Close(); err != nil {
				t.Error(err)
			}
		}
	})
}

func TestPragmas(t *testing.T) {
	path := filepath.Join(t.TempDir(), "futureserver.db")
	lock, err := acquire(path)
	if err != nil {
		t.Fatal(err)
	}
	w, err := newWriter(t.Context(), path, lock)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	for pragma, want := range map[string]string{"journal_mode": "wal", "synchronous": "2", "busy_timeout": "10000",
		"wal_autocheckpoint": "10000", "temp_store": "2", "journal_size_limit": "8388608",
		"auto_vacuum": "2"} {
		var got string
		if err = w.db.QueryRow("PRAGMA " + pragma).Scan(&got); err != nil || got != want {
			t.Errorf("%s is %q, %v; want %q", pragma, got, err, want)
		}
	}
}

// A file with the column and the indexes of an earlier version can be opened, and loses the old indexes.
func TestOldIndexes(t *testing.T) {
	opts := optionsFor(filepath.Join(t.TempDir(), "futureserver.db"))
	for run := range 2 {
		db, err := Open(t.Context(), opts)
		if err != nil {
			t.Fatal(err)
		}
		b := storage.Batch{Inserts: []*api.Future{future()}, Ends: []storage.End{{NID: 1, State: api.Cancelled, At: 1}}}
		b.Inserts[0].NID += api.NID(run)
		b.Inserts[0].Secret = api.Secret{1}
		r, err := db.Commit(t.Context(), &b)
		if err != nil || r.Duplicate[0] != (run == 1) {
			t.Errorf("run %d: %+v, %v", run, r, err)
		}
		if err = db.Close(); err != nil {
			t.Fatal(err)
		}
		if run == 0 {
			change(t, opts, `
				ALTER TABLE futureserver_events ADD COLUMN txn_key BLOB;
				CREATE UNIQUE INDEX futureserver_events_user_txn_idx ON futureserver_events (user_id, txn_key);
				DROP INDEX futureserver_events_secret_idx`)
		}
	}
	change(t, opts, "CREATE INDEX futureserver_events_user_txn_idx ON futureserver_events (nid)") // the name is free
}

func change(t *testing.T, opts *config.DatabaseOptions, statements string) {
	t.Helper()
	db, err := sql.Open(sqlutil.SQLITE_DRIVER_NAME, string(opts.ConnectionString))
	if err == nil {
		_, err = db.Exec(statements)
		err = errors.Join(err, db.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestKeepingIsCheap checks that the time to trim a user does not depend on how many finished events other users have.
func TestKeepingIsCheap(t *testing.T) {
	const each, few, many, factor = 10, 400, 40_000, 20 // a scan of all events would take about a hundred times as long
	beside := func(others int) time.Duration {
		db, err := Open(t.Context(), optionsFor(filepath.Join(t.TempDir(), "futureserver.db")))
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		var b storage.Batch
		for i := range others {
			f := future()
			f.NID, f.Secret, f.UserID, f.Policy = api.NID(i+1), api.NewSecret(), fmt.Sprintf("@%d:test", i/each), api.Managed
			b.Inserts = append(b.Inserts, f)
			b.Ends = append(b.Ends, storage.End{NID: f.NID, State: api.Cancelled, At: 1})
		}
		if _, err := db.Commit(t.Context(), &b); err != nil {
			t.Fatal(err)
		}
		best := time.Hour
		for range 10 {
			start := time.Now()
			if _, err := db.Commit(t.Context(), &storage.Batch{KeepPerUser: each, Trims: []api.NID{1}}); err != nil {
				t.Fatal(err)
			}
			best = min(best, time.Since(start))
		}
		return best
	}
	if cheap, dear := beside(few), beside(many); dear > factor*cheap {
		t.Errorf("one batch takes %s with %d finished events and %s with %d", cheap, few, dear, many)
	}
}

func TestOddPath(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a ?b#c%20d&e.db")
	db, err := Open(t.Context(), optionsFor(path))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err = os.Stat(path); err != nil {
		t.Error(err)
	}
}

func TestRefusedPaths(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "nowhere")
	for source, want := range map[config.DataSource]string{
		config.DataSource("file:" + dir + "/futureserver.db"): "the folder " + dir + " of the futures database does not exist",
		"file::memory:": "not a file",
		"file:":         "invalid file uri",
	} {
		db, err := Open(t.Context(), &config.DatabaseOptions{ConnectionString: source})
		if err == nil {
			db.Close()
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want: %s", source, err, want)
		}
	}
}

// A file that is not a database must not be changed and must not stay locked.
func TestNotADatabase(t *testing.T) {
	path := filepath.Join(t.TempDir(), "futureserver.db")
	text := strings.Repeat("This is somebody's diary. ", 100)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if db, err := Open(t.Context(), optionsFor(path)); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("Open returned %v, %v", db, err)
	}
	if got, err := os.ReadFile(path); err != nil || string(got) != text {
		t.Errorf("the file holds %.40q, %v", got, err)
	}
	lock, err := acquire(path)
	if err != nil {
		t.Fatal(err)
	}
	lock.Unlock()
}

// If the lock file is removed, a second server can open the database. The first one can then no longer write, and Confirm
// tells it so.
func TestLockFileIsRemoved(t *testing.T) {
	path := filepath.Join(t.TempDir(), "futures.db")
	first, err := Open(t.Context(), optionsFor(path))
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	if err = os.Remove(path + ".lock"); err != nil {
		t.Fatal(err)
	}
	if err = first.Confirm(t.Context()); err != nil {
		t.Errorf("Confirm without a second server: %v", err)
	}
	second, err := Open(t.Context(), optionsFor(path))
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	if err = first.Confirm(t.Context()); !errors.Is(err, storage.ErrLockLost) {
		t.Errorf("Confirm on the first server: %v", err)
	}
	if _, err = first.Commit(t.Context(), &storage.Batch{ForgetBefore: 1}); !errors.Is(err, storage.ErrLockLost) {
		t.Errorf("a commit on the first server: %v", err)
	}
	if _, err = second.Commit(t.Context(), &storage.Batch{ForgetBefore: 1}); err != nil {
		t.Error(err)
	}
}

// A file of the previous version is upgraded and keeps its futures.
func TestOlderTables(t *testing.T) {
	path := filepath.Join(t.TempDir(), "futures.db")
	db, err := Open(t.Context(), optionsFor(path))
	if err != nil {
		t.Fatal(err)
	}
	f := &api.Future{NID: 1, UserID: "@a:test", RoomID: "!a:test", Type: "m.test", Content: []byte(`{}`), GroupID: "g", Timeout: time.Second, Deadline: 7}
	if _, err = db.Commit(t.Context(), &storage.Batch{Inserts: []*api.Future{f}}); err != nil {
		t.Fatal(err)
	}
	db.Close()
	raw, err := sql.Open("sqlite3", path)
	if err != nil {
		t.Fatal(err)
	}
	_, err = raw.Exec(`
DROP INDEX futureserver_events_finished_age_idx;
ALTER TABLE futureserver_events DROP COLUMN finished_age;
ALTER TABLE futureserver_timers DROP COLUMN grace_ts;
DROP TABLE futureserver_owner;`)
	if err = errors.Join(err, raw.Close()); err != nil {
		t.Fatal(err)
	}
	if db, err = Open(t.Context(), optionsFor(path)); err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	n := 0
	if _, err = db.Scan(t.Context(), func(timer *storage.Timer) error { n += int(timer.Deadline); return nil }); err != nil || n != 7 {
		t.Errorf("%d, %v", n, err)
	}
}

// After a flood the log's file is as small as before.
func TestLogShrinks(t *testing.T) {
	path := filepath.Join(t.TempDir(), "futureserver.db")
	db, err := Open(t.Context(), optionsFor(path))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	size := func() int64 {
		info, err := os.Stat(path + "-wal")
		if err != nil {
			t.Fatal(err)
		}
		return info.Size()
	}
	const atOnce, rounds, mb = 100, 9, 1 << 20
	content := []byte(`"` + strings.Repeat("x", 60_000) + `"`)
	most := int64(0)
	for round := range rounds {
		var b storage.Batch
		for i := range atOnce {
			f := future()
			f.NID, f.Secret, f.Content = api.NID(round*atOnce+i+1), api.NewSecret(), content
			b.Inserts = append(b.Inserts, f)
		}
		if _, err := db.Commit(t.Context(), &b); err != nil {
			t.Fatal(err)
		}
		most = max(most, size())
	}
	if most < 30*mb || size() > 25*mb { // it has been cut, and has grown a little since
		t.Errorf("the log has %d bytes, of %d at the most", size(), most)
	}
}
