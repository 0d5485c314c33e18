package clientapi

import (
	"net/http"

	userapi "github.com/matrix-org/dendrite/userapi/api"
	"github.com/matrix-org/util"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
)

// adminHistogram counts durations: counts[i] of them are above bounds_ms[i-1] and not above bounds_ms[i].
type adminHistogram struct {
	Bounds []float64 `json:"bounds_ms"`
	Counts []uint64  `json:"counts"`
}

// adminStatistics serves GET /_dendrite/admin/futures/statistics for administrators: what has happened since the start of the
// server. It is what the page shows where Prometheus cannot be asked.
func (h *handlers) adminStatistics(req *http.Request, _ *userapi.Device) util.JSONResponse {
	s := h.futures.QueryStatistics(req.Context())
	ended, failed := make(map[string]uint64), make(map[string]uint64)
	for state, n := range s.Ended {
		ended[state.String()] = n
	}
	for kind, n := range s.Failed {
		failed[kind.String()] = n
	}
	since := int64(0)
	if !s.Since.IsZero() {
		since = s.Since.UnixMilli()
	}
	return util.JSONResponse{Code: http.StatusOK, JSON: struct {
		Since     int64             `json:"since_ts"`
		Live      adminCounts       `json:"counts"`
		Scheduled uint64            `json:"scheduled"`
		Refreshed uint64            `json:"refreshed"`
		Retries   uint64            `json:"retries"`
		Ended     map[string]uint64 `json:"ended"`
		Failed    map[string]uint64 `json:"failed"`
		Lateness  adminHistogram    `json:"lateness"`
		Delivery  adminHistogram    `json:"delivery"`
		Overdue   int64             `json:"overdue_ms"`
	}{
		since, adminCounts(h.futures.QueryFutureCounts(req.Context())), s.Scheduled, s.Refreshed, s.Retries, ended, failed,
		newAdminHistogram(s.Lateness), newAdminHistogram(s.Delivery), s.Overdue.Milliseconds(),
	}}
}

func newAdminHistogram(h api.Histogram) adminHistogram {
	bounds := make([]float64, len(h.Bounds))
	for i, b := range h.Bounds {
		bounds[i] = float64(b.Microseconds()) / 1000
	}
	return adminHistogram{bounds, append([]uint64{}, h.Counts...)} // not nil: none is []
}
