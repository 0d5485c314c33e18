package clientapi

import (
	"net/http"

	userapi "github.com/matrix-org/dendrite/userapi/api"
	"github.com/matrix-org/util"
)

// refuseRedaction answers a request on /redact with a parameter of the proposal. The proposal has no delayed /redact,
// so Dendrite would redact at once.
func refuseRedaction(*http.Request, *userapi.Device) util.JSONResponse {
	return *invalidParam("a redaction is delayed by /send/m.room.redaction with redacts in its content, not by /redact")
}
