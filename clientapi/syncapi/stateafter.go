package syncapi

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/matrix-org/dendrite/clientapi/auth"
	rsapi "github.com/matrix-org/dendrite/roomserver/api"
	"github.com/matrix-org/dendrite/syncapi/synctypes"
	"github.com/matrix-org/dendrite/syncapi/types"
	userapi "github.com/matrix-org/dendrite/userapi/api"
	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/matrix-org/util"
)

const (
	// msc4222 is the prefix of the unstable names of MSC4222.
	msc4222 = "org.matrix.msc4222."

	// stateAfterLimit is how long the database queries may take. A first sync queries every room.
	stateAfterLimit = time.Minute
)

// object is a JSON object of which only some members are decoded.
type object = map[string]json.RawMessage

// StateAfter adds MSC4222 to the answers of next to /sync. If the request has use_state_after=true, each joined and
// each left room gets state_after instead of state. state_after has the state events that took effect between since and
// next_batch, including those of the timeline. Where next would give the whole state, state_after has the whole state:
// on a first sync, with full_state, and in newly joined rooms. The request may use the stable name, the unstable name,
// or both. The filter for state applies to state_after. All other requests and answers pass unchanged.
//
// syncDB is the database of Dendrite's sync API and is only read. If a query fails, the answer is a 500. The client
// then repeats the request with the same since and loses nothing.
func StateAfter(next http.Handler, syncDB *sql.DB, users userapi.QueryAcccessTokenAPI, rooms rsapi.QuerySenderIDAPI) http.Handler {
	s := &stateAfter{syncDatabase{syncDB}, users, rooms}
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if fields := stateAfterFields(req); len(fields) > 0 {
			s.answer(w, req, next, fields)
			return
		}
		next.ServeHTTP(w, req)
	})
}

// stateAfterFields returns the names under which a request asks for state_after; none if it does not.
func stateAfterFields(req *http.Request) (fields []string) {
	const stable = "use_state_after"
	if req.Method != http.MethodGet || !strings.Contains(req.URL.RawQuery, stable) {
		return nil
	}
	switch req.URL.EscapedPath() { // the form that Dendrite's router compares
	case "/_matrix/client/v3/sync", "/_matrix/client/r0/sync":
		query := req.URL.Query()
		for _, prefix := range []string{"", msc4222} {
			if query.Get(prefix+stable) == "true" {
				fields = append(fields, prefix+"state_after")
			}
		}
	}
	return fields
}

type stateAfter struct {
	db    syncDatabase
	users userapi.QueryAcccessTokenAPI
	rooms rsapi.QuerySenderIDAPI
}

func (s *stateAfter) answer(w http.ResponseWriter, req *http.Request, next http.Handler, fields []string) {
	r := &heldResponse{ResponseWriter: w, code: http.StatusOK}
	next.ServeHTTP(r, req)
	body := r.body.Bytes()
	if r.code == http.StatusOK {
		// A server that stops cancels long polls. Dendrite answers them at once, and these answers get state_after too.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(req.Context()), stateAfterLimit)
		defer cancel()
		var err error
		if body, err = s.rewrite(req.WithContext(ctx), body, fields); err != nil {
			util.GetLogger(ctx).WithError(err).Error("Cannot show the state of rooms after a sync")
			r.code = http.StatusInternalServerError
			body, _ = json.Marshal(spec.Unknown("Internal server error")) // cannot fail: only strings
		}
	}
	w.WriteHeader(r.code)
	w.Write(body) //nolint:errcheck // then the client is gone
}

// rewrite replaces state with state_after in all rooms of a response.
func (s *stateAfter) rewrite(req *http.Request, body []byte, fields []string) ([]byte, error) {
	response, sections := object{}, object{}
	if err := json.Unmarshal(body, &response); err != nil {
		return nil, err
	}
	if err := unmarshal(response["rooms"], &sections); err != nil {
		return nil, err
	}
	q, err := s.question(req, response["next_batch"])
	if err != nil {
		return nil, err
	}
	rooms := map[string]map[string]object{"join": {}, "leave": {}}
	for name, section := range rooms {
		if err := unmarshal(sections[name], &section); err != nil { // adds to the same map
			return nil, err
		}
		for roomID, room := range section {
			events, err := q.stateAfter(req.Context(), roomID, room, name == "leave")
			if err != nil {
				return nil, err
			}
			delete(room, "state")
			if err := putSection(room, fields, events); err != nil {
				return nil, err
			}
		}
	}
	if err := q.addUnlisted(req.Context(), rooms["join"], fields); err != nil {
		return nil, err
	}
	for name, section := range rooms {
		if len(section) > 0 {
			if sections[name], err = json.Marshal(section); err != nil {
				return nil, err
			}
		}
	}
	if len(sections) > 0 {
		if response["rooms"], err = json.Marshal(sections); err != nil {
			return nil, err
		}
	}
	return json.Marshal(response)
}

// heldResponse holds back status and body. Headers pass through.
type heldResponse struct {
	http.ResponseWriter
	code int
	body bytes.Buffer
}

func (r *heldResponse) WriteHeader(code int)        { r.code = code }
func (r *heldResponse) Write(b []byte) (int, error) { return r.body.Write(b) }

// unmarshal decodes a value that may be absent.
func unmarshal(text json.RawMessage, to any) error {
	if text == nil {
		return nil
	}
	return json.Unmarshal(text, to)
}

// putSection adds the section under all its names.
func putSection(room object, fields []string, events []json.RawMessage) error {
	section, err := json.Marshal(map[string]any{"events": events})
	for _, field := range fields {
		room[field] = section
	}
	return err
}

// question parses the parameters of the request. They are valid, because Dendrite has answered it.
func (s *stateAfter) question(req *http.Request, nextBatch []byte) (*stateQuestion, error) {
	device, refusal := auth.VerifyUserFromRequest(req, s.users)
	if refusal != nil {
		return nil, fmt.Errorf("the user is not known any more: %v", refusal.JSON)
	}
	var since, next types.StreamingToken
	if err := json.Unmarshal(nextBatch, &next); err != nil {
		return nil, err
	}
	query := req.URL.Query()
	if token := query.Get("since"); token != "" {
		var err error
		if since, err = types.NewStreamTokenFromString(token); err != nil {
			return nil, err
		}
	}
	filter, err := s.filter(req, query.Get("filter"), device.UserID)
	if err != nil {
		return nil, err
	}
	q := &stateQuestion{
		db:     s.db,
		userID: device.UserID,
		since:  since.PDUPosition,
		next:   next.PDUPosition,
		filter: filter.Room.State,
		format: synctypes.FormatSync,
		userIDForSender: func(room spec.RoomID, sender spec.SenderID) (*spec.UserID, error) {
			return s.rooms.QueryUserIDForSender(req.Context(), room, sender)
		},
	}
	if since.IsEmpty() {
		q.since = q.next // everything earlier is in the state that Dendrite returns
	}
	if filter.EventFormat == synctypes.EventFormatFederation {
		q.format = synctypes.FormatSyncFederation
	}
	return q, nil
}

// filter returns the filter that the request contains or names.
func (s *stateAfter) filter(req *http.Request, param, userID string) (filter synctypes.Filter, err error) {
	text := []byte(param)
	if param != "" && param[0] != '{' {
		localpart, _, err := gomatrixserverlib.SplitID('@', userID)
		if err != nil {
			return filter, err
		}
		if text, err = s.db.storedFilter(req.Context(), localpart, param); err != nil {
			return filter, err
		}
	}
	if len(text) > 0 {
		err = json.Unmarshal(text, &filter)
	}
	return filter, err
}
