package outage_test

import (
	"context"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"github.com/matrix-org/dendrite/futures/test/rig"
)

// noticed is how soon what Prometheus shows must be as we have made it, on a machine that is busy with other tests.
const noticed = 90 * time.Second

// TestMonitoring looks at a homeserver as an operator does, by Prometheus and the dashboard: all queries have data, a planned
// restart alerts of nothing, and when PostgreSQL or NATS is away somebody is called.
func TestMonitoring(t *testing.T) {
	t.Parallel()
	postgres, nats := startPostgres(t), startNATS(t)
	s := rig.New(t, rig.Config{Database: postgres.connection, Set: map[string]any{
		"global.jetstream.addresses":    []string{"nats://" + nats.addr},
		"global.metrics.enabled":        true,
		"global.well_known_client_name": "https://localhost",
		"future_server.matrix_rtc.livekit": []any{
			map[string]any{"url": "wss://rtc.example.com", "api_url": "http://127.0.0.1:9", "api_key": "K", "api_secret": "a secret of the SFU"},
		},
	}})
	p := startPrometheus(t, strings.TrimPrefix(s.URL, "http://"))
	alice := s.Register(t, "alice")
	newBeat(t, s, alice, alice.CreateRoom(nil))
	keepScheduling(t, alice)
	p.eventually(`up{job="dendrite"} == 1`, noticed)

	t.Log("the dashboard")
	checkDashboard(t, p)
	t.Log("a planned restart")
	restartQuietly(t, p, s)
	keep(t, s)
	for _, outage := range []struct {
		alert string
		of    support
	}{{"FutureserverDatabaseDown", postgres}, {"FutureserverNATSDown", nats}} {
		resume := outage.of.stop()
		after := p.eventually(`ALERTS{alertstate="firing", alertname="`+outage.alert+`"}`, noticed)
		p.eventually(`ALERTS{alertname="FutureserverUnhealthy"}`, noticed)
		resume()
		over := p.eventually(`dendrite_futureserver_healthy == 1 unless on() ALERTS{alertname=~"Futureserver(DatabaseDown|NATSDown|Unhealthy|Down)"}`, noticed)
		t.Logf("%s fires %s into the absence; all is well %s after it", outage.alert, after.Round(time.Millisecond), over.Round(time.Millisecond))
	}
}

// restartQuietly stops and starts the server, as for an update, while futures become due. No alert may fire.
func restartQuietly(t *testing.T, p *prometheus, s *rig.Server) {
	t.Helper()
	if code, _ := s.Stop(); code != 0 {
		t.Fatalf("it ends with code %d", code)
	}
	p.eventually(`up{job="dendrite"} == 0`, noticed)
	s.Start()
	p.eventually(`changes(process_start_time_seconds{job="dendrite"}[5m]) > 0 and on(instance) dendrite_futureserver_healthy == 1`, noticed)
	p.eventually(`up{job="dendrite"} unless on() ALERTS{alertstate="pending"}`, noticed)
	firing, err := p.query(`max_over_time(ALERTS{alertstate="firing"}[10m])`)
	if err != nil {
		t.Fatal(err)
	}
	for _, alert := range firing {
		t.Errorf("a planned restart calls somebody: %s", alert.labels.Raw)
	}
}

// checkDashboard waits until every query of the dashboard has data.
func checkDashboard(t *testing.T, p *prometheus) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(packaging, "grafana", "dashboard.json"))
	if err != nil || !gjson.ValidBytes(text) {
		t.Fatalf("the dashboard is no JSON (%v)", err)
	}
	// As Grafana does it.
	fill := strings.NewReplacer("$__rate_interval", "1m", "$instance", ".*", "$job", "dendrite")
	ids, queries := make(map[int64]bool), 0
	for _, panel := range gjson.GetBytes(text, "panels").Array() {
		title, id := panel.Get("title").Str, panel.Get("id").Int()
		if ids[id] {
			t.Errorf("two panels have the id %d", id)
		}
		ids[id] = true
		for _, target := range panel.Get("targets").Array() {
			expr := fill.Replace(target.Get("expr").Str)
			waitForData(t, p, title, expr)
			queries++
		}
	}
	annotation := fill.Replace(gjson.GetBytes(text, "annotations.list.0.expr").Str)
	if _, err := p.query(annotation); err != nil {
		t.Errorf("restarts: %s: %v", annotation, err)
	}
	if queries < 20 {
		t.Errorf("the dashboard has %d queries only", queries)
	}
}

func waitForData(t *testing.T, p *prometheus, title, expr string) {
	t.Helper()
	var found []value
	var err error
	for start := time.Now(); time.Since(start) < noticed; pause(t.Context()) {
		found, err = p.query(expr)
		if err != nil {
			t.Errorf("%s: %s: %v", title, expr, err)
			return
		}
		for _, v := range found {
			if v.number != "NaN" {
				return
			}
		}
	}
	t.Errorf("%s: %s has no data: %v", title, expr, found)
}

// keepScheduling has the user schedule events that become due soon, until the test ends.
func keepScheduling(t *testing.T, u *rig.User) {
	t.Helper()
	room := u.CreateRoom(nil)
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		query := rig.Params{Timeout: 300 * time.Millisecond}.Query()
		for ; ctx.Err() == nil; pause(ctx) {
			short, done := context.WithTimeout(ctx, probeTime)
			path := rig.Path("rooms", room, "send_future", "m.room.message", u.NextTxn())
			u.Client.Do(short, http.MethodPut, path, query, rig.Text("soon")) //nolint:errcheck // the server is away at times
			done()
		}
	})
	t.Cleanup(func() {
		cancel()
		running.Wait()
	})
}
