package clientapi

import (
	"fmt"
	"strings"
	"testing"
	"time"

	fconfig "github.com/matrix-org/dendrite/futures/setup/config"
)

func TestDiscovery(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*fconfig.FutureServer)
		on     bool
	}{
		"on":              {unlimited, true},
		"max_delay 0":     {delayOff, false},
		"max_scheduled 0": {func(c *fconfig.FutureServer) { c.DelayedEvents.MaxScheduled = 0 }, false},
		"all off":         {func(c *fconfig.FutureServer) { c.Enabled = false }, false},
	} {
		t.Run("gen1 2.1, gen2 2.1 flags, "+name, func(t *testing.T) {
			h := newHarness(c.change)
			a := h.do("GET", client+"/versions", "", "").wantOK(t)
			want := fmt.Sprintf(`{"unstable_features":{"org.matrix.msc4140":%t,"org.matrix.msc4140.stable":%[1]t,"org.matrix.msc4222":true,"org.matrix.other":true},"versions":["v1.2"]}`, c.on)
			if a.body != want || a.header.Get("Access-Control-Allow-Origin") != "*" {
				t.Errorf("got %s", a.body)
			}
		})
		t.Run("gen1 2.3, gen2 2.2 to 2.5 capabilities, "+name, func(t *testing.T) {
			h := newHarness(c.change)
			limits := `{"max_delay_ms":0,"max_scheduled":0}`
			if c.on {
				limits = fmt.Sprintf(`{"max_delay_ms":%d,"max_scheduled":100}`, (7 * 24 * time.Hour).Milliseconds())
			}
			want := `{"capabilities":{"m.delayed_events":` + limits + `,"m.other":{"enabled":true},"org.matrix.msc4140.delayed_events":` + limits + `}}`
			for _, version := range []string{"/v3", "/r0"} {
				if a := h.do("GET", client+version+"/capabilities", "alice", "").wantOK(t); a.body != want {
					t.Errorf("got %s", a.body)
				}
				if a := h.do("GET", client+version+"/capabilities", "", ""); a.code != 401 || strings.Contains(a.body, "delayed") {
					t.Errorf("got %d %s", a.code, a.body)
				}
			}
		})
	}
	t.Run("other methods are Dendrite's", func(t *testing.T) {
		h := newHarness()
		if a := h.do("OPTIONS", client+"/versions", "", ""); a.code != 200 {
			t.Error(a.code)
		}
		h.do("PUT", client+"/versions", "", "").want(t, 405, "M_UNRECOGNIZED")
	})
	t.Run("what is no object stays as it is", func(t *testing.T) {
		for _, body := range []string{"", "x", "[]", `{"a":1}`, `{"a":[]}`, `{"b":{}}`} {
			if got := string(withMembers([]byte(body), "a", map[string]any{"x": 1})); got != body {
				t.Errorf("%s became %s", body, got)
			}
		}
		if got := string(withMembers([]byte(`{"a":{"y":2}}`), "a", map[string]any{"x": 1})); got != `{"a":{"x":1,"y":2}}` {
			t.Error(got)
		}
	})
}
