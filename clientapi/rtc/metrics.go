package rtc

import (
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics count what delegated leaves do. They are registered by Options.Registerer.
type metrics struct {
	jobs     *prometheus.GaugeVec
	restarts prometheus.Counter
	sends    *prometheus.CounterVec
	webhooks *prometheus.CounterVec
}

var jobStates = []string{"waiting", "connected", "leaving", "unreachable"}

// sendReasons are the values of the label reason: LiveKit's names in lower case, and ours.
var sendReasons = []string{
	"client_initiated", "duplicate_identity", "server_shutdown", "participant_removed", "room_deleted", "state_mismatch", "join_failure",
	"signal_close", "room_closed", "connection_timeout", "unknown_reason", "never_connected", "missing_on_the_sfu", "room_finished", "signal_lost", "signal_ended_by_the_sfu", "other",
}

func newMetrics(r prometheus.Registerer) *metrics {
	const prefix = "dendrite_rtc_"
	m := &metrics{
		jobs: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: prefix + "delegated_leaves", Help: "Delegated leaves by what is known of the participant.",
		}, []string{"state"}),
		restarts: prometheus.NewCounter(prometheus.CounterOpts{
			Name: prefix + "delegated_restarts_total", Help: "Restarts of delegated leaves by this server.",
		}),
		sends: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: prefix + "delegated_sends_total", Help: "Delegated leaves that were sent because the participant was gone.",
		}, []string{"reason"}),
		webhooks: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: prefix + "webhooks_total", Help: "Webhooks of SFUs by outcome.",
		}, []string{"outcome"}),
	}
	for _, s := range jobStates {
		m.jobs.WithLabelValues(s)
	}
	for _, reason := range sendReasons {
		m.sends.WithLabelValues(reason)
	}
	for _, outcome := range []string{"accepted", "refused", "unreadable"} {
		m.webhooks.WithLabelValues(outcome)
	}
	if r != nil {
		r.MustRegister(m.jobs, m.restarts, m.sends, m.webhooks)
	}
	return m
}

// observe registers the time since the SFU's last answer.
func (l *sfu) observe(r prometheus.Registerer) {
	if r == nil {
		return
	}
	r.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "dendrite_rtc_sfu_last_answer_seconds", Help: "Time since the SFU last answered, or since the start.",
		ConstLabels: prometheus.Labels{"url": l.URL},
	}, func() float64 { return time.Since(time.Unix(0, l.answered.Load())).Seconds() }))
}

// state counts a job under its state. A nil watch means that the job has ended. Under the lock of delegates.
func (m *metrics) state(j *job, w *watch) {
	state := ""
	switch {
	case w == nil:
	case !w.blind.IsZero():
		state = "unreachable"
	case w.leaving.why != "":
		state = "leaving"
	case w.connected:
		state = "connected"
	default:
		state = "waiting"
	}
	if state == j.state {
		return
	}
	if j.state != "" {
		m.jobs.WithLabelValues(j.state).Dec()
	}
	if state != "" {
		m.jobs.WithLabelValues(state).Inc()
	}
	j.state = state
}

// reasonLabel bounds the values of the label: reasons that are not in sendReasons become "other".
func reasonLabel(why string) string {
	if label := strings.ReplaceAll(strings.ToLower(why), " ", "_"); slices.Contains(sendReasons, label) {
		return label
	}
	return "other"
}
