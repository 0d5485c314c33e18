// Package synapse_test measures what delayed events cost here and on a Synapse, by turns on the same machine. It is not part of
// the tests: without -compare it does nothing.
//
//	FUTURES_SYNAPSE_PYTHON=$(test/interop/synapse.sh) go test ./test/bench/synapse -compare -v -timeout 0
//
// With -results FILE it writes what it has measured, and with -plot FILE it draws what stands in -results.
package synapse_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/matrix-org/dendrite/futures/test/rig"
)

var (
	compare = flag.Bool("compare", false, "measure")
	results = flag.String("results", "", "the JSON file of the results")
	plot    = flag.String("plot", "", "the SVG file to draw")
)

func TestMain(m *testing.M) {
	flag.Parse()
	rig.Main(m)
}

// rounds is how often the servers take turns. The least processor time and the median duration count.
const rounds = 5

// A result is one line of the table.
type result struct {
	What    string  `json:"what"`
	Unit    string  `json:"unit"`
	Ours    float64 `json:"ours"`
	Synapse float64 `json:"synapse"`
}

// side is one of the two servers.
type side struct {
	*testing.T
	name     string
	pid      int
	client   func() rig.Client
	register func(name string) *rig.User
	ids      []string // of pending delayed events

	users []*rig.User
	rooms []string // of the storm
	storm *rig.User
	marks int
}

func TestCompare(t *testing.T) {
	if *plot != "" && !*compare {
		draw(t)
		return
	}
	python := os.Getenv("FUTURES_SYNAPSE_PYTHON")
	if !*compare || python == "" {
		t.Skip("a benchmark: needs -compare, and FUTURES_SYNAPSE_PYTHON as test/interop/synapse.sh prints it")
	}
	ours, theirs := start(t, python)
	both := []*side{ours, theirs}
	var all []result
	for _, pending := range []int{1_000, 10_000} {
		for _, s := range both {
			s.schedule(pending)
		}
		cpu := byTurns(both, func(s *side) float64 { return s.heartbeats().Seconds() * 1e6 })
		for i := range cpu {
			slices.Sort(cpu[i])
		}
		all = append(all, result{fmt.Sprintf("processor time of a heartbeat, %d pending", pending), "µs", cpu[0][0], cpu[1][0]})
		t.Logf("%v", all[len(all)-1])
	}
	for _, s := range both {
		s.prepareStorm()
	}
	took := byTurns(both, func(s *side) float64 { return s.runStorm().Seconds() })
	all = append(all, result{fmt.Sprintf("%d events due at once in %d rooms, until the last is in /sync", stormEvents, stormRooms), "s", median(took[0]), median(took[1])})
	report(t, all)
	if *plot != "" {
		draw(t)
	}
}

// start starts both servers, on SQLite and without limits.
func start(t *testing.T, python string) (ours, theirs *side) {
	d := rig.New(t, rig.Config{Set: map[string]any{
		"future_server.delayed_events.max_scheduled":    100_000,
		"future_server.rate_limits.token.per_second":    0,
		"future_server.rate_limits.create.per_second":   0,
		"future_server.delayed_events.open_management":  true,
		"future_server.rate_limits.invalid_token.burst": 1000,
	}})
	s := rig.NewSynapse(t, python)
	ours = &side{T: t, name: "ours", pid: d.PID(), client: d.Client, register: func(name string) *rig.User { return d.Register(t, name) }}
	theirs = &side{T: t, name: "Synapse", pid: s.PID(), client: s.Client, register: func(name string) *rig.User { return s.Register(t, name) }}
	return ours, theirs
}

// byTurns lets the servers take turns, in changing order.
func byTurns(both []*side, measure func(*side) float64) (values [2][]float64) {
	for round := range rounds {
		for i := range both {
			i ^= round % 2
			value := measure(both[i])
			values[i] = append(values[i], value)
			both[i].Logf("%s: %.4g", both[i].name, value)
		}
	}
	return values
}

func median(values []float64) float64 {
	slices.Sort(values)
	return values[len(values)/2]
}

func report(t *testing.T, all []result) {
	t.Helper()
	var text strings.Builder
	for _, r := range all {
		fmt.Fprintf(&text, "%s: %.3g : %.3g %s, %.2f times\n", r.What, r.Ours, r.Synapse, r.Unit, r.Synapse/r.Ours)
	}
	t.Logf("ours : Synapse\n%s", text.String())
	if *results == "" {
		return
	}
	data, err := json.MarshalIndent(all, "", "  ")
	if err == nil {
		err = os.WriteFile(*results, append(data, '\n'), 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// must sends a request that has to succeed.
func (s *side) must(client rig.Client, method, path string, query map[string][]string, body any) rig.Response {
	s.Helper()
	r, err := client.Do(s.Context(), method, path, query, body)
	if err != nil || r.Status != http.StatusOK {
		s.Fatalf("%s: %s %s: %d %s %v", s.name, method, path, r.Status, r.Body, err)
	}
	return r
}
