package setup

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/matrix-org/dendrite/futures/setup/base/patched"
)

// registerMetrics adds the metrics of the whole server. The futureserver has its own.
func registerMetrics(r prometheus.Registerer, h *health) {
	gauge := func(name, help string, labels prometheus.Labels, value func() bool) {
		r.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Namespace: "dendrite", Subsystem: "futureserver", Name: name, Help: help, ConstLabels: labels,
		}, func() float64 {
			if value() {
				return 1
			}
			return 0
		}))
	}
	gauge("healthy", "1 if the health check succeeds, else 0.", nil, func() bool { return len(*h.state.Load()) == 0 })
	gauge("database_up", "1 if Dendrite's databases answer, else 0.", nil, func() bool { return h.isUp("database") })
	gauge("nats_up", "1 if NATS answers, else 0.", nil, func() bool { return h.isUp("nats") })
	gauge("build_info", "Always 1; the labels say what runs.", prometheus.Labels{
		"version": version, "commit": revision(), "dendrite": dendriteVersion(), "base": patched.Base,
	}, func() bool { return true })
}
