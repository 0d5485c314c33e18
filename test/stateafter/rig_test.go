// Package stateafter tests state_after in /sync (MSC4222): with Dendrite's roomserver and sync API in this process,
// where any event can be created, and with whole servers from outside.
package stateafter

import (
	"context"
	"database/sql"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/internal/caching"
	"github.com/matrix-org/dendrite/internal/httputil"
	rsapi "github.com/matrix-org/dendrite/roomserver/api"
	"github.com/matrix-org/dendrite/roomserver/types"
	"github.com/matrix-org/dendrite/syncapi"
	synctypes "github.com/matrix-org/dendrite/syncapi/types"
	"github.com/matrix-org/dendrite/test"
	userapi "github.com/matrix-org/dendrite/userapi/api"
	"github.com/tidwall/gjson"

	additions "github.com/matrix-org/dendrite/futures/clientapi/syncapi"
	"github.com/matrix-org/dendrite/futures/test/components"
)

const patience = 30 * time.Second

// server is Dendrite's roomserver and sync API in this process, with StateAfter in front.
type server struct {
	*testing.T
	rsAPI rsapi.RoomserverInternalAPI
	db    *sql.DB // of the sync API
	stock http.Handler
	ours  http.Handler
	after func() // called once between Dendrite's response and ours
}

// withDatabases runs the test on SQLite, and on PostgreSQL if the environment names one.
func withDatabases(t *testing.T, f func(*server)) {
	components.WithDatabases(t, func(t *testing.T, dbType test.DBType) { f(newServer(t, dbType)) })
}

func newServer(t *testing.T, dbType test.DBType) *server {
	rooms, routers := components.NewRoomserver(t, dbType), httputil.NewRouters()
	rooms.SetFederationAPI(nil, nil)
	s := &server{T: t, rsAPI: rooms}
	syncapi.AddPublicRoutes(rooms.Process, routers, rooms.Config, rooms.Connections, rooms.NATS, accounts{}, rooms, rooms.Caches, caching.DisableMetrics)
	var err error
	if s.db, _, err = rooms.Connections.Connection(&rooms.Config.SyncAPI.Database); err != nil {
		t.Fatal(err)
	}
	s.stock = routers.Client
	s.ours = additions.StateAfter(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.stock.ServeHTTP(w, r)
		if f := s.after; f != nil {
			s.after = nil
			f()
		}
	}), s.db, accounts{}, s.rsAPI)
	return s
}

// accounts is a user API that accepts everybody: the access token is the user ID.
type accounts struct{ userapi.SyncUserAPI }

func (accounts) QueryAccessToken(_ context.Context, req *userapi.QueryAccessTokenRequest, res *userapi.QueryAccessTokenResponse) error {
	res.Device = &userapi.Device{ID: "DEVICE", UserID: req.AccessToken, SessionID: 1, AccountType: userapi.AccountTypeUser}
	return nil
}

func (accounts) QueryKeyChanges(context.Context, *userapi.QueryKeyChangesRequest, *userapi.QueryKeyChangesResponse) error {
	return nil
}

func (accounts) QueryOneTimeKeys(context.Context, *userapi.QueryOneTimeKeysRequest, *userapi.QueryOneTimeKeysResponse) error {
	return nil
}

func (accounts) PerformLastSeenUpdate(context.Context, *userapi.PerformLastSeenUpdateRequest, *userapi.PerformLastSeenUpdateResponse) error {
	return nil
}

// input submits events to the roomserver and waits until the sync API has the last one.
func (s *server) input(events ...rsapi.InputRoomEvent) {
	s.Helper()
	if err := rsapi.SendInputRoomEvents(s.Context(), s.rsAPI, "test", events, false); err != nil {
		s.Fatal(err)
	}
	last := events[len(events)-1].Event.EventID()
	for start := time.Now(); ; time.Sleep(2 * time.Millisecond) {
		var id int64
		err := s.db.QueryRow("SELECT id FROM syncapi_output_room_events WHERE event_id = $1", last).Scan(&id)
		if err == nil && s.position() >= id {
			return
		}
		if time.Since(start) > patience {
			s.Fatalf("the sync API does not have %s: %v", last, err)
		}
	}
}

// position is the stream position up to which a returning client sees events. A first sync would be a moment ahead:
// Dendrite advances the stream's position, which it uses, before it notifies others.
func (s *server) position() int64 {
	before := synctypes.StreamingToken{PDUPosition: 1}
	token := s.get(s.stock, "@nobody:test", url.Values{"since": {before.String()}, "timeout": {"0"}}).Get("next_batch").String()
	first, _, _ := strings.Cut(strings.TrimPrefix(token, "s"), "_")
	return gjson.Parse(first).Int()
}

func (s *server) send(events ...*types.HeaderedEvent) {
	s.Helper()
	inputs := make([]rsapi.InputRoomEvent, len(events))
	for i, e := range events {
		inputs[i] = rsapi.InputRoomEvent{Kind: rsapi.KindNew, Event: e, Origin: "test"}
	}
	s.input(inputs...)
}

// get requests /sync and returns the response, which must be a 200.
func (s *server) get(h http.Handler, userID string, query url.Values) gjson.Result {
	s.Helper()
	w := s.ask(h, userID, query)
	if w.Code != http.StatusOK {
		s.Fatalf("%d %s", w.Code, w.Body)
	}
	return gjson.ParseBytes(w.Body.Bytes())
}

func (s *server) ask(h http.Handler, userID string, query url.Values) *httptest.ResponseRecorder {
	req := httptest.NewRequestWithContext(s.Context(), http.MethodGet, "/_matrix/client/v3/sync?"+query.Encode(), nil)
	req.Header.Set("Authorization", "Bearer "+userID)
	w := httptest.NewRecorder()
	h.ServeHTTP(w, req)
	return w
}

// client keeps the state of one room by state_after alone.
type client struct {
	*server
	user   string
	room   string
	since  string
	filter map[string]any
	extra  url.Values
	state  map[string]string // content by type and state key
	left   bool
	last   gjson.Result // the room in the last response
}

func (s *server) client(user *test.User, room *test.Room, filter map[string]any) *client {
	return &client{server: s, user: user.ID, room: room.ID, filter: filter, state: map[string]string{}}
}

// sync sends one request and returns the content of state_after by type and state key.
func (c *client) sync() map[string]string {
	c.Helper()
	query := url.Values{"use_state_after": {"true"}, "timeout": {"0"}}
	for name, values := range c.extra {
		query[name] = values
	}
	if c.since != "" {
		query.Set("since", c.since)
	}
	if c.filter != nil {
		text, err := json.Marshal(c.filter)
		if err != nil {
			c.Fatal(err)
		}
		query.Set("filter", string(text))
	}
	response := c.get(c.ours, c.user, query)
	c.since = response.Get("next_batch").String()
	section := "join"
	c.left = response.Get("rooms.leave." + gjson.Escape(c.room)).Exists()
	if c.left {
		section = "leave"
	}
	c.last = response.Get("rooms." + section + "." + gjson.Escape(c.room))
	if c.last.Exists() && (c.last.Get("state").Exists() || !c.last.Get("state_after.events").IsArray()) {
		c.Errorf("state instead of state_after: %s", c.last.Raw)
	}
	changes := map[string]string{}
	for _, e := range c.last.Get("state_after.events").Array() {
		key := e.Get("type").String() + "|" + e.Get("state_key").String()
		if _, twice := changes[key]; twice {
			c.Errorf("%s is in state_after twice: %s", key, c.last.Raw)
		}
		changes[key] = e.Get("content").Raw
		c.state[key] = e.Get("content").Raw
	}
	return changes
}

// real is the state of the room as the roomserver has it.
func (c *client) real() map[string]string {
	c.Helper()
	var res rsapi.QueryLatestEventsAndStateResponse
	if err := c.rsAPI.QueryLatestEventsAndState(c.Context(), &rsapi.QueryLatestEventsAndStateRequest{RoomID: c.room}, &res); err != nil {
		c.Fatal(err)
	}
	state := map[string]string{}
	for _, e := range res.StateEvents {
		state[e.Type()+"|"+*e.StateKey()] = string(e.Content())
	}
	return state
}
