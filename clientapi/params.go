package clientapi

import (
	"math"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/gorilla/mux"
	"github.com/matrix-org/dendrite/internal/httputil"
	userapi "github.com/matrix-org/dendrite/userapi/api"
	"github.com/matrix-org/util"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
)

// pathVars returns the variables of the request's path, percent-decoded.
func pathVars(req *http.Request) (map[string]string, *util.JSONResponse) {
	vars, err := httputil.URLDecodeMapValues(mux.Vars(req))
	if err != nil {
		return nil, invalidParam("the path is not percent-encoded correctly")
	}
	for name, value := range vars {
		if !isText(value) {
			return nil, invalidParam("the %s in the path is not valid UTF-8 or holds a NUL", name)
		}
	}
	return vars, nil
}

// milliseconds reads a whole number of milliseconds, 1 or more. It refuses everything else. A Duration holds at most
// 292 years, which is more than any server allows. Longer times are cut to that and then refused as too long.
func milliseconds(s string) (d time.Duration, ok bool) {
	ms, err := strconv.ParseUint(s, 10, 63)
	return time.Duration(min(ms, math.MaxInt64/uint64(time.Millisecond))) * time.Millisecond, err == nil && ms > 0
}

// readTimestamp reads ts, with which an application service sets origin_server_ts. It is ignored for other users.
func readTimestamp(query url.Values, device *userapi.Device, f *api.Future) *util.JSONResponse {
	if device.AppserviceID == "" || !query.Has("ts") {
		return nil
	}
	ts, err := strconv.ParseInt(query.Get("ts"), 10, 64)
	if err != nil || ts < 1 {
		return invalidParam("ts must be a time in milliseconds")
	}
	f.OriginTS = ts
	return nil
}

// isText reports whether every database can store s as text and every client can read it.
func isText(s string) bool { return utf8.ValidString(s) && strings.IndexByte(s, 0) < 0 }
