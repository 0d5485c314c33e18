package clientapi

import (
	"bytes"
	"context"
	"encoding/json"
	"maps"
	"net/http"

	"github.com/gorilla/mux"

	fconfig "github.com/matrix-org/dendrite/futures/setup/config"
)

// How clients find out about delayed events: a flag in /versions (docs/gen1-requirements.md, section 2), and their
// limits in /capabilities (docs/gen2-requirements.md, section 2). Both are Dendrite's own answers with something
// added.

// features is what is added to the unstable features. MSC4222 is state_after in /sync, see StateAfter. MSC4143 is
// said only where there is a transport: clients that find the flag ask nowhere else.
func features(cfg *fconfig.FutureServer) map[string]any {
	on := delayedEventsEnabled(cfg)
	flags := map[string]any{"org.matrix.msc4140": on, "org.matrix.msc4140.stable": on, "org.matrix.msc4222": true}
	if len(cfg.MatrixRTC.Announced()) > 0 {
		flags["org.matrix.msc4143"] = true
	}
	return flags
}

// capabilities is what is added to the capabilities. Limits of 0 say that there are no delayed events (2.3).
func capabilities(cfg *fconfig.FutureServer) map[string]any {
	limits := map[string]int64{"max_delay_ms": 0, "max_scheduled": 0}
	if delayedEventsEnabled(cfg) {
		limits["max_delay_ms"] = cfg.DelayedEvents.MaxDelay.Milliseconds()
		limits["max_scheduled"] = int64(cfg.DelayedEvents.MaxScheduled)
	}
	return map[string]any{"m.delayed_events": limits, "org.matrix.msc4140.delayed_events": limits}
}

// extended marks a request that extend has sent through the router a second time.
type extended struct{}

// extend adds members to the object of that key in what the router answers to a GET of the path.
func extend(router *mux.Router, path, key string, members map[string]any) {
	again := func(req *http.Request, _ *mux.RouteMatch) bool { return req.Context().Value(extended{}) == nil }
	router.HandleFunc(path, func(w http.ResponseWriter, req *http.Request) {
		answer := &heldResponse{ResponseWriter: w, code: http.StatusOK}
		router.ServeHTTP(answer, req.WithContext(context.WithValue(req.Context(), extended{}, true)))
		body := answer.body.Bytes()
		if answer.code == http.StatusOK {
			body = withMembers(body, key, members)
		}
		w.WriteHeader(answer.code)
		w.Write(body)
	}).Methods(http.MethodGet, http.MethodOptions).MatcherFunc(again)
}

// withMembers returns the JSON object with members added to its object of that key; what is no JSON object it
// returns as it is.
func withMembers(body []byte, key string, members map[string]any) []byte {
	var whole map[string]json.RawMessage
	part := map[string]any{}
	if json.Unmarshal(body, &whole) != nil || json.Unmarshal(whole[key], &part) != nil {
		return body
	}
	maps.Copy(part, members)
	encoded, err := json.Marshal(part)
	if err != nil {
		return body
	}
	whole[key] = encoded
	if encoded, err = json.Marshal(whole); err != nil {
		return body
	}
	return encoded
}

// heldResponse keeps status and body back; headers pass.
type heldResponse struct {
	http.ResponseWriter
	code int
	body bytes.Buffer
}

func (r *heldResponse) WriteHeader(code int)        { r.code = code }
func (r *heldResponse) Write(b []byte) (int, error) { return r.body.Write(b) }
