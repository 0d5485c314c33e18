// Command mutants shows that the tests of the invariants can fail: it breaks one line of the code at a time,
// without touching the tree, and runs the tests that ought to notice. It fails if any mutant survives.
//
//	go run ./test/mutants [name...]
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// mutant is one broken line.
type mutant struct {
	invariant int // of docs/architecture.md
	name      string
	file      string
	old, new  string // old stands in the file exactly once
	pkg, run  string // the tests that must fail
}

const (
	core   = "futureserver/internal/"
	corePk = "./futureserver/internal"
)

var mutants = []mutant{
	{1, "group-stays-open", core + "fire.go",
		"for _, slot := range s.table.siblings(j.slot, r) {\n\t\tsibling", "for _, slot := range s.table.siblings(j.slot, r)[:0] {\n\t\tsibling",
		corePk, "TestTwoSendTokensAtOnce|TestSimulation"},
	{1, "claim-without-compare", "futureserver/storage/sqlite3/writer.go",
		"WHERE nid = ?1 AND (state = 1", "WHERE nid = ?1 AND (state > 0",
		"./test/storagetest", "SQLite"},
	{1, "finished-group-reopens", core + "create.go",
		"if g == nil && (used || action)", "if g == nil && action",
		corePk, "TestAGroupThatHasFiredStaysClosed"},
	{1, "ending-group-reopens", core + "transactions.go",
		"if s.unwritten == 0 {", "if true {",
		corePk, "TestAGroupThatIsJustEndingIsClosed"},
	{1, "sending-group-reopens", core + "groups.go",
		"r.flags&(grouped|managed) == 0", "r.flags&(grouped|managed|sending) == 0",
		corePk, "TestAGroupThatHasFiredStaysClosed"},
	{1, "repeat-makes-another", core + "transactions.go",
		"if p, ok = s.passing[secret]; ok {", "if p, ok = s.passing[secret]; false {",
		corePk, "TestTransactionsAtEachMoment"},
	{1, "rebuilt-after-restart", core + "recover.go",
		"nid: r.nid, claimed: true}", "nid: r.nid, claimed: false}",
		corePk, "TestSimulation"},
	{2, "deadline-rounded-down", core + "create.go",
		"now := s.clock.ceil()\n\tf.Created", "now := s.clock.now() - 1\n\tf.Created",
		corePk, "TestFiresExactlyAtItsDeadline"},
	{2, "recovered-as-due", core + "recover.go",
		"f.deadline = min(t.Deadline, r.now+int64(f.timeout))", "f.deadline = min(t.Deadline, r.now)",
		corePk, "TestDeadlinesAfterACrash|TestSimulation"},
	{3, "unproved-is-done", core + "fire.go",
		"case api.Proved:", "case api.Proved, api.Unknown:",
		corePk, "TestStrandedEvent|TestSimulation"},
	{3, "claimed-is-forgotten", core + "recover.go",
		"s.enqueue(s.table.roomOf(r), job{slot: slot, nid: r.nid, claimed: true})", "",
		corePk, "TestSimulation"},
	{3, "built-on-what-never-comes", core + "fire.go",
		"s.decide(b, &jobs[n], now); n++", "(s.decide(b, &jobs[n], now) || n > 0); n++",
		corePk, "TestOneOfManyGetsAway"},
	{3, "before-what-it-was-built-on", "roomserver/submit.go",
		"cmp.Compare(a.Event.Depth(), b.Event.Depth())", "cmp.Compare(b.Event.Depth(), a.Event.Depth())",
		"./roomserver", "TestChain"},
	{4, "built-before-its-refresh", core + "fire.go",
		"r.deadline != j.at", "r.deadline > s.clock.now()",
		corePk, "TestRefreshWhileItIsBuilt"},
	{4, "refresh-not-stored", core + "act.go",
		"if deadline <= r.high() {", "if true {",
		corePk, "TestDeadlinesAfterACrash|TestSimulation"},
	{4, "high-water-not-raised", core + "act.go",
		"s.extend(b, slot, r, deadline+slack)", "s.extend(b, slot, r, r.deadline)",
		corePk, "TestDeadlinesAfterACrash|TestSimulation"},
	{5, "newer-state-unheard", core + "act.go",
		"bases[i].UserID, current[i]) {", "bases[i].UserID, current[i]) && i < 0 {",
		corePk, "TestNewerState"},
	{5, "newer-state-unseen-at-build", "roomserver/build.go",
		"return nil, api.ErrNewerState", "_ = api.ErrNewerState",
		"./roomserver", "TestBuild"},
	{5, "newer-state-during-creation", core + "act.go",
		"r.flags |= lookAgain", "r.flags |= 0",
		corePk, "TestNewerStateDuringCreation"},
	{6, "own-state-kills", core + "act.go",
		"bases[i].UserID, current[i]) {", "bases[i].UserID, current[i]) || i >= 0 {",
		corePk, "TestNewerState"},
	{7, "token-outlives-future", core + "fire.go",
		"s.table.removeTokens(j.slot, r)\n", "",
		corePk, "TestTokensAreSpentByTheClaim"},
	{7, "ended-token-lives", core + "act.go",
		"s.table.removeTokens(slot, r)\n", "",
		corePk, "TestEndOfAccountsAndRooms"},
	{8, "no-limit-per-user", core + "create.go",
		"if n < most {", "if n >= 0 {",
		corePk, "TestLimit"},
	{8, "no-limit-of-rooms", core + "run.go",
		"s.inFlight < s.cfg.RoomsInFlight && ", "",
		corePk, "TestStorm"},
	{8, "two-in-one-room", core + "run.go",
		"case rm.busy || len(rm.queue) == 0:", "case len(rm.queue) == 0:",
		corePk, "TestStorm"},
}

func main() {
	survived := 0
	for _, m := range mutants {
		if len(os.Args) > 1 && !slices.Contains(os.Args[1:], m.name) {
			continue
		}
		started := time.Now()
		verdict, err := m.try()
		if err != nil {
			fmt.Fprintf(os.Stderr, "%s: %v\n", m.name, err)
			os.Exit(2)
		}
		if verdict != "caught" {
			survived++
		}
		fmt.Printf("invariant %d  %-28s %-40s %s (%.0f s)\n", m.invariant, m.name, m.file, verdict, time.Since(started).Seconds())
	}
	if survived > 0 {
		fmt.Printf("%d mutants survived\n", survived)
		os.Exit(1)
	}
}

// try runs the tests with the one line broken and says whether they noticed.
func (m mutant) try() (verdict string, err error) {
	source, err := os.ReadFile(m.file)
	if err != nil {
		return "", err
	}
	if n := strings.Count(string(source), m.old); n != 1 {
		return "", fmt.Errorf("%s holds the line to break %d times", m.file, n)
	}
	dir, err := os.MkdirTemp("", "mutant")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	broken := filepath.Join(dir, "mutant.go")
	if err = os.WriteFile(broken, []byte(strings.Replace(string(source), m.old, m.new, 1)), 0o600); err != nil {
		return "", err
	}
	path, err := filepath.Abs(m.file)
	if err != nil {
		return "", err
	}
	overlay, err := json.Marshal(map[string]map[string]string{"Replace": {path: broken}})
	if err != nil {
		return "", err
	}
	file := filepath.Join(dir, "overlay.json")
	if err = os.WriteFile(file, overlay, 0o600); err != nil {
		return "", err
	}
	build := exec.Command("go", "vet", "-overlay", file, "./"+filepath.Dir(m.file))
	if out, err := build.CombinedOutput(); err != nil && !strings.Contains(string(out), "unreachable code") && !strings.Contains(string(out), "redundant") {
		return "", fmt.Errorf("the mutant does not compile: %s", out)
	}
	args := []string{"test", "-overlay", file, "-count=1", "-timeout=5m", "-run", m.run, m.pkg}
	if m.pkg == corePk { // what matters is that it fails, not how little it takes
		args = append(args, "-rapid.shrinktime=1ms", "-rapid.nofailfile")
	}
	out, err := exec.Command("go", args...).CombinedOutput()
	switch {
	case err == nil && strings.Contains(string(out), "no tests to run"):
		return "", fmt.Errorf("no test matches %s", m.run)
	case err == nil:
		return "SURVIVED", nil
	}
	return "caught", nil
}
