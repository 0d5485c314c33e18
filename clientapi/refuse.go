package clientapi

import (
	"net/http"
	"net/url"
	"strings"

	"github.com/gorilla/mux"
	userapi "github.com/matrix-org/dendrite/userapi/api"
	"github.com/matrix-org/util"
)

// refuse answers a request on Dendrite's own /send or /state that asks for a future. Later drafts of MSC4140
// put the parameters there; Dendrite would ignore them and send the event at once (docs/gen0-requirements.md, 9).
func refuse(*http.Request, *userapi.Device) util.JSONResponse {
	return *invalidParam("futures are scheduled with send_future and state_future, not with /send and /state")
}

// refuseRedaction answers a request on /redact that asks for a future or a delayed event: the proposal has neither
// there, so Dendrite would redact at once.
func refuseRedaction(*http.Request, *userapi.Device) util.JSONResponse {
	return *invalidParam("a redaction is delayed by /send/m.room.redaction with redacts in its content, not by /redact")
}

// asksForFuture reports whether a parameter of that name asks for a future, in its plain or its prefixed form.
func asksForFuture(name string) bool {
	name = strings.TrimPrefix(name, mscPrefix)
	return name == paramTimeout || name == paramGroup
}

// hasParam matches requests whose query has a parameter of such a name. It reads the raw query, because
// url.ParseQuery drops pairs that are not quite right, and what it drops would be sent at once.
func hasParam(such func(name string) bool) mux.MatcherFunc {
	return func(req *http.Request, _ *mux.RouteMatch) bool {
		for pair := range strings.FieldsFuncSeq(req.URL.RawQuery, func(r rune) bool { return r == '&' || r == ';' }) {
			name, _, _ := strings.Cut(pair, "=")
			if decoded, err := url.QueryUnescape(name); err == nil {
				name = decoded
			}
			if such(name) {
				return true
			}
		}
		return false
	}
}
