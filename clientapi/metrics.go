package clientapi

import (
	"net/http"
	"strconv"

	userapi "github.com/matrix-org/dendrite/userapi/api"
	"github.com/matrix-org/util"
	"github.com/prometheus/client_golang/prometheus"
)

// Names of two endpoints in the metrics.
const (
	tokenCalls      = "token"
	managementCalls = "manage_delayed_event"
)

// answers counts the answers of our endpoints by status.
type answers struct {
	counts *prometheus.CounterVec
	done   map[string]prometheus.Counter // answers with status 200 of the endpoints that receive heartbeats
}

func newAnswers() *answers {
	a := &answers{counts: prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: "dendrite", Subsystem: "futureserver", Name: "answers_total", Help: "Answers of the endpoints of futures and delayed events.",
	}, []string{"endpoint", "generation", "code"}), done: make(map[string]prometheus.Counter)}
	for _, endpoint := range []string{tokenCalls, managementCalls} {
		a.done[endpoint] = a.of(endpoint, http.StatusOK)
		for _, code := range []int{http.StatusNotFound, http.StatusGone, http.StatusTooManyRequests, http.StatusServiceUnavailable} {
			a.of(endpoint, code)
		}
	}
	return a
}

// of returns the counter for an endpoint and a status. Generations 1 and 2 share endpoints.
func (a *answers) of(endpoint string, code int) prometheus.Counter {
	generation := "0"
	switch endpoint {
	case managementCalls, "schedule_delayed_event", "delayed_event", "delayed_events":
		generation = "1-2"
	}
	return a.counts.WithLabelValues(endpoint, generation, strconv.Itoa(code))
}

// counted counts the answers of f.
func (a *answers) counted(endpoint string, f func(*http.Request, *userapi.Device) util.JSONResponse) func(*http.Request, *userapi.Device) util.JSONResponse {
	return func(req *http.Request, device *userapi.Device) util.JSONResponse {
		res := f(req, device)
		a.of(endpoint, res.Code).Inc()
		return res
	}
}

// finish answers that the request has been fulfilled.
func (a *answers) finish(w http.ResponseWriter, endpoint string) {
	a.done[endpoint].Inc()
	writeDone(w)
}

func (a *answers) refuse(w http.ResponseWriter, endpoint string, res util.JSONResponse) {
	a.of(endpoint, res.Code).Inc()
	writeJSON(w, res)
}

// Answers returns the counter of the answers of all our endpoints, to be registered.
func (h *TokenHandler) Answers() prometheus.Collector { return h.answers.counts }
