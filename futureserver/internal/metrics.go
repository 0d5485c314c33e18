package internal

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
)

// Metrics are the futureserver's Prometheus metrics, all under dendrite_futureserver_.
type Metrics struct {
	scheduled, refreshed, retried, sent, cancelled, invalidated, discarded prometheus.Counter
	failed                                                                 *prometheus.CounterVec
	lateness, delivery, batchRows, batchSeconds                            prometheus.Histogram
	roomsWaiting                                                           prometheus.Gauge
	registry                                                               prometheus.Registerer
}

// NewMetrics creates the metrics and registers them with r, unless r is nil.
func NewMetrics(r prometheus.Registerer) *Metrics {
	m := &Metrics{
		scheduled:   counter("scheduled_total", "Futures that were accepted."),
		refreshed:   counter("refreshed_total", "Calls with a valid refresh token."),
		sent:        counter("sent_total", "Futures whose event is confirmed to be in its room."),
		cancelled:   counter("cancelled_total", "Futures ended by a cancel token, an administrator, or the end of their account or room."),
		invalidated: counter("invalidated_total", "Futures ended by newer state."),
		discarded:   counter("discarded_total", "Futures ended because another of their group won or their group died."),
		retried:     counter("retries_total", "Attempts to send a due event that had to be repeated."),
		failed: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "dendrite", Subsystem: "futureserver", Name: "failed_total",
			Help: "Futures that the room refused when they were due.",
		}, []string{"reason"}),
		lateness: histogram("lateness_seconds", "From a future's deadline, or the server's start if that was later, to its claim.",
			prometheus.ExponentialBuckets(0.001, 2, 18)),
		delivery: histogram("delivery_seconds", "From a future's deadline, or the server's start if that was later, to the confirmation that its event is in its room.",
			prometheus.ExponentialBuckets(0.001, 2, 18)),
		batchRows:    histogram("commit_rows", "Rows written by one transaction.", prometheus.ExponentialBuckets(1, 4, 8)),
		batchSeconds: histogram("commit_seconds", "Duration of one transaction.", prometheus.ExponentialBuckets(0.0005, 2, 14)),
		roomsWaiting: prometheus.NewGauge(prometheus.GaugeOpts{
			Namespace: "dendrite", Subsystem: "futureserver", Name: "storm_queue_rooms",
			Help: "Rooms with due events that wait for their turn.",
		}),
		registry: r,
	}
	for kind := api.Forbidden; kind <= api.Internal; kind++ {
		m.failed.WithLabelValues(kind.String()) // a series that starts with the first failure would hide it from increase()
	}
	if r != nil {
		r.MustRegister(m.scheduled, m.refreshed, m.retried, m.sent, m.cancelled, m.invalidated, m.discarded,
			m.failed, m.lateness, m.delivery, m.batchRows, m.batchSeconds, m.roomsWaiting)
	}
	return m
}

func counter(name, help string) prometheus.Counter {
	return prometheus.NewCounter(prometheus.CounterOpts{
		Namespace: "dendrite", Subsystem: "futureserver", Name: name, Help: help,
	})
}

func histogram(name, help string, buckets []float64) prometheus.Histogram {
	return prometheus.NewHistogram(prometheus.HistogramOpts{
		Namespace: "dendrite", Subsystem: "futureserver", Name: name, Help: help, Buckets: buckets,
	})
}

// observe adds the gauges that are computed when the metrics are read.
func (m *Metrics) observe(s *Server) {
	if m.registry == nil {
		return
	}
	gauge := func(state string, get func(api.Counts) int) {
		m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Namespace: "dendrite", Subsystem: "futureserver", Name: "pending",
			Help: "Live futures by state.", ConstLabels: prometheus.Labels{"state": state},
		}, func() float64 { return float64(get(s.QueryFutureCounts(s.ctx))) }))
	}
	m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Namespace: "dendrite", Subsystem: "futureserver", Name: "overdue_seconds",
		Help: "How long the oldest due event has waited for its room, or since the server's start if that was later.",
	}, func() float64 { return s.overdue().Seconds() }))
	gauge("scheduled", func(c api.Counts) int { return c.Scheduled })
	gauge("sending", func(c api.Counts) int { return c.Sending })
}

// ended counts a final state.
func (m *Metrics) ended(state api.State, refusal *api.Refusal) {
	switch state {
	case api.Sent:
		m.sent.Inc()
	case api.Failed:
		m.failed.WithLabelValues(refusal.Kind.String()).Inc()
	case api.Cancelled:
		m.cancelled.Inc()
	case api.Invalidated:
		m.invalidated.Inc()
	case api.Discarded:
		m.discarded.Inc()
	}
}

func (m *Metrics) late(ms int64) { m.lateness.Observe(float64(ms) / 1000) }

func (m *Metrics) delivered(ms int64) { m.delivery.Observe(float64(ms) / 1000) }

func (m *Metrics) committed(rows int, took time.Duration) {
	m.batchRows.Observe(float64(rows))
	m.batchSeconds.Observe(took.Seconds())
}

func (m *Metrics) waiting(rooms int) { m.roomsWaiting.Set(float64(rooms)) }
