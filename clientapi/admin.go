package clientapi

import (
	"cmp"
	"net/http"
	"net/url"
	"strconv"

	userapi "github.com/matrix-org/dendrite/userapi/api"
	"github.com/matrix-org/util"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
)

const (
	adminDefaultLimit = 100
	adminMaxLimit     = 1000
)

// adminCounts says how many futures are live, whatever the filter.
type adminCounts struct {
	Scheduled int `json:"scheduled"`
	Sending   int `json:"sending"`
	Users     int `json:"users"`
	Rooms     int `json:"rooms"`
}

// adminFuture is a live future as an administrator sees it: neither tokens nor content.
type adminFuture struct {
	ID       api.NID `json:"id"`
	Kind     string  `json:"kind"`
	State    string  `json:"state"`
	UserID   string  `json:"user_id"`
	RoomID   string  `json:"room_id"`
	Type     string  `json:"type"`
	StateKey *string `json:"state_key,omitempty"`
	Timeout  int64   `json:"timeout_ms,omitempty"`
	Deadline int64   `json:"deadline_ts,omitempty"`
	Created  int64   `json:"created_ts"`
}

// adminList serves GET /_dendrite/admin/futures?user_id=&room_id=&id=&limit= for administrators: live futures
// that match all that is given, oldest first, at most limit (100 unless given, 1000 at the most).
//
//	{
//	  "counts": {"scheduled": 2, "sending": 0, "users": 1, "rooms": 1},
//	  "futures": [{
//	    "id": 7, "kind": "future", "state": "scheduled", "user_id": "@u:example.org", "room_id": "!r:example.org",
//	    "type": "m.room.topic", "state_key": "",
//	    "timeout_ms": 10000, "deadline_ts": 1700000010000, "created_ts": 1700000000000
//	  }]
//	}
//
// The counts are those of the whole server. kind is "delayed_event" for those of generations 1 and 2. state is "scheduled" or "sending", times are Unix milliseconds,
// state_key is absent for a message, timeout_ms and deadline_ts for a future without a timer.
func (h *handlers) adminList(req *http.Request, _ *userapi.Device) util.JSONResponse {
	filter, fault := adminFilter(req.URL.Query())
	if fault != nil {
		return *fault
	}
	futures, err := h.futures.QueryFutures(req.Context(), filter)
	if err != nil {
		return failure(req.Context(), err, filter.RoomID)
	}
	rows := make([]adminFuture, len(futures))
	for i, f := range futures {
		rows[i] = adminFuture{
			ID: f.NID, Kind: kind(f), State: f.State.String(), UserID: f.UserID, RoomID: f.RoomID, Type: f.Type, StateKey: f.StateKey,
			Timeout: f.Timeout.Milliseconds(), Deadline: f.Deadline, Created: f.Created,
		}
	}
	return util.JSONResponse{Code: http.StatusOK, JSON: struct {
		Counts  adminCounts   `json:"counts"`
		Futures []adminFuture `json:"futures"`
	}{adminCounts(h.futures.QueryFutureCounts(req.Context())), rows}}
}

func kind(f *api.Future) string {
	if f.Policy.Has(api.Managed) {
		return "delayed_event"
	}
	return "future"
}

// adminCancel serves DELETE /_dendrite/admin/futures?user_id=&room_id=&id= for administrators: it cancels the
// scheduled futures that match all that is given. At least one must be given.
//
//	{"cancelled": 2}
func (h *handlers) adminCancel(req *http.Request, _ *userapi.Device) util.JSONResponse {
	filter, fault := adminFilter(req.URL.Query())
	if fault != nil {
		return *fault
	}
	if filter.UserID == "" && filter.RoomID == "" && filter.NID == 0 {
		return *missingParam("name the futures to cancel by user_id, room_id or id")
	}
	filter.Limit = 0
	n, err := h.futures.PerformAdminCancellation(req.Context(), filter)
	if err != nil {
		return failure(req.Context(), err, filter.RoomID)
	}
	return util.JSONResponse{Code: http.StatusOK, JSON: struct {
		Cancelled int `json:"cancelled"`
	}{n}}
}

// adminFilter reads the filter of both. A parameter that is there but means nothing is refused: taken for
// absent, it would widen what a cancellation hits.
func adminFilter(query url.Values) (f api.Filter, fault *util.JSONResponse) {
	for name, values := range query {
		if len(values) != 1 || values[0] == "" {
			return f, invalidParam("%s must be given once and not be empty", name)
		}
	}
	f.UserID, f.RoomID = query.Get("user_id"), query.Get("room_id")
	if query.Has("id") {
		id, err := strconv.ParseInt(query.Get("id"), 10, 64)
		if err != nil || id < 1 {
			return f, invalidParam("id must be the number of a future")
		}
		f.NID = api.NID(id)
	}
	limit, err := strconv.Atoi(cmp.Or(query.Get("limit"), strconv.Itoa(adminDefaultLimit)))
	if err != nil || limit < 1 {
		return f, invalidParam("limit must be a number from 1 to %d", adminMaxLimit)
	}
	f.Limit = min(limit, adminMaxLimit)
	return f, nil
}
