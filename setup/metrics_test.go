package setup

import (
	"context"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

func TestMetricsSayWhatIsAway(t *testing.T) {
	there := func(context.Context) error { return nil }
	database, nats := &check{name: "database", ask: there}, &check{name: "nats", ask: there}
	h := newHealth(time.Minute, database, nats)
	registry := prometheus.NewRegistry()
	registerMetrics(registry, h)
	are := func(want map[string]float64) {
		t.Helper()
		families, err := registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			if got := f.GetMetric()[0].GetGauge().GetValue(); got != want[f.GetName()] {
				t.Errorf("%s is %g, want %g", f.GetName(), got, want[f.GetName()])
			}
			delete(want, f.GetName())
		}
		if len(want) > 0 {
			t.Errorf("there is no %v", want)
		}
	}
	const prefix = "dendrite_futureserver_"
	are(map[string]float64{prefix + "healthy": 1, prefix + "database_up": 1, prefix + "nats_up": 1, prefix + "build_info": 1})
	database.answered.Store(time.Now().Add(-time.Minute).UnixNano())
	h.update()
	are(map[string]float64{prefix + "healthy": 0, prefix + "database_up": 0, prefix + "nats_up": 1, prefix + "build_info": 1})
}
