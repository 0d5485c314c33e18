package clientapi

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/mux"
	"github.com/matrix-org/dendrite/internal/httputil"
	"github.com/matrix-org/dendrite/setup/config"
	userapi "github.com/matrix-org/dendrite/userapi/api"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
	fconfig "github.com/matrix-org/dendrite/futures/setup/config"
)

// The numbers in test names are those of docs/gen0-requirements.md.

const (
	room    = "!r:test"
	alice   = "@alice:test"
	client  = "/_matrix/client"
	sending = client + "/v3/rooms/!r:test/send_future/m.room.message/"
	state   = client + "/v3/rooms/!r:test/state_future/m.room.topic/"
	tokenAt = client + "/v3/futures/"
)

// fakeFutures is a futureserver without a clock. It records its calls and returns the errors that the test sets.
type fakeFutures struct {
	api.ClientAPI // methods without a fake must not be called

	mu         sync.Mutex
	created    []*api.Future
	byTxn      map[string]*api.Future
	fail       error               // error of creating, listing and administration
	outcome    map[api.Token]error // outcomes of the known tokens
	uses       []api.Token
	listed     []*api.Future
	filter     api.Filter
	counts     api.Counts
	statistics api.Statistics
	canceled   int

	events        []*api.Future // delayed events, by NID
	refusal       error         // error of actions on scheduled events
	acts          []act
	delayedFilter api.DelayedFilter
}

func (s *fakeFutures) PerformFutureCreation(_ context.Context, f *api.Future) (*api.Future, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if first := s.byTxn[string(f.TxnKey)]; first != nil {
		return first, nil
	}
	if s.fail != nil {
		return nil, s.fail
	}
	f.NID, f.Secret = api.NID(len(s.created)+1), api.NewSecret()
	if f.GroupID == "" {
		f.GroupID = f.Token(api.GroupToken).String()
	}
	s.created = append(s.created, f)
	if f.TxnKey != nil {
		s.byTxn[string(f.TxnKey)] = f
	}
	return f, nil
}

func (s *fakeFutures) QueryFutureByTransaction(_ context.Context, _ string, key []byte) (*api.Future, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.byTxn[string(key)], nil
}

func (s *fakeFutures) PerformTokenAction(_ context.Context, t api.Token) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.uses = append(s.uses, t)
	if err, known := s.outcome[t]; known {
		return err
	}
	return api.ErrGone
}

func (s *fakeFutures) QueryFuturesByUser(_ context.Context, user string) ([]*api.Future, error) {
	var own []*api.Future
	for _, f := range s.listed {
		if f.UserID == user {
			own = append(own, f)
		}
	}
	return own, s.fail
}

func (s *fakeFutures) QueryFutures(_ context.Context, f api.Filter) ([]*api.Future, error) {
	s.filter = f
	return s.listed, s.fail
}

func (s *fakeFutures) QueryFutureCounts(context.Context) api.Counts { return s.counts }

func (s *fakeFutures) QueryStatistics(context.Context) api.Statistics { return s.statistics }

func (s *fakeFutures) PerformAdminCancellation(_ context.Context, f api.Filter) (int, error) {
	s.filter = f
	return s.canceled, s.fail
}

// An act is a call of PerformDelayedEventAction.
type act struct {
	id, owner string
	action    api.Action
}

func (s *fakeFutures) PerformDelayedEventAction(_ context.Context, id, owner string, a api.Action) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.acts = append(s.acts, act{id, owner, a})
	f, err := s.delayed(id, owner)
	if err == nil && f.State != api.Scheduled {
		return &api.FinishedError{Future: f}
	}
	if err == nil {
		err = s.refusal
	}
	return err
}

func (s *fakeFutures) QueryDelayedEvent(_ context.Context, id, owner string) (*api.Future, error) {
	if s.fail != nil {
		return nil, s.fail
	}
	return s.delayed(id, owner)
}

func (s *fakeFutures) delayed(id, owner string) (*api.Future, error) {
	for _, f := range s.events {
		if f.GroupID == id && (owner == "" || owner == f.UserID) {
			return f, nil
		}
	}
	return nil, api.ErrGone
}

func (s *fakeFutures) QueryDelayedEvents(_ context.Context, filter api.DelayedFilter) (found []*api.Future, err error) {
	s.delayedFilter = filter
	states := filter.States
	if states == nil {
		states = []api.State{api.Scheduled}
	}
	events := slices.Clone(s.events)
	if filter.Backwards {
		slices.Reverse(events)
	}
	for _, f := range events {
		beyond := filter.After == 0 || !filter.Backwards && f.NID > filter.After || filter.Backwards && f.NID < filter.After
		if f.UserID == filter.UserID && beyond && slices.Contains(states, f.State) && (filter.RoomID == "" || filter.RoomID == f.RoomID) &&
			len(found) < filter.Limit {
			found = append(found, f)
		}
	}
	return found, s.fail
}

// fakeUsers knows an access token for each of its devices. AS_Device is what Dendrite makes of an application
// service's token and a user_id.
type fakeUsers struct{}

func (fakeUsers) QueryAccessToken(_ context.Context, req *userapi.QueryAccessTokenRequest, res *userapi.QueryAccessTokenResponse) error {
	res.Device = map[string]*userapi.Device{
		"alice":  {ID: "PHONE", UserID: alice, SessionID: 7, AccountType: userapi.AccountTypeUser},
		"alice2": {ID: "LAPTOP", UserID: alice, SessionID: 8, AccountType: userapi.AccountTypeUser},
		"bob":    {ID: "PHONE", UserID: "@bob:test", AccountType: userapi.AccountTypeUser},
		"exempt": {ID: "PHONE", UserID: "@exempt:test", AccountType: userapi.AccountTypeUser},
		"guest":  {ID: "PHONE", UserID: "@1:test", AccountType: userapi.AccountTypeGuest},
		"admin":  {ID: "PHONE", UserID: "@admin:test", AccountType: userapi.AccountTypeAdmin},
		"bridge": {ID: "AS_Device", UserID: req.AppServiceUserID, AppserviceID: "bridge", AccountType: userapi.AccountTypeAppService},
		"other":  {ID: "AS_Device", UserID: req.AppServiceUserID, AppserviceID: "other", AccountType: userapi.AccountTypeAppService},
	}[req.AccessToken]
	return nil
}

// harness is this package's routes in front of fake routes of Dendrite.
type harness struct {
	*fakeFutures
	tokens     *TokenHandler
	management *ManagementHandler
	router     http.Handler
}

func newHarness(change ...func(*fconfig.FutureServer)) *harness {
	var cfg config.Dendrite
	cfg.ClientAPI.RateLimiting.ExemptUserIDs = []string{"@exempt:test"}
	var fcfg fconfig.FutureServer
	fcfg.Defaults()
	for _, f := range change {
		f(&fcfg)
	}
	fake := &fakeFutures{byTxn: map[string]*api.Future{}, outcome: map[api.Token]error{}}
	routers := httputil.NewRouters()
	tokens, management := AddPublicRoutes(routers, &cfg, &fcfg, fake, fakeUsers{})

	stock := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, `{"stock":true}`) })
	v3 := routers.Client.PathPrefix("/{apiversion:(?:r0|v3)}/").Subrouter()
	v3.Handle("/rooms/{roomID}/send/{eventType}", stock).Methods("POST", "OPTIONS")
	v3.Handle("/rooms/{roomID}/send/{eventType}/{txnID}", stock).Methods("PUT", "OPTIONS")
	v3.Handle("/rooms/{roomID}/redact/{eventID}", stock).Methods("POST", "OPTIONS")
	v3.Handle("/rooms/{roomID}/redact/{eventID}/{txnId}", stock).Methods("PUT", "OPTIONS")
	v3.Handle("/rooms/{roomID}/state/{type:[^/]+/?}", stock).Methods("GET", "OPTIONS")
	v3.Handle("/rooms/{roomID}/state/{type}/{stateKey}", stock).Methods("GET", "OPTIONS")
	v3.Handle("/rooms/{roomID}/state/{eventType:[^/]+/?}", stock).Methods("PUT", "OPTIONS")
	v3.Handle("/rooms/{roomID}/state/{eventType}/{stateKey}", stock).Methods("PUT", "OPTIONS")

	routers.Client.HandleFunc("/versions", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Access-Control-Allow-Origin", "*")
		io.WriteString(w, `{"versions":["v1.2"],"unstable_features":{"org.matrix.other":true}}`)
	}).Methods("GET", "OPTIONS")
	v3.HandleFunc("/capabilities", func(w http.ResponseWriter, req *http.Request) {
		if req.Header.Get("Authorization") == "" {
			w.WriteHeader(401)
		}
		io.WriteString(w, `{"capabilities":{"m.other":{"enabled":true}}}`)
	}).Methods("GET", "OPTIONS")

	outer := mux.NewRouter().SkipClean(true).UseEncodedPath()
	outer.PathPrefix(httputil.DendriteAdminPathPrefix).Handler(routers.DendriteAdmin)
	outer.PathPrefix(httputil.PublicClientPathPrefix).Handler(routers.Client)
	return &harness{fake, tokens, management, outer}
}

// answer is a parsed response.
type answer struct {
	code   int
	body   string
	header http.Header
	json   map[string]any // nil if the body is no object
}

func (a answer) errcode() string { s, _ := a.json["errcode"].(string); return s }

func (h *harness) do(method, path, accessToken, body string, headers ...string) answer {
	req := httptest.NewRequest(method, path, strings.NewReader(body))
	if accessToken != "" {
		req.Header.Set("Authorization", "Bearer "+accessToken)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Add(headers[i], headers[i+1])
	}
	rec := httptest.NewRecorder()
	h.router.ServeHTTP(rec, req)
	a := answer{code: rec.Code, body: rec.Body.String(), header: rec.Result().Header}
	json.Unmarshal(rec.Body.Bytes(), &a.json)
	return a
}

func (h *harness) put(path string) answer { return h.do("PUT", path, "alice", `{"body":"hi"}`) }

// want fails the test unless the answer is an error with that status and code.
func (a answer) want(t *testing.T, code int, errcode string) {
	t.Helper()
	if a.code != code || a.errcode() != errcode {
		t.Errorf("got %d %s, want %d %s", a.code, a.body, code, errcode)
	}
}

func (a answer) wantOK(t *testing.T) answer {
	t.Helper()
	if a.code != http.StatusOK {
		t.Errorf("got %d %s, want 200", a.code, a.body)
	}
	return a
}

func ptr[T any](v T) *T { return &v }

func unlimited(c *fconfig.FutureServer) { c.RateLimits = fconfig.RateLimits{} }

// timeoutFuture is a future as the core returns it.
func timeoutFuture(user string) *api.Future {
	return &api.Future{
		NID: 7, Secret: api.NewSecret(), State: api.Scheduled, UserID: user, RoomID: room, Type: "m.room.message",
		Content: json.RawMessage(`{"body":"bye"}`), GroupID: "g", Timeout: 10 * time.Second, TxnID: "t1",
		Created: 1_700_000_000_000, Deadline: 1_700_000_010_000,
	}
}
