// Package interop tests our server beside a real Synapse. The two federate over TLS on this machine. Users of both use
// rooms of every version, created by our server and by Synapse.
package interop_test

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/futures/test/rig"
)

func TestMain(m *testing.M) {
	flag.Parse()
	if f := flag.Lookup("test.parallel"); f.Value.String() == f.DefValue {
		flag.Set("test.parallel", "6") //nolint:errcheck // a number. The scenarios wait more than they compute.
	}
	rig.Main(m)
}

// patience is how long a test waits for something that must happen. Only a failing test waits so long.
const patience = time.Minute

var (
	every = []string{"1", "6", "9", "10", "11", "12"} // room versions
	late  = []string{"10", "11", "12"}                // for slow scenarios
	last  = []string{"12"}
)

// host is a homeserver of either kind.
type host interface {
	Register(t testing.TB, name string) *rig.User
}

// side is one of the two servers.
type side struct {
	host
	name   string // "ours" or "synapse"
	server string // its name in Matrix IDs
}

// pair is two federated servers.
type pair struct {
	ours    *rig.Server
	synapse *rig.Synapse
	users   atomic.Int64 // registered so far
}

// python returns a Python that has Synapse. Without one the test is skipped, unless it is required.
func python(t *testing.T) string {
	t.Helper()
	path, err := findPython()
	if err == nil {
		return path
	}
	if os.Getenv("FUTURES_TEST_INTEROP") == "required" {
		t.Fatalf("Synapse is required, but cannot be had: %v", err)
	}
	t.Skipf("there is no Synapse to test with: %v", err)
	return ""
}

// findPython returns FUTURES_SYNAPSE_PYTHON or, if that is not set, the Python that synapse.sh installs.
var findPython = sync.OnceValues(func() (string, error) {
	if path := os.Getenv("FUTURES_SYNAPSE_PYTHON"); path != "" {
		return path, nil
	}
	var complaint strings.Builder
	cmd := exec.Command("./synapse.sh")
	cmd.Stderr = &complaint
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%w: %s", err, strings.TrimSpace(complaint.String()))
	}
	return strings.TrimSpace(string(out)), nil
})

func newPair(t *testing.T) *pair {
	t.Helper()
	return &pair{
		synapse: rig.NewSynapse(t, python(t)),
		ours: rig.New(t, rig.Config{Federation: true, Proxy: true, Set: map[string]any{
			"future_server.delayed_events.cancel_on_others_state": true, // as Synapse does it
		}}),
	}
}

// scene is one scenario's part of a pair: a room version, the side that creates the room, and the other side.
type scene struct {
	*testing.T
	*pair
	version    string // "default" leaves the choice to the server
	home, away side
}

func newScene(t *testing.T, p *pair, version, home string) *scene {
	s := &scene{
		T: t, pair: p, version: version,
		home: side{p.ours, "ours", p.ours.Name},
		away: side{p.synapse, "synapse", p.synapse.Name},
	}
	if home == "synapse" {
		s.home, s.away = s.away, s.home
	}
	return s
}

// scenario is what users do in a room of one version, whose owner is on either side.
type scenario struct {
	name     string
	versions []string
	run      func(*scene)
}

// TestInterop runs all scenarios that need no outage, in parallel on one pair of servers.
func TestInterop(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	var all []scenario
	all = append(all, membershipScenarios()...)
	all = append(all, eventScenarios()...)
	all = append(all, delayedScenarios()...)
	all = append(all, powerScenarios()...)
	all = append(all, linkedRoomScenarios()...)
	for _, sc := range all {
		for _, version := range sc.versions {
			for _, home := range []string{"ours", "synapse"} {
				t.Run(fmt.Sprintf("%s/v%s/%s", sc.name, version, home), func(t *testing.T) {
					t.Parallel()
					sc.run(newScene(t, p, version, home))
				})
			}
		}
	}
}
