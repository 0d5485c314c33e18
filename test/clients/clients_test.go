// Package clients runs today's clients against a whole server: matrix-js-sdk in three releases, which manage delayed
// events in three ways, and mautrix-go. If a client fails, it is a fault of the server, whatever the specification
// says.
package clients

import (
	"flag"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/tidwall/gjson"

	fconfig "github.com/matrix-org/dendrite/futures/setup/config"
	"github.com/matrix-org/dendrite/futures/test/rig"
)

// sdks are the releases of matrix-js-sdk, named as in js/package.json: the newest, which puts the action in the path
// and sends a token; one that does so without a token; and one with a token and the action in the body.
var sdks = []string{"js-sdk-43", "js-sdk-39", "js-sdk-38"}

func TestMain(m *testing.M) {
	// The tests mostly wait, so several fit on each core. With more of them so many clients would start at once that
	// the first miss their heartbeats.
	if err := flag.Set("test.parallel", "6"); err != nil {
		panic(err)
	}
	rig.Main(m)
}

// newServer starts a server with the default rate limits, because clients must work with them. All clients of a test
// have one address, so there is no limit for their deliberate errors.
func newServer(t *testing.T, policies map[string]any) *rig.Server {
	t.Helper()
	var standard fconfig.FutureServer
	standard.Defaults()
	set := map[string]any{}
	maps.Copy(set, policies)
	for name, limit := range map[string]fconfig.RateLimit{
		"create": standard.RateLimits.Create,
		"token":  standard.RateLimits.Token,
	} {
		set["future_server.rate_limits."+name] = map[string]any{"per_second": limit.PerSecond, "burst": limit.Burst}
	}
	return rig.New(t, rig.Config{Set: set})
}

// TestCalls makes each client use all its functions for delayed events. The programs check the results themselves.
func TestCalls(t *testing.T) {
	t.Parallel()
	s := newServer(t, nil)
	for _, sdk := range sdks {
		t.Run(sdk, func(t *testing.T) {
			requireNode(t)
			t.Parallel()
			judgeCalls(t, s, script(t, "calls.mjs"), sdk)
		})
	}
	t.Run("mautrix-go", func(t *testing.T) {
		t.Parallel()
		tracked(t, "mautrix/*")
		program := filepath.Join(t.TempDir(), "mautrix")
		build := exec.Command("go", "build", "-o", program, ".")
		build.Dir = "mautrix"
		build.Env = append(os.Environ(), "GOWORK=off") // a module of its own, without our patched base
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("building it: %v\n%s", err, out)
		}
		judgeCalls(t, s, exec.Command(program), "mautrix-go")
	})
}

// judgeCalls runs a program that prints {"passed": …} or {"failed": …, "error": …} for each of its checks.
func judgeCalls(t *testing.T, s *rig.Server, program *exec.Cmd, name string) {
	t.Helper()
	u := s.Register(t, name)
	c := start(t, program, name, u, u.CreateRoom(nil))
	code := c.finish()
	lines, _ := c.told()
	for _, line := range lines {
		if failed := line.Get("failed"); failed.Exists() {
			t.Errorf("%s: %s", failed, line.Get("error"))
		}
	}
	passed := slices.DeleteFunc(lines, func(line gjson.Result) bool { return !line.Get("passed").Exists() })
	if code != 0 || len(passed) < 5 {
		t.Errorf("the program ended with %d after %d passed checks", code, len(passed))
	}
}
