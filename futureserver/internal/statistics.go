package internal

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
)

// QueryStatistics implements api.FutureInternalAPI. It reads the metrics, which count whether or not Prometheus is used.
func (s *Server) QueryStatistics(context.Context) api.Statistics {
	m := s.metrics
	stats := api.Statistics{
		Since:     s.clock.start,
		Scheduled: count(m.scheduled),
		Refreshed: count(m.refreshed),
		Retries:   count(m.retried),
		Ended: map[api.State]uint64{
			api.Sent: count(m.sent), api.Cancelled: count(m.cancelled), api.Invalidated: count(m.invalidated), api.Discarded: count(m.discarded),
		},
		Failed:   make(map[api.RefusalKind]uint64),
		Lateness: ranges(m.lateness),
		Delivery: ranges(m.delivery),
		Overdue:  s.overdue(),
	}
	for kind := api.Forbidden; kind <= api.Internal; kind++ {
		n := count(m.failed.WithLabelValues(kind.String()))
		stats.Failed[kind] = n
		stats.Ended[api.Failed] += n
	}
	return stats
}

func count(c prometheus.Counter) uint64 { return uint64(read(c).GetCounter().GetValue()) }

// ranges makes separate counts of Prometheus's, which include those of all lower ranges.
func ranges(h prometheus.Histogram) (r api.Histogram) {
	data := read(h).GetHistogram()
	before := uint64(0)
	for _, b := range data.GetBucket() {
		r.Bounds = append(r.Bounds, time.Duration(b.GetUpperBound()*float64(time.Second)).Round(time.Microsecond))
		r.Counts = append(r.Counts, b.GetCumulativeCount()-before)
		before = b.GetCumulativeCount()
	}
	r.Counts = append(r.Counts, data.GetSampleCount()-before)
	return r
}

func read(m prometheus.Metric) *dto.Metric {
	data := new(dto.Metric)
	if err := m.Write(data); err != nil { // only for labels that are not valid
		panic(err)
	}
	return data
}
