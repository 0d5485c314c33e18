package clientapi

import (
	"testing"
	"time"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
)

func TestAdminStatistics(t *testing.T) {
	const path = adminPath + "/statistics"
	h := newHarness()
	h.counts = api.Counts{Scheduled: 5, Sending: 1, Users: 2, Rooms: 3}
	h.statistics = api.Statistics{
		Since: time.UnixMilli(1700000000000), Scheduled: 9, Refreshed: 8, Retries: 7,
		Ended:    map[api.State]uint64{api.Sent: 6, api.Failed: 1},
		Failed:   map[api.RefusalKind]uint64{api.Forbidden: 1},
		Lateness: api.Histogram{Bounds: []time.Duration{500 * time.Microsecond, time.Second}, Counts: []uint64{5, 1, 0}},
		Overdue:  4 * time.Second,
	}
	const want = `{"since_ts":1700000000000,"counts":{"scheduled":5,"sending":1,"users":2,"rooms":3},"scheduled":9,"refreshed":8,"retries":7,` +
		`"ended":{"failed":1,"sent":6},"failed":{"forbidden":1},"lateness":{"bounds_ms":[0.5,1000],"counts":[5,1,0]},` +
		`"delivery":{"bounds_ms":[],"counts":[]},"overdue_ms":4000}`
	if a := h.do("GET", path, "admin", "").wantOK(t); a.body != want {
		t.Errorf("got  %s\nwant %s", a.body, want)
	}
	h.do("GET", path, "alice", "").want(t, 403, "M_FORBIDDEN")
	h.do("GET", path, "", "").want(t, 401, "M_MISSING_TOKEN")
}
