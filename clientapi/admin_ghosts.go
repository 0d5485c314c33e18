package clientapi

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"time"

	userapi "github.com/matrix-org/dendrite/userapi/api"
	"github.com/matrix-org/util"
	"github.com/sirupsen/logrus"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
)

// defaultGhostAge is after how long clients give up a membership that does not say when it ends.
const defaultGhostAge = 4 * time.Hour

// adminGhost is a ghost as an administrator sees it.
type adminGhost struct {
	UserID   string `json:"user_id"`
	RoomID   string `json:"room_id"`
	Type     string `json:"type"`
	StateKey string `json:"state_key"`
	EventID  string `json:"event_id"`
	Sent     int64  `json:"sent_ts"`
	Over     int64  `json:"over_ts"`
	Error    string `json:"error,omitempty"`
}

func newAdminGhost(g ghost) adminGhost {
	return adminGhost{
		UserID: string(g.SenderID()), RoomID: g.RoomID().String(), Type: g.Type(), StateKey: *g.StateKey(), EventID: g.EventID(),
		Sent: int64(g.OriginServerTS()), Over: g.over,
	}
}

// list serves GET /_dendrite/admin/ghosts for administrators. It lists ghosts that match all parameters, at most limit of
// them (default 100, maximum 1000).
//
//	user_id, room_id
//	max_age_ms: after how long a membership is over that does not say when it ends (default 4 hours)
//	limit, from: the value of next in the previous answer
//
//	{
//	  "ghosts": [{
//	    "user_id": "@u:example.org", "room_id": "!r:example.org", "event_id": "$e",
//	    "type": "org.matrix.msc3401.call.member", "state_key": "_@u:example.org_DEVICE",
//	    "sent_ts": 1700000000000, "over_ts": 1700014400000
//	  }],
//	  "next": "$e"
//	}
//
// next is absent on the last page.
func (g *ghosts) list(req *http.Request, _ *userapi.Device) util.JSONResponse {
	found, next, fault := g.asked(req)
	if fault != nil {
		return *fault
	}
	rows := make([]adminGhost, len(found))
	for i, f := range found {
		rows[i] = newAdminGhost(f)
	}
	return util.JSONResponse{Code: http.StatusOK, JSON: struct {
		Ghosts []adminGhost `json:"ghosts"`
		Next   string       `json:"next,omitempty"`
	}{rows, next}}
}

// clear serves DELETE /_dendrite/admin/ghosts for administrators: it takes the ghosts that GET lists for the same
// parameters out of their calls. failed lists those of which it could not, each with an error. A membership that has changed
// meanwhile is neither cleared nor failed.
//
//	{"cleared": 2, "failed": [], "next": "$e"}
func (g *ghosts) clear(req *http.Request, _ *userapi.Device) util.JSONResponse {
	found, next, fault := g.asked(req)
	if fault != nil {
		return *fault
	}
	failed, cleared := []adminGhost{}, 0
	for _, f := range found {
		switch err := g.leave(req.Context(), f); {
		case err == nil:
			cleared++
		case errors.Is(err, api.ErrNewerState): // the user has come back, or has left
		default:
			failed = append(failed, notCleared(req.Context(), f, err))
		}
	}
	return util.JSONResponse{Code: http.StatusOK, JSON: struct {
		Cleared int          `json:"cleared"`
		Failed  []adminGhost `json:"failed"`
		Next    string       `json:"next,omitempty"`
	}{cleared, failed, next}}
}

func notCleared(ctx context.Context, g ghost, err error) adminGhost {
	row := newAdminGhost(g)
	row.Error = "Internal server error"
	if refusal, ok := errors.AsType[*api.Refusal](err); ok {
		row.Error = refusal.Message
	} else if ctx.Err() == nil {
		util.GetLogger(ctx).WithError(err).WithFields(logrus.Fields{"room_id": row.RoomID, "user_id": row.UserID}).Error("Cannot clear a ghost")
	}
	return row
}

// asked finds the ghosts that a request asks for.
func (g *ghosts) asked(req *http.Request) (found []ghost, next string, fault *util.JSONResponse) {
	filter, fault := readGhostFilter(req.URL.Query())
	if fault != nil {
		return nil, "", fault
	}
	found, next, err := g.find(req.Context(), filter)
	if err != nil {
		res := failure(req.Context(), err, filter.roomID)
		return nil, "", &res
	}
	return found, next, nil
}

func readGhostFilter(query url.Values) (f ghostFilter, fault *util.JSONResponse) {
	if fault := onlyKnown(query, "user_id", "room_id", "max_age_ms", "limit", "from"); fault != nil {
		return f, fault
	}
	limit, fault := number(query, "limit", nil)
	maxAge, fault := number(query, "max_age_ms", fault)
	f = ghostFilter{
		userID: query.Get("user_id"), roomID: query.Get("room_id"), after: query.Get("from"),
		maxAge: defaultGhostAge, limit: adminDefaultLimit,
	}
	if limit > 0 {
		f.limit = int(min(limit, adminMaxLimit))
	}
	if maxAge > 0 {
		const longest = int64(100 * 365 * 24 * time.Hour / time.Millisecond)
		f.maxAge = time.Duration(min(maxAge, longest)) * time.Millisecond
	}
	return f, fault
}
