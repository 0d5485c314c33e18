package crash_test

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/futures/test/judge"
	"github.com/matrix-org/dendrite/futures/test/rig"
)

var (
	total  = flag.Int("total", 0, "how often servers are killed by TestKills, earlier runs included; 0: not at all")
	limit  = flag.Duration("limit", time.Hour, "how long TestKills may take before it begins no other round")
	record = flag.String("record", "", "file that TestKills adds a line to for each round, and goes on from")
	atOnce = flag.Int("at-once", 2, "how many servers TestKills kills at a time")
)

const killsEach = 100 // of one server, before its crowd is asked

// round is a line of the record.
type round struct {
	Commit   string         `json:"commit"`
	Database string         `json:"database"`
	Seed     uint64         `json:"seed"`
	Kills    int            `json:"kills"`
	Died     map[string]int `json:"died"`
	Took     time.Duration  `json:"took"`
	Report   judge.Report   `json:"report"`
}

// TestKills kills servers on SQLite and PostgreSQL by turns, each under a crowd that speaks all three dialects, until there
// have been as many as wanted. It is the long form of TestCrowd ("make kills").
func TestKills(t *testing.T) {
	if *total == 0 {
		t.Skip("no -total")
	}
	rounds := readRecord(t)
	start, done := time.Now(), 0
	for _, r := range rounds {
		done += r.Kills
	}
	databases := []string{"sqlite"}
	if os.Getenv("POSTGRES_HOST") != "" {
		databases = append(databases, "postgres")
	}
	t.Run("rounds", func(t *testing.T) {
		places := make(chan struct{}, *atOnce)
		for n := len(rounds); done < *total; n++ {
			places <- struct{}{}
			if time.Since(start) > *limit || t.Failed() {
				break
			}
			done += killsEach
			r := round{Commit: commit(), Database: databases[n%len(databases)], Seed: *seed + uint64(n), Kills: killsEach}
			go func() {
				defer func() { <-places }()
				t.Run(fmt.Sprint(n), func(t *testing.T) {
					began := time.Now()
					r.Report, r.Died = crowd(t, rig.New(t, rig.Config{Postgres: r.Database == "postgres"}), r.Kills, r.Seed)
					r.Took = time.Since(began).Round(time.Second)
					appendRecord(t, r)
				})
			}()
		}
		for range *atOnce {
			places <- struct{}{}
		}
	})
	t.Log(summary(readRecord(t)))
}

func commit() string {
	out, err := exec.Command("git", "rev-parse", "--short", "HEAD").Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(out))
}

func readRecord(t *testing.T) (rounds []round) {
	t.Helper()
	f, err := os.Open(*record)
	if os.IsNotExist(err) {
		return nil
	} else if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var r round
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			t.Fatalf("%s: %v", *record, err)
		}
		rounds = append(rounds, r)
	}
	return rounds
}

// appendRecord writes one line with one call, so that two rounds do not mix.
func appendRecord(t *testing.T, r round) {
	t.Helper()
	line, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(*record), 0o755); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(*record, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err == nil {
		_, err = f.Write(append(line, '\n'))
		f.Close()
	}
	if err != nil {
		t.Error(err)
	}
}

// summary adds up the rounds.
func summary(rounds []round) string {
	var sum judge.Report
	var took time.Duration
	kills, died := make(map[string]int), make(map[string]int)
	for _, r := range rounds {
		kills[r.Database] += r.Kills
		took += r.Took
		for step, n := range r.Died {
			died[step] += n
		}
		sum.Add(&r.Report)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%d rounds, %v kills, %s\n", len(rounds), kills, took)
	for _, step := range slices.Sorted(maps.Keys(died)) {
		fmt.Fprintf(&b, "  %-16s %d\n", step, died[step])
	}
	b.WriteString(sum.String())
	return b.String()
}
