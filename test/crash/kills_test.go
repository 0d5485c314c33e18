package crash_test

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/futures/test/judge"
	"github.com/matrix-org/dendrite/futures/test/rig"
)

var (
	many     = flag.Int("many", 0, "how often servers are killed in rounds, by TestKills; 0 leaves it out")
	limit    = flag.Duration("limit", time.Hour, "after which TestKills begins no new round")
	report   = flag.String("report", "", "the file to which TestKills adds a line for each round, and with which it goes on")
	revision = flag.String("revision", "", "of the code, for that file")
)

const killsOfRound = 80

// outcome is a line of the report file.
type outcome struct {
	Revision, Database, Broken string // Broken says why the round has no verdict
	Seed                       uint64
	Kills                      int
	Died                       map[string]int
	Seconds                    float64
	RestartMedian, RestartMax  int64 // ms
	Worst                      int64 // ms after its deadline
	judge.Report
}

// TestKills kills servers on both databases in parallel, thousands of times, in rounds with a verdict each.
func TestKills(t *testing.T) {
	if *many == 0 {
		t.Skip("only with -many")
	}
	path, err := filepath.Abs(*report)
	if err != nil || *report == "" {
		t.Fatal("-report names no file: ", err)
	}
	r := &rounds{path: path, end: time.Now().Add(*limit), all: read(t, path)}
	t.Run("both", func(t *testing.T) {
		for _, database := range []string{"sqlite", "postgres"} {
			t.Run(database, func(t *testing.T) {
				if database == "postgres" && !rig.HasPostgres() {
					t.Skip("there is no PostgreSQL")
				}
				t.Parallel()
				for n := *seed; r.wants(); n++ {
					t.Run(fmt.Sprint(n), func(t *testing.T) { r.play(t, database, n) })
				}
			})
		}
	})
	fmt.Print(summary(r.all))
}

// rounds are all rounds, of this run and of earlier ones.
type rounds struct {
	path string
	end  time.Time
	mu   sync.Mutex
	all  []outcome
}

func (r *rounds) wants() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	kills := 0
	for i := range r.all {
		kills += r.all[i].Kills
	}
	return kills < *many && time.Now().Before(r.end)
}

func (r *rounds) play(t *testing.T, database string, seed uint64) {
	o := outcome{Revision: *revision, Database: database, Seed: seed, Broken: "it ended early"}
	s := rig.New(t, rig.Config{Postgres: database == "postgres"})
	k := newKiller(t, s, seed)
	k.wide = true
	start := time.Now()
	defer func() { // also when the test ends it
		o.Kills, o.Died, o.Seconds = k.total(), k.died, time.Since(start).Seconds()
		if slices.Sort(k.restarts); len(k.restarts) > 0 {
			o.RestartMedian = k.restarts[len(k.restarts)/2].Milliseconds()
			o.RestartMax = k.restarts[len(k.restarts)-1].Milliseconds()
		}
		r.add(t, o)
		if t.Failed() {
			r.keep(t, s, &o)
		}
	}()
	o.Report = k.round(killsOfRound)
	o.Worst, o.Broken = o.Lateness(1), ""
	if !o.Good() {
		t.Errorf("the server broke its promises\n%s", &o.Report)
	}
}

func (r *rounds) add(t *testing.T, o outcome) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all = append(r.all, o)
	line, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	file, err := os.OpenFile(r.path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if _, err := file.Write(append(line, '\n')); err != nil {
		t.Fatal(err)
	}
}

// keep saves the log, and the databases if they are files, beside the report.
func (r *rounds) keep(t *testing.T, s *rig.Server, o *outcome) {
	s.Kill()
	dir := fmt.Sprintf("%s.%s.%d", r.path, o.Database, o.Seed)
	if err := os.CopyFS(dir, os.DirFS(s.Dir)); err != nil {
		t.Log(err)
	}
	t.Logf("what it left is in %s", dir)
}

func read(t *testing.T, path string) (all []outcome) {
	file, err := os.Open(path)
	if os.IsNotExist(err) {
		return nil
	} else if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var o outcome
		if err := json.Unmarshal(lines.Bytes(), &o); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		all = append(all, o)
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	return all
}

// summary is a table of all rounds, a line for each database.
func summary(all []outcome) string {
	var b strings.Builder
	const row = "%-9s %7v %7v %9v %7v %5v %8v %6v %6v %8v %8v %8v %7v %12v\n"
	fmt.Fprintf(&b, row, "database", "rounds", "kills", "accepted", "sent", "lost", "doubled", "early", "stale",
		"revived", "unasked", "respent", "broken", "restart (ms)")
	died := make(map[string]int)
	for _, database := range []string{"sqlite", "postgres"} {
		var sum outcome
		played, broken := 0, 0
		for _, o := range all {
			if o.Database != database {
				continue
			}
			played++
			if o.Broken != "" {
				broken++
			}
			sum.Kills += o.Kills
			sum.Accepted += o.Accepted
			sum.Sent += o.Sent
			sum.Lost += o.Lost
			sum.Doubled += o.Doubled
			sum.Early += o.Early
			sum.Stale += o.Stale
			sum.Revived += o.Revived
			sum.Unasked += o.Unasked
			sum.Respent += o.Respent
			sum.RestartMax = max(sum.RestartMax, o.RestartMax)
			for step, n := range o.Died {
				died[step] += n
			}
		}
		fmt.Fprintf(&b, row, database, played, sum.Kills, sum.Accepted, sum.Sent, sum.Lost, sum.Doubled, sum.Early, sum.Stale,
			sum.Revived, sum.Unasked, sum.Respent, broken, fmt.Sprintf("max %d", sum.RestartMax))
	}
	for _, step := range slices.Sorted(maps.Keys(died)) {
		fmt.Fprintf(&b, "  %-14s %6d\n", step, died[step])
	}
	return b.String()
}
