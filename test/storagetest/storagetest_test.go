package storagetest

import (
	"bufio"
	"context"
	"database/sql"
	"io"
	"os"
	"os/exec"
	"testing"

	"github.com/matrix-org/dendrite/internal/sqlutil"
	"github.com/matrix-org/dendrite/setup/config"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
	"github.com/matrix-org/dendrite/futures/futureserver/storage"
)

// holdEnv tells a child process which database to open and hold until it is killed.
const holdEnv = "STORAGETEST_HOLD"

func TestMain(m *testing.M) {
	if source := os.Getenv(holdEnv); source != "" {
		hold(config.DataSource(source))
	}
	os.Exit(m.Run())
}

func TestSQLite(t *testing.T) { t.Parallel(); Run(t, SQLite) }

func TestPostgres(t *testing.T) {
	t.Parallel()
	Postgres(t)
	Run(t, Postgres)
}

func TestKillSQLite(t *testing.T)   { t.Parallel(); kill(t, SQLite(t)) }
func TestKillPostgres(t *testing.T) { t.Parallel(); kill(t, Postgres(t)) }

func TestRaisedSQLite(t *testing.T) {
	t.Parallel()
	raisedAlone(t, SQLite(t), sqlutil.SQLITE_DRIVER_NAME)
}
func TestRaisedPostgres(t *testing.T) { t.Parallel(); raisedAlone(t, Postgres(t), "postgres") }

// raisedAlone: a raised deadline has a row of its own as long as its future is scheduled, and none before its first
// heartbeat. Otherwise unused rows would accumulate.
func raisedAlone(t *testing.T, opts *config.DatabaseOptions, driver string) {
	db := MustOpen(t, opts)
	raw, err := sql.Open(driver, string(opts.ConnectionString))
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	futures := samples(1, 2, 3, 4, 5, 6)
	commit(t, db, &storage.Batch{Inserts: futures})
	all := func(exact bool) (e []storage.Extend) {
		for _, f := range futures {
			e = append(e, storage.Extend{NID: f.NID, Deadline: f.Deadline + 1, Exact: exact})
		}
		return e
	}
	for _, step := range []struct {
		batch storage.Batch
		want  int
	}{
		{storage.Batch{}, 0},
		{storage.Batch{Extends: all(false)}, 6},
		{storage.Batch{Claims: []storage.Claim{{NID: 1, Event: event("$1"), Discards: []api.NID{2}}}}, 4},
		{storage.Batch{Ends: []storage.End{{NID: 3, State: api.Cancelled, At: 1}}}, 3},
		{storage.Batch{Extends: all(false)}, 3},
		{storage.Batch{Extends: all(true)}, 0},
	} {
		commit(t, db, &step.batch)
		var got int
		if err := raw.QueryRow("SELECT COUNT(*) FROM futureserver_raised").Scan(&got); err != nil || got != step.want {
			t.Errorf("after %+v there are %d rows, %v; want %d", step.batch, got, err, step.want)
		}
	}
}

// kill kills a server in the middle: what it has committed is there, and its lock is not.
func kill(t *testing.T, opts *config.DatabaseOptions) {
	for range 3 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), holdEnv+"="+string(opts.ConnectionString))
		cmd.Stderr = os.Stderr
		stdin, err := cmd.StdinPipe() // open until the child is dead
		if err != nil {
			t.Fatal(err)
		}
		defer stdin.Close()
		stdout, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err = cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if line, err := bufio.NewReader(stdout).ReadString('\n'); line != "committed\n" {
			t.Fatalf("the child said %q, %v", line, err)
		}
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		db := MustOpen(t, opts)
		if load(t, db, 1) == nil {
			t.Error("what was committed is gone")
		}
		db.Close()
	}
}

func hold(source config.DataSource) {
	db, err := Open(&config.DatabaseOptions{ConnectionString: source})
	if err == nil {
		_, err = db.Commit(context.Background(), &storage.Batch{Inserts: samples(1)})
	}
	if err != nil {
		println(err.Error())
		os.Exit(1)
	}
	os.Stdout.WriteString("committed\n")
	io.Copy(io.Discard, os.Stdin)
	os.Exit(1)
}
