package clientapi

import (
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	userapi "github.com/matrix-org/dendrite/userapi/api"
	"github.com/matrix-org/util"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
)

const (
	adminDefaultLimit = 100
	adminMaxLimit     = 1000
)

// adminCounts says how many futures are live. The filter does not apply to it.
type adminCounts struct {
	Scheduled int `json:"scheduled"`
	Sending   int `json:"sending"`
	Users     int `json:"users"`
	Rooms     int `json:"rooms"`
}

// adminFuture is a future as an administrator sees it, without tokens and without content.
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
	Finished int64   `json:"finished_ts,omitempty"`
	EventID  string  `json:"event_id,omitempty"`
	Reason   string  `json:"reason,omitempty"`
	Error    string  `json:"error,omitempty"`
}

// adminList serves GET /_dendrite/admin/futures for administrators. It lists the futures that match all parameters, in
// order of their ids, at most limit of them (default 100, maximum 1000).
//
//	user_id, room_id, id, kind ("future" or "delayed_event")
//	state: names of states, separated by commas; "live" and "finished" stand for several states.
//	       The default is live, or any state if an id is given
//	from_ts, until_ts: bounds on the time at which the future ended or, if it is live, on its deadline
//	limit, dir ("f": oldest first, or "b"), from: the value of next in the previous answer
//
//	{
//	  "counts": {"scheduled": 2, "sending": 0, "users": 1, "rooms": 1},
//	  "futures": [{
//	    "id": 7, "kind": "future", "state": "failed", "user_id": "@u:example.org", "room_id": "!r:example.org",
//	    "type": "m.room.topic", "state_key": "",
//	    "timeout_ms": 10000, "deadline_ts": 1700000010000, "created_ts": 1700000000000,
//	    "finished_ts": 1700000010003, "reason": "forbidden", "error": "The user is not in the room."
//	  }],
//	  "next": 7
//	}
//
// The counts are those of the whole server. kind is "delayed_event" for generations 1 and 2. Times are Unix
// milliseconds. Some fields may be absent: state_key for a message, timeout_ms and deadline_ts for a future without a
// timer, finished_ts for a live future, event_id if no event was built, reason and error unless the future has failed,
// next on the last page.
func (h *handlers) adminList(req *http.Request, _ *userapi.Device) util.JSONResponse {
	query := req.URL.Query()
	filter, fault := adminFilter(query, "state", "limit", "dir", "from")
	if fault == nil {
		fault = adminPage(query, &filter)
	}
	if fault != nil {
		return *fault
	}
	futures, err := h.futures.QueryFutures(req.Context(), filter)
	if err != nil {
		return failure(req.Context(), err, filter.RoomID)
	}
	rows := make([]adminFuture, len(futures))
	for i, f := range futures {
		rows[i] = newAdminFuture(f)
	}
	var next api.NID
	if len(rows) == filter.Limit {
		next = rows[len(rows)-1].ID
	}
	return util.JSONResponse{Code: http.StatusOK, JSON: struct {
		Counts  adminCounts   `json:"counts"`
		Futures []adminFuture `json:"futures"`
		Next    api.NID       `json:"next,omitempty"`
	}{adminCounts(h.futures.QueryFutureCounts(req.Context())), rows, next}}
}

func newAdminFuture(f *api.Future) adminFuture {
	row := adminFuture{
		ID: f.NID, Kind: api.KindOf(f.Policy).String(), State: f.State.String(), UserID: f.UserID, RoomID: f.RoomID, Type: f.Type,
		StateKey: f.StateKey, Timeout: f.Timeout.Milliseconds(), Deadline: f.Deadline, Created: f.Created, Finished: f.Finished,
	}
	if f.Event != nil {
		row.EventID = f.Event.ID
	}
	if f.Failure != nil {
		row.Reason, row.Error = f.Failure.Kind.String(), f.Failure.Message
	}
	return row
}

// adminCancel serves DELETE /_dendrite/admin/futures?user_id=&room_id=&id=&kind=&from_ts=&until_ts=&dry_run= for
// administrators. It cancels the scheduled futures that match all parameters. user_id, room_id or id is required.
//
//	{"cancelled": 2}
//
// With dry_run=true it cancels nothing and returns how many it would cancel:
//
//	{"dry_run": true, "would_cancel": 2}
func (h *handlers) adminCancel(req *http.Request, _ *userapi.Device) util.JSONResponse {
	query := req.URL.Query()
	filter, fault := adminFilter(query, "dry_run")
	if fault != nil {
		return *fault
	}
	dry, err := strconv.ParseBool(query.Get("dry_run"))
	if err != nil && query.Has("dry_run") {
		return *invalidParam("dry_run must be true or false")
	}
	if filter.UserID == "" && filter.RoomID == "" && filter.NID == 0 {
		return *missingParam("name the futures to cancel by user_id, room_id or id")
	}
	filter.States = 1 << api.Scheduled
	if dry {
		return h.countCancelled(req, filter)
	}
	n, err := h.futures.PerformAdminCancellation(req.Context(), filter)
	if err != nil {
		return failure(req.Context(), err, filter.RoomID)
	}
	return util.JSONResponse{Code: http.StatusOK, JSON: struct {
		Cancelled int `json:"cancelled"`
	}{n}}
}

func (h *handlers) countCancelled(req *http.Request, filter api.Filter) util.JSONResponse {
	n := 0
	for filter.Limit = adminMaxLimit; ; {
		futures, err := h.futures.QueryFutures(req.Context(), filter)
		if err != nil {
			return failure(req.Context(), err, filter.RoomID)
		}
		if n += len(futures); len(futures) < filter.Limit {
			break
		}
		filter.After = futures[len(futures)-1].NID
	}
	return util.JSONResponse{Code: http.StatusOK, JSON: struct {
		DryRun bool `json:"dry_run"`
		Would  int  `json:"would_cancel"`
	}{true, n}}
}

// adminFilter reads the parameters that both endpoints have; others names those that only the caller has. It refuses
// parameters that are unknown or empty. If it ignored them, a cancellation could hit more futures than intended.
func adminFilter(query url.Values, others ...string) (f api.Filter, fault *util.JSONResponse) {
	known := append([]string{"user_id", "room_id", "id", "kind", "from_ts", "until_ts", "access_token"}, others...)
	for _, name := range slices.Sorted(maps.Keys(query)) {
		if !slices.Contains(known, name) {
			return f, invalidParam("unknown parameter %q; there are %s", name, strings.Join(known[:len(known)-1], ", ")+" and "+known[len(known)-1])
		}
		if values := query[name]; len(values) != 1 || values[0] == "" {
			return f, invalidParam("%s must be given once and not be empty", name)
		}
	}
	f.UserID, f.RoomID = query.Get("user_id"), query.Get("room_id")
	id, fault := number(query, "id", fault)
	f.NID = api.NID(id)
	f.From, fault = number(query, "from_ts", fault)
	f.Until, fault = number(query, "until_ts", fault)
	if f.Until != 0 && f.Until <= f.From {
		return f, invalidParam("until_ts must be after from_ts")
	}
	if query.Has("kind") {
		kinds := []api.Kind{api.OneOfGroup, api.DelayedKind}
		i := slices.IndexFunc(kinds, func(k api.Kind) bool { return k.String() == query.Get("kind") })
		if i < 0 {
			return f, invalidParam("kind must be future or delayed_event")
		}
		f.Kind = kinds[i]
	}
	return f, fault
}

// number reads a parameter that is a positive number; 0 means absent. An earlier fault is passed through.
func number(query url.Values, name string, fault *util.JSONResponse) (int64, *util.JSONResponse) {
	if fault != nil || !query.Has(name) {
		return 0, fault
	}
	n, err := strconv.ParseInt(query.Get(name), 10, 64)
	if err != nil || n < 1 {
		return 0, invalidParam("%s must be a positive number", name)
	}
	return n, nil
}

// adminPage reads the parameters that only the list has.
func adminPage(query url.Values, f *api.Filter) (fault *util.JSONResponse) {
	limit, fault := number(query, "limit", nil)
	after, fault := number(query, "from", fault)
	if fault != nil {
		return fault
	}
	if limit == 0 {
		limit = adminDefaultLimit
	}
	f.Limit, f.After = int(min(limit, adminMaxLimit)), api.NID(after)
	switch query.Get("dir") {
	case "", "f":
	case "b":
		f.Backwards = true
	default:
		return invalidParam("dir must be f or b")
	}
	if f.NID != 0 {
		f.States = api.Live | api.Finished
	}
	if query.Has("state") {
		f.States = 0
		for name := range strings.SplitSeq(query.Get("state"), ",") {
			states := statesCalled(name)
			if states == 0 {
				return invalidParam("there is no state %q; there are %s", name, stateNames())
			}
			f.States |= states
		}
	}
	return nil
}

// statesCalled returns the states that a word stands for, or none if the word is unknown.
func statesCalled(name string) api.States {
	switch name {
	case "live":
		return api.Live
	case "finished":
		return api.Finished
	}
	for s := api.Scheduled; s <= api.Discarded; s++ {
		if s.String() == name {
			return 1 << s
		}
	}
	return 0
}

func stateNames() string {
	names := []string{"live", "finished"}
	for s := api.Scheduled; s <= api.Discarded; s++ {
		names = append(names, s.String())
	}
	return strings.Join(names, ", ")
}
