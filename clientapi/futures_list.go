package clientapi

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"

	userapi "github.com/matrix-org/dendrite/userapi/api"
	"github.com/matrix-org/util"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
)

// listed is one element of the list of futures (docs/gen0-requirements.md, 6.2).
type listed struct {
	URL      string          `json:"url"`
	Body     json.RawMessage `json:"body"`
	Response tokens          `json:"response"`
}

// list serves endpoint E4: the user's scheduled futures from all devices, ordered by deadline, action futures last.
func (h *handlers) list(req *http.Request, device *userapi.Device) util.JSONResponse {
	futures, err := h.futures.QueryFuturesByUser(req.Context(), device.UserID)
	if err != nil {
		return failure(req.Context(), err, "")
	}
	all := make([]listed, len(futures)) // not nil: an empty list is [] (6.6)
	for i, f := range futures {
		all[i] = listed{requestURL(f), f.Content, tokensOf(f)}
	}
	return util.JSONResponse{Code: http.StatusOK, JSON: all}
}

// requestURL returns the path and query of the request that would schedule f, with the prefix v3. It always names the
// group, even if the server chose the name (6.3).
func requestURL(f *api.Future) string {
	endpoint, last := "/send_future/", f.TxnID
	if f.StateKey != nil {
		endpoint, last = "/state_future/", *f.StateKey
	}
	query := paramGroup + "=" + url.QueryEscape(f.GroupID)
	if f.Timeout > 0 {
		query = paramTimeout + "=" + strconv.FormatInt(f.Timeout.Milliseconds(), 10) + "&" + query
	}
	return "/_matrix/client/v3/rooms/" + url.PathEscape(f.RoomID) +
		endpoint + url.PathEscape(f.Type) + "/" + url.PathEscape(last) + "?" + query
}
