package outage_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"github.com/matrix-org/dendrite/futures/test/rig"
)

const packaging = "../../setup/packaging"

// hurry is by how much the alerts are quicker to fire than an operator's.
const hurry = 6

// prometheus is a Prometheus server that scrapes a homeserver and has the alert rules that operators get.
type prometheus struct {
	t   testing.TB
	url string
}

// startPrometheus scrapes the server at that address. The rules are those of the package, but for the time for which
// something has to be wrong before an alert fires.
func startPrometheus(t testing.TB, target string) *prometheus {
	t.Helper()
	program, err := exec.LookPath("prometheus")
	if err != nil {
		if os.Getenv("FUTURES_TEST_PROMETHEUS") == "required" {
			t.Fatal("Prometheus is required, but not installed")
		}
		t.Skip("there is no Prometheus; Debian's package prometheus has it")
	}
	rules, err := os.ReadFile(filepath.Join(packaging, "prometheus", "rules.yml"))
	if err != nil {
		t.Fatal(err)
	}
	rules = regexp.MustCompile(`for: \w+`).ReplaceAllFunc(rules, func(text []byte) []byte {
		d, err := time.ParseDuration(strings.TrimPrefix(string(text), "for: "))
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Appendf(nil, "for: %dms", (d / hurry).Milliseconds())
	})
	dir := t.TempDir()
	const config = `
global: {scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}
rule_files: [rules.yml]
scrape_configs: [{job_name: dendrite, static_configs: [{targets: [%q]}]}]
`
	for name, text := range map[string][]byte{"rules.yml": rules, "prometheus.yml": fmt.Appendf(nil, config, target)} {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	address := fmt.Sprintf("127.0.0.1:%d", rig.ReservePort(t))
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "--config.file="+filepath.Join(dir, "prometheus.yml"), "--storage.tsdb.path="+filepath.Join(dir, "data"),
		"--web.listen-address="+address)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGKILL) //nolint:errcheck // it may be gone already
		cmd.Wait()                          //nolint:errcheck // by a signal
		log.Close()
	})
	return &prometheus{t, "http://" + address}
}

// value is one series of a query's result.
type value struct {
	labels gjson.Result
	number string
}

// query asks for an expression's value now.
func (p *prometheus) query(expr string) ([]value, error) {
	res, err := http.PostForm(p.url+"/api/v1/query", url.Values{"query": {expr}})
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	var answer struct {
		Error string
		Data  struct {
			Result []struct {
				Metric json.RawMessage
				Value  []any
			}
		}
	}
	if err := json.NewDecoder(res.Body).Decode(&answer); err != nil || answer.Error != "" {
		return nil, fmt.Errorf("%s %v", answer.Error, err)
	}
	var all []value
	for _, r := range answer.Data.Result {
		number, _ := r.Value[1].(string)
		all = append(all, value{gjson.ParseBytes(r.Metric), number})
	}
	return all, nil
}

// eventually waits until an expression has a result, and returns how long that took.
func (p *prometheus) eventually(expr string, within time.Duration) time.Duration {
	p.t.Helper()
	start := time.Now()
	var last []value
	var err error
	for time.Since(start) < within {
		if last, err = p.query(expr); err == nil && len(last) > 0 {
			return time.Since(start)
		}
		pause(p.t.Context())
	}
	p.t.Fatalf("%s has no result after %s (%v)", expr, within, err)
	return 0
}
