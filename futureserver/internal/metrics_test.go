package internal

import (
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// restartCounting starts the server again, after some downtime, with metrics of its own.
func (b *bench) restartCounting(down time.Duration) prometheus.Gatherer {
	b.Helper()
	if err := b.Stop(b.Context()); err != nil {
		b.Fatal(err)
	}
	time.Sleep(down)
	db, err := openTestDatabase(b.path)
	if err != nil {
		b.Fatal(err)
	}
	registry := prometheus.NewRegistry()
	if b.Server, err = New(b.Context(), testConfig(), db, b.rooms, NewMetrics(registry), Hooks{}); err != nil {
		b.Fatal(err)
	}
	return registry
}

// metric returns what is counted under a name.
func (b *bench) metric(g prometheus.Gatherer, name string) []*dto.Metric {
	b.Helper()
	families, err := g.Gather()
	if err != nil {
		b.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "dendrite_futureserver_"+name {
			return f.GetMetric()
		}
	}
	b.Errorf("there is no metric %s", name)
	return nil
}

// A rate over a series that starts with the first failure does not see that failure.
func TestFailuresAreCountedFromZero(t *testing.T) {
	inBubble(t, func(b *bench) {
		g := b.restartCounting(0)
		failed := b.metric(g, "failed_total")
		if len(failed) != 5 {
			t.Errorf("there are %d series, want one for each of 5 reasons", len(failed))
		}
		for _, m := range failed {
			if m.GetCounter().GetValue() != 0 {
				t.Errorf("%v is not 0", m)
			}
		}
	})
}

// A planned restart triggers no alert: events that became due meanwhile are not late.
func TestDowntimeIsNotLateness(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.create(message(time.Second))
		g := b.restartCounting(time.Hour)
		b.after(5*time.Second, 1)
		for _, name := range []string{"lateness_seconds", "delivery_seconds"} {
			h := b.metric(g, name)[0].GetHistogram()
			if h.GetSampleCount() != 1 || h.GetSampleSum() > 5 {
				t.Errorf("%s: %d events with %g s", name, h.GetSampleCount(), h.GetSampleSum())
			}
		}
		b.create(message(time.Second))
		b.rooms.setMode(down)
		time.Sleep(31 * time.Second)
		if overdue := b.metric(g, "overdue_seconds")[0].GetGauge().GetValue(); overdue < 29 || overdue > 31 {
			t.Errorf("an event that is due for 30 s is overdue for %g", overdue)
		}
	})
}
