package clientapi

import (
	"testing"

	dto "github.com/prometheus/client_model/go"
)

func TestAnswersAreCounted(t *testing.T) {
	h := newHarness()
	counted := func(endpoint string, code int) float64 {
		var m dto.Metric
		if err := h.tokens.answers.of(endpoint, code).Write(&m); err != nil {
			t.Fatal(err)
		}
		return m.GetCounter().GetValue()
	}
	f := timeoutFuture(alice)
	token := f.Token(0)
	h.outcome[token] = nil
	h.do("POST", "/_matrix/client/v3/futures/"+token.String(), "", "")
	h.do("POST", "/_matrix/client/v3/futures/AAAAAAAAAAAAAAAAAAAAAA", "", "")
	h.do("POST", "/_matrix/client/unstable/org.matrix.msc4140/delayed_events/AAAAAAAAAAAAAAAAAAAAAA/restart", "", "")
	h.put("/_matrix/client/v3/rooms/!r:test/send_future/m.room.message/1?future_timeout=1000")
	h.put("/_matrix/client/v3/rooms/!r:test/send_future/m.room.message/2?future_timeout=x")
	for _, c := range []struct {
		endpoint string
		code     int
	}{{tokenCalls, 200}, {tokenCalls, 410}, {managementCalls, 404}, {"schedule_future", 200}, {"schedule_future", 400}} {
		if n := counted(c.endpoint, c.code); n != 1 {
			t.Errorf("%s, %d: %g answers, want 1", c.endpoint, c.code, n)
		}
	}
}
