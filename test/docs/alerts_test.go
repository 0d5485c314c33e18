package docs_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const alerts = "setup/packaging/prometheus"

// TestAlerts runs the unit tests of the alert rules, if Prometheus' tool for that is installed.
func TestAlerts(t *testing.T) {
	tool, err := exec.LookPath("promtool")
	if err != nil {
		if os.Getenv("FUTURES_TEST_PROMETHEUS") == "required" {
			t.Fatal("promtool is required, but not installed")
		}
		t.Skip("the alert rules are not tested: there is no promtool; Debian's package prometheus has it")
	}
	cmd := exec.Command(tool, "test", "rules", "rules_test.yml")
	cmd.Dir = filepath.Join(root, alerts)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestAlertsAreNamed: each alert has a row in docs/operations.md and a test, and uses existing metrics.
func TestAlertsAreNamed(t *testing.T) {
	rules, tests, page := read(t, alerts+"/rules.yml"), read(t, alerts+"/rules_test.yml"), read(t, "docs/operations.md")
	for _, m := range regexp.MustCompile(`alert: (\w+)`).FindAllStringSubmatch(rules, -1) {
		if !strings.Contains(page, "`"+m[1]+"`") || !regexp.MustCompile(`alertname: `+m[1]+`\n +exp_alerts`).MatchString(tests) {
			t.Errorf("the alert %s is not described, or its test never sees it fire", m[1])
		}
	}
	code := read(t, "futureserver/internal/metrics.go") + read(t, "setup/metrics.go")
	for _, m := range regexp.MustCompile(`dendrite_futureserver_(\w+?)(?:_bucket|_sum|_count)?\b`).FindAllStringSubmatch(rules, -1) {
		if !strings.Contains(code, `"`+m[1]+`"`) {
			t.Errorf("an alert asks for dendrite_futureserver_%s, which nobody counts", m[1])
		}
	}
}
