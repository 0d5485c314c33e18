package outage_test

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/futures/test/rig"
)

// answeredWithout is how long heartbeats are answered without a database: for two seconds, if the lock was confirmed a
// moment ago. After that it is unknown whether another server has the database, and each heartbeat waits for a commit.
const answeredWithout = time.Second

// TestPostgres keeps everything, including futures, in one PostgreSQL database.
func TestPostgres(t *testing.T) {
	t.Parallel()
	p := startPostgres(t)
	endure(t, rig.New(t, rig.Config{Database: p.connection}), p, answeredWithout)
}

// cluster is a PostgreSQL server for this test.
type cluster struct {
	t          testing.TB
	dir        string
	connection string
}

const script = "../postgres.sh"

func startPostgres(t testing.TB) *cluster {
	t.Helper()
	dir, err := os.MkdirTemp("", "outage") // the user postgres cannot access folders below t.TempDir
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	start := exec.Command(script, "start", dir)
	start.Env = append(os.Environ(), "POSTGRES_OPTIONS=-c fsync=on")
	out, err := start.Output()
	if err != nil {
		skipOrFail(t, err)
	}
	t.Cleanup(func() { exec.Command(script, "stop", dir).Run() }) //nolint:errcheck // it is thrown away
	setting := make(map[string]string)
	for _, assignment := range strings.Fields(string(out)) {
		if key, value, ok := strings.Cut(assignment, "="); ok {
			setting[key] = value
		}
	}
	return &cluster{t: t, dir: dir, connection: fmt.Sprintf("host=%s port=%s user=%s password=%s dbname=%s sslmode=disable",
		setting["POSTGRES_HOST"], setting["PGPORT"], setting["POSTGRES_USER"], setting["POSTGRES_PASSWORD"], setting["POSTGRES_DB"])}
}

func skipOrFail(t testing.TB, err error) {
	t.Helper()
	if os.Getenv("FUTURES_TEST_POSTGRES") == "required" {
		t.Fatalf("PostgreSQL is required: %v", err)
	}
	t.Skipf("there is no PostgreSQL: %v", err)
}

func (p *cluster) ctl(args ...string) {
	p.t.Helper()
	if err := exec.Command(script, append([]string{"ctl", p.dir}, args...)...).Run(); err != nil {
		p.t.Fatalf("pg_ctl %v: %v", args, err)
	}
}

func (p *cluster) restart() { p.ctl("restart", "-m", "fast") }

func (p *cluster) crash() { p.ctl("restart", "-m", "immediate") }

func (p *cluster) stop() func() {
	p.ctl("stop", "-m", "fast")
	return func() { p.ctl("restart") } // starts the stopped server with its previous options
}
