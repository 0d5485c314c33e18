// Command mutants shows that the tests of the invariants can fail: it breaks one line of the code at a time, without
// changing the files, and runs the tests that must notice. It fails if any mutant survives.
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
	old, new  string // old must be in the file exactly once
	pkg, run  string // the tests that must fail
}

const (
	core     = "futureserver/internal/"
	corePk   = "./futureserver/internal"
	ledger   = core + "ledger/"
	ledgerPk = "./futureserver/internal/ledger"
)

var mutants = []mutant{
	{1, "no-rule", ledger + "settle.go",
		"if g == nil || !l.isOver(g) {", "if g == nil || !l.isOver(g) || g.over == g.over {",
		ledgerPk, "TestHistories"},
	{1, "arrival-outlives-its-group", ledger + "settle.go",
		"\t\t\tl.turnAway(l.arrivals[r.nid], api.ErrUnknownGroup, c)\n", "",
		ledgerPk, "TestHistories"},
	{1, "winner-is-not-seen", ledger + "settle.go",
		"if r.flags&sending != 0 {\n\t\t\treturn true\n\t\t}", "",
		ledgerPk, "TestHistories"},
	{1, "taken-back-leaves-a-row", ledger + "settle.go",
		"\t\tc.Undos = append(c.Undos, a.Future.NID)\n", "",
		ledgerPk, "TestHistories"},
	{3, "what-is-not-there-counts", ledger + "settle.go",
		"if r.timeout != 0 && r.flags&creating == 0 {", "if r.timeout != 0 {",
		corePk, "TestNoOrphanedActionFuture"},
	{1, "restart-without-the-rule", ledger + "restore.go",
		"\t\tl.settle(g, now, c)\n", "\t\t_ = g\n",
		ledgerPk, "TestRestoreSettles"},
	{1, "stale-look", ledger + "create.go",
		"case !look.taken || look.count != l.looks[n.shard()]:", "case !look.taken:",
		ledgerPk, "TestHistories|TestALookThatIsOutOfDate"},
	{1, "finished-group-reopens", ledger + "create.go",
		"case look.Used:", "case false:",
		ledgerPk, "TestHistories"},
	{1, "ending-group-reopens", ledger + "create.go",
		"case f.Timeout == 0, l.closing[n] > 0,", "case f.Timeout == 0,",
		corePk, "TestAGroupThatIsJustEndingIsClosed"},
	{3, "fires-before-all-listen", core + "turn.go",
		"for s.begun && s.inFlight", "for s.inFlight",
		corePk, "TestNothingIsSentBeforeReady"},
	{3, "in-hand-stays-in-hand", "setup/guard/streams.go",
		"if c.NumAckPending > 0 {", "if false {",
		"./setup/guard", "TestConsumer"},
	{3, "ahead-stays-ahead", "setup/guard/streams.go",
		"ahead > last {", "ahead > last+1000 {",
		"./setup/guard", "TestConsumerAhead"},
	{1, "claim-without-compare", "futureserver/storage/sqlite3/writer.go",
		"WHERE nid = ?1 AND (state = 1", "WHERE nid = ?1 AND (state > 0",
		"./test/storagetest", "SQLite"},
	{1, "two-servers-write", "futureserver/storage/sqlite3/writer.go",
		"if err == nil && epoch != w.epoch {", "if err == nil && epoch < w.epoch {",
		"./futureserver/storage/sqlite3", "TestLockFileIsRemoved"},
	{1, "sending-group-reopens", ledger + "groups.go",
		"if r.flags&(grouped|managed) == 0 && r.secret", "if r.flags&(grouped|managed|sending) == 0 && r.secret",
		corePk, "TestAGroupThatHasFiredStaysClosed"},
	{1, "repeat-makes-another", ledger + "create.go",
		"if u, ok = l.unsettled[secret]; ok {", "if u, ok = l.unsettled[secret]; false {",
		corePk, "TestTransactionsAtEachMoment"},
	{1, "rebuilt-after-restart", core + "recover.go",
		"job{Ref: ref, claimed: true}", "job{Ref: ref, claimed: false}",
		corePk, "TestSimulation"},
	{2, "deadline-rounded-down", ledger + "create.go",
		"r.deadline = now.Ceil + int64(r.timeout)", "r.deadline = now.Ceil - 1 + int64(r.timeout)",
		corePk, "TestFiresExactlyAtItsDeadline"},
	{2, "recovered-as-due", ledger + "restore.go",
		"f.deadline = min(stored, now.Ceil+int64(f.timeout))", "f.deadline = min(stored, now.Ceil)",
		ledgerPk, "TestHistories"},
	{3, "withdrawn-is-answered", core + "create.go",
		"s.ledger.Abandon(a, err, &s.batch().Changes)\n\treturn a.Err", "s.ledger.Abandon(a, err, &s.batch().Changes)\n\treturn nil",
		corePk, "TestAWithdrawnFutureIsNotAnswered"},
	{3, "unconfirmed-is-done", core + "fire.go",
		"case api.Confirmed:", "case api.Confirmed, api.Unknown:",
		corePk, "TestStrandedEvent|TestSimulation"},
	{3, "claimed-is-forgotten", core + "recover.go",
		"s.enqueue(room, job{Ref: ref, claimed: true})", "_, _ = ref, room",
		corePk, "TestSimulation"},
	{3, "built-on-what-never-comes", core + "fire.go",
		"n < len(jobs) && s.wanted(&jobs[n]); n++", "n < len(jobs) && (s.wanted(&jobs[n]) || n > 0); n++",
		corePk, "TestOneOfManyGetsAway"},
	{3, "before-what-it-was-built-on", "roomserver/submit.go",
		"cmp.Compare(a.Event.Depth(), b.Event.Depth())", "cmp.Compare(b.Event.Depth(), a.Event.Depth())",
		"./roomserver", "TestChain"},
	{4, "built-before-its-refresh", ledger + "fire.go",
		"case !asked && r.deadline != deadline:", "case false:",
		ledgerPk, "TestHistories"},
	{4, "refresh-not-stored", ledger + "act.go",
		"if deadline > r.high() || r.flags&raising != 0 || !sure {", "if false {",
		ledgerPk, "TestHistories"},
	{4, "refresh-on-its-way-counts", ledger + "act.go",
		"if deadline > r.high() || r.flags&raising != 0 || !sure {", "if deadline > r.high() || !sure {",
		ledgerPk, "TestARefreshOnItsWay"},
	{4, "high-water-not-raised", ledger + "act.go",
		"storage.Extend{Deadline: max(deadline+slack, r.high())}", "storage.Extend{Deadline: r.deadline - 1000}",
		corePk, "TestDeadlinesAfterACrash"},
	{4, "unsure-and-answered", core + "confirm.go",
		"return now.Now-s.confirmed <= sureFor.Milliseconds()", "return true",
		corePk, "TestHeartbeatsWithoutTheLock"},
	{4, "step-makes-it-late", ledger + "act.go",
		"\tl.Rewrite()\n", "",
		corePk, "TestDeadlinesAfterAStepOfTheClock"},
	{3, "grace-without-end", ledger + "restore.go",
		"t.Deadline != t.Graced", "t.Deadline != 0",
		corePk, "TestRestartGraceIsGivenOnce"},
	{5, "newer-state-unheard", core + "act.go",
		"bases[i].UserID, current[i]) {", "bases[i].UserID, current[i]) && i < 0 {",
		corePk, "TestNewerState"},
	{5, "newer-state-unseen-at-build", "roomserver/build.go",
		"return nil, api.ErrNewerState", "_ = api.ErrNewerState",
		"./roomserver", "TestBuild"},
	{5, "newer-state-during-creation", ledger + "act.go",
		"l.arrivals[r.nid].Recheck = true", "l.arrivals[r.nid].Recheck = false",
		corePk, "TestNewerStateDuringCreation"},
	{6, "own-state-kills", core + "act.go",
		"bases[i].UserID, current[i]) {", "bases[i].UserID, current[i]) || i >= 0 {",
		corePk, "TestNewerState"},
	{7, "token-outlives-future", ledger + "fire.go",
		"\t\tl.removeTokens(ref.Slot, r)\n", "",
		corePk, "TestTokensAreSpentByTheClaim"},
	{7, "ended-token-lives", ledger + "settle.go",
		"\t\tl.removeTokens(slot, r)\n", "",
		corePk, "TestEndOfAccountsAndRooms"},
	{8, "no-limit-per-user", ledger + "create.go",
		"if n < limit {", "if n >= 0 {",
		corePk, "TestLimit"},
	{8, "no-limit-of-bytes", ledger + "create.go",
		"} else if c.bytes+size > l.cfg.MaxBytes {", "} else if false {",
		corePk, "TestABatchIsBoundedInBytes"},
	{8, "no-limit-of-rooms", core + "turn.go",
		"s.inFlight < s.cfg.RoomsInFlight && ", "",
		corePk, "TestStorm"},
	{8, "two-in-one-room", core + "turn.go",
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

// try runs the tests with the broken line and reports whether they failed.
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
	if m.pkg == corePk { // the shortest failing history does not matter
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
