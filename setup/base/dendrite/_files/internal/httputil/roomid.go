package httputil

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strings"

	"github.com/gorilla/mux"
	"github.com/matrix-org/gomatrixserverlib/spec"
)

const maxRoomID = 255 // bytes

// CheckRoomIDs refuses requests with a malformed room ID in their path, so that handlers need not check it. The key backup
// is exempt: there a client may use any name.
func CheckRoomIDs(next http.Handler) http.Handler {
	refuse := WrapHandlerInCORS(http.HandlerFunc(refuseRoomID))
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.Method != http.MethodOptions && !strings.Contains(req.URL.Path, "/room_keys/") && !hasRoomIDs(mux.Vars(req)) {
			refuse.ServeHTTP(w, req)
			return
		}
		next.ServeHTTP(w, req)
	})
}

// hasRoomIDs reports whether all variables of a path that must be room IDs are valid ones.
func hasRoomIDs(vars map[string]string) bool {
	for name, value := range vars {
		if !strings.HasPrefix(strings.ToLower(name), "roomid") {
			continue
		}
		id, err := url.PathUnescape(value)
		if err != nil {
			return false
		}
		if name == "roomIDOrAlias" && strings.HasPrefix(id, "#") {
			continue
		}
		if _, err := spec.NewRoomID(id); err != nil || len(id) > maxRoomID {
			return false
		}
	}
	return true
}

func refuseRoomID(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusBadRequest)
	_ = json.NewEncoder(w).Encode(spec.InvalidParam("The room ID in the path is not valid."))
}
