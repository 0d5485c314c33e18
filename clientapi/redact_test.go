package clientapi

import (
	"strings"
	"testing"

	fconfig "github.com/matrix-org/dendrite/futures/setup/config"
)

// TestRefuseRedaction: a redaction that is to be delayed is never sent at once (generation 1, 3.12).
func TestRefuseRedaction(t *testing.T) {
	for _, enabled := range []bool{true, false} {
		h := newHarness(unlimited, func(c *fconfig.FutureServer) { c.Enabled = enabled })
		for _, version := range []string{"/v3", "/r0"} {
			rooms := client + version + "/rooms/!r:test/redact/$event"
			for path, method := range map[string]string{rooms: "POST", rooms + "/t1": "PUT"} {
				for _, query := range []string{
					"org.matrix.msc4140.delay=10", "org.matrix.msc4140.delay", "org.matrix.msc4140%2Edelay=0",
					"org.matrix.msc4140.parent_delay_id=x", "future_timeout=10", "org.matrix.msc4140.future_group_id=g",
				} {
					a := h.do(method, path+"?"+query, "alice", "{}")
					a.want(t, 400, "M_INVALID_PARAM")
					if strings.Contains(a.body, "stock") {
						t.Errorf("%s %s?%s reached Dendrite", method, path, query)
					}
				}
				if a := h.do(method, path+"?ts=1", "", "{"); a.body != `{"stock":true}` {
					t.Errorf("%s %s: got %d %s", method, path, a.code, a.body)
				}
			}
		}
	}
}
