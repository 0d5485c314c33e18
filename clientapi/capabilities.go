package clientapi

import (
	fconfig "github.com/matrix-org/dendrite/futures/setup/config"
)

// capabilities is what extend adds to GET /capabilities (docs/gen2-requirements.md, section 2). Limits of 0 say that there
// are no delayed events (2.3).
func capabilities(cfg *fconfig.FutureServer) map[string]any {
	limits := map[string]int64{"max_delay_ms": 0, "max_scheduled": 0}
	if delayedEventsEnabled(cfg) {
		limits["max_delay_ms"] = cfg.DelayedEvents.MaxDelay.Milliseconds()
		limits["max_scheduled"] = int64(cfg.DelayedEvents.MaxScheduled)
	}
	return map[string]any{"m.delayed_events": limits, "org.matrix.msc4140.delayed_events": limits}
}
