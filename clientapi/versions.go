package clientapi

import (
	fconfig "github.com/matrix-org/dendrite/futures/setup/config"
)

// features is what extend adds to the unstable features of GET /versions (docs/gen1-requirements.md, section 2). MSC4222
// is state_after in /sync (package syncapi). MSC4143 is in it only if there is a transport: clients that find the flag
// ask nowhere else.
func features(cfg *fconfig.FutureServer) map[string]any {
	on := delayedEventsEnabled(cfg)
	flags := map[string]any{"org.matrix.msc4140": on, "org.matrix.msc4140.stable": on, "org.matrix.msc4222": true}
	if len(cfg.MatrixRTC.Announced()) > 0 {
		flags["org.matrix.msc4143"] = true
	}
	return flags
}
