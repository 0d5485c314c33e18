package syncapi

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	userapi "github.com/matrix-org/dendrite/userapi/api"
	"github.com/matrix-org/util"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
)

// fakeIDs knows the delay IDs of users.
type fakeIDs struct {
	api.SyncAPI
	byUser map[string]map[string]string
	err    error
	asked  []string
}

func (s *fakeIDs) QueryDelayIDs(_ context.Context, userID string) (map[string]string, error) {
	s.asked = append(s.asked, userID)
	return s.byUser[userID], s.err
}

// fakeUsers is a user API that only authenticates. AS_Device is what Dendrite makes of an application service's token
// and a user_id.
type fakeUsers struct{ userapi.UserInternalAPI }

func (fakeUsers) QueryAccessToken(_ context.Context, req *userapi.QueryAccessTokenRequest, res *userapi.QueryAccessTokenResponse) error {
	res.Device = map[string]*userapi.Device{
		"alice":  {ID: "PHONE", UserID: alice},
		"alice2": {ID: "LAPTOP", UserID: alice},
		"bob":    {ID: "PHONE", UserID: "@bob:test"},
		"bridge": {ID: "AS_Device", UserID: req.AppServiceUserID, AppserviceID: "bridge"},
	}[req.AccessToken]
	return nil
}

const (
	alice    = "@alice:test"
	client   = "/_matrix/client"
	syncing  = client + "/v3/sync"
	mine     = `{"content":{},"event_id":"$1","sender":"@alice:test","type":"m"}`
	mineSeen = `{"unsigned":{` + shown + `},"content":{},"event_id":"$1","sender":"@alice:test","type":"m"}`
	shown    = `"org.matrix.msc4140.delay_id":"d1","delay_id":"d1"`
)

func aliceHasOne() *fakeIDs {
	return &fakeIDs{byUser: map[string]map[string]string{alice: {"$1": "d1", "$2": "d2"}}}
}

// respondWith answers every request with a valid token, as Dendrite does.
func respondWith(write func(http.ResponseWriter, *http.Request)) http.Handler {
	users := NoteCallers(fakeUsers{})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var res userapi.QueryAccessTokenResponse
		err := users.QueryAccessToken(r.Context(), &userapi.QueryAccessTokenRequest{
			AccessToken:      strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "),
			AppServiceUserID: r.URL.Query().Get("user_id"),
		}, &res)
		if err != nil || res.Device == nil {
			util.MakeJSONAPI(util.NewJSONRequestHandler(func(*http.Request) util.JSONResponse {
				return util.MessageResponse(http.StatusUnauthorized, mine)
			}))(w, r)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		write(w, r)
	})
}

func body(text string) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, text) }
}

func fetch(h http.Handler, method, target, token string) *httptest.ResponseRecorder {
	req := httptest.NewRequest(method, target, nil)
	req.Header.Set("Authorization", "Bearer "+token)
	w := httptest.NewRecorder()
	h.ServeHTTP(w, req)
	return w
}

// connect requests /sync over a real connection.
func connect(t *testing.T, server *httptest.Server, token string) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), "GET", server.URL+syncing, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	res, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	return res
}

func TestWhoSeesDelayIDs(t *testing.T) {
	const as = "?user_id="
	for _, c := range []struct {
		name, method, target, token string
		shown                       bool
	}{
		{"one device", "GET", syncing, "alice", true},
		{"the other device", "GET", syncing, "alice2", true},
		{"somebody else", "GET", syncing, "bob", false},
		{"an application service, as the sender", "GET", syncing + as + alice, "bridge", true},
		{"an application service, as somebody else", "GET", syncing + as + "@bridged:test", "bridge", false},
		{"nobody", "GET", syncing, "unknown", false},
		{"r0", "GET", client + "/r0/sync?timeout=1", "alice", true},
		{"messages", "GET", client + "/v3/rooms/!r:test/messages?dir=b", "alice", true},
		{"messages with slash", "GET", client + "/v3/rooms/!r:test/messages/", "alice", true},
		{"context", "GET", client + "/v3/rooms/!r:test/context/$1", "alice", true},
		{"event", "GET", client + "/v3/rooms/!r:test/event/$1", "alice", true},
		{"escaped", "GET", client + "/v3/rooms/%21r%2F%3Atest/event/%241%2F", "alice", true},
		{"relations", "GET", client + "/v1/rooms/!r:test/relations/$1/m.thread/m.room.message", "alice", true},
		{"unstable relations", "GET", client + "/unstable/rooms/!r:test/relations/$1", "alice", true},
		{"threads", "GET", client + "/v1/rooms/!r:test/threads", "alice", true},
		{"threads before they were stable", "GET", client + "/unstable/org.matrix.msc3856/rooms/!r:test/threads", "alice", true},
		{"members", "GET", client + "/v3/rooms/!r:test/members", "alice", true},
		{"search", "POST", client + "/v3/search", "alice", true},
		{"MSC2836", "POST", client + "/unstable/event_relationships", "alice", true},
		{"the room's state", "GET", client + "/v3/rooms/!r:test/state", "alice", true},
		{"one piece of state", "GET", client + "/v3/rooms/!r:test/state/m/k?format=event", "alice", true},
		{"the content of one", "GET", client + "/v3/rooms/!r:test/state/m/k", "alice", false},
		{"sending", "PUT", client + "/v3/rooms/!r:test/send/m/event", "alice", false},
		{"a room's tags", "GET", client + "/v3/user/@alice:test/rooms/!r:test/tags", "alice", false},
		{"account data", "GET", client + "/v3/user/@alice:test/rooms/!r:test/account_data/sync.messages", "alice", false},
		{"account data named so", "GET", client + "/v3/user/@alice:test/account_data/event", "alice", false},
		{"federation", "GET", "/_matrix/federation/v1/event/$1", "alice", false},
		{"media", "GET", "/_matrix/media/v3/sync", "alice", false},
	} {
		w := fetch(ShowDelayIDs(aliceHasOne(), respondWith(body("["+mine+"]"))), c.method, c.target, c.token)
		if got := strings.Contains(w.Body.String(), shown); got != c.shown {
			t.Errorf("%s: %s", c.name, w.Body)
		}
		if want := "[" + mine + "]"; !c.shown && c.token != "unknown" && w.Body.String() != want {
			t.Errorf("%s: %s", c.name, w.Body)
		}
	}
}

func TestWhereDelayIDsStand(t *testing.T) {
	other := `{"content":{"a":"\u00e9"},"event_id":"$3","sender":"@alice:test"}`
	theirs := strings.Replace(mine, alice, "@bob:test", 1)
	for name, c := range map[string][2]string{
		"the event alone":      {mine, mineSeen},
		"in sync":              {`{"rooms":{"join":{"!r":{"timeline":{"events":[` + other + `,` + mine + `]}}}}}`, `{"rooms":{"join":{"!r":{"timeline":{"events":[` + other + `,` + mineSeen + `]}}}}}`},
		"several":              {`{"chunk":[` + mine + `],"state":[` + mine + `]}`, `{"chunk":[` + mineSeen + `],"state":[` + mineSeen + `]}`},
		"beside unsigned":      {`{"event_id":"$1","sender":"@alice:test","unsigned":{"age":1}}`, `{"event_id":"$1","sender":"@alice:test","unsigned":{` + shown + `,"age":1}}`},
		"in an empty unsigned": {`{"event_id":"$1","sender":"@alice:test","unsigned":{ }}`, `{"event_id":"$1","sender":"@alice:test","unsigned":{` + shown + ` }}`},
		"with white space":     {" [ {\n\"sender\" :\t\"@alice:test\" , \"event_id\" : \"$1\" } ] ", " [ {\"unsigned\":{" + shown + "},\n\"sender\" :\t\"@alice:test\" , \"event_id\" : \"$1\" } ] "},
		"escaped":              {`{"event_id":"\u00241","sender":"@alice\u003atest"}`, `{"unsigned":{` + shown + `},"event_id":"\u00241","sender":"@alice\u003atest"}`},
		"in a redaction": {
			`{"event_id":"$9","sender":"@bob:test","unsigned":{"redacted_because":` + mine + `}}`,
			`{"event_id":"$9","sender":"@bob:test","unsigned":{"redacted_because":` + mineSeen + `}}`,
		},
		"redacted by another": {
			`{"event_id":"$1","sender":"@alice:test","unsigned":{"redacted_because":{"event_id":"$2","sender":"@alice:test"}}}`,
			`{"event_id":"$1","sender":"@alice:test","unsigned":{` + shown + `,"redacted_because":{"unsigned":{` + strings.ReplaceAll(shown, "d1", "d2") + `},"event_id":"$2","sender":"@alice:test"}}}`,
		},
		"in a thread": {
			`{"event_id":"$9","sender":"@bob:test","unsigned":{"m.relations":{"m.thread":{"latest_event":` + mine + `}}}}`,
			`{"event_id":"$9","sender":"@bob:test","unsigned":{"m.relations":{"m.thread":{"latest_event":` + mineSeen + `}}}}`,
		},
		"in a search": {
			`{"search_categories":{"room_events":{"results":[{"context":{"events_after":[` + mine + `]},"result":` + mine + `}]}}}`,
			`{"search_categories":{"room_events":{"results":[{"context":{"events_after":[` + mineSeen + `]},"result":` + mineSeen + `}]}}}`,
		},
		"not in contents":           {`{"event_id":"$8","sender":"@alice:test","content":` + mine + `,"unsigned":{"prev_content":` + mine + `}}`, ""},
		"not on others' events":     {`[` + theirs + `]`, ""},
		"not on other events":       {`[` + other + `]`, ""},
		"not without a sender":      {`{"event_id":"$1"}`, ""},
		"not without an ID":         {`{"sender":"@alice:test"}`, ""},
		"not on values":             {`{"sender":{"a":"@alice:test"},"event_id":["$1"]}`, ""},
		"nothing at all":            {``, ""},
		"null":                      {`null`, ""},
		"no JSON":                   {`{"event_id":"$1","sender":`, ""},
		"too deep to be Dendrite's": {strings.Repeat(`[`, 5000) + mine + strings.Repeat(`]`, 5000), ""},
	} {
		if c[1] == "" {
			c[1] = c[0]
		}
		w := fetch(ShowDelayIDs(aliceHasOne(), respondWith(body(c[0]))), "GET", syncing, "alice")
		if w.Body.String() != c[1] {
			t.Errorf("%s: %s became\n%s, want\n%s", name, c[0], w.Body, c[1])
		}
	}
}

// Only a JSON response with status 200 to a user with delayed events is changed.
func TestOtherResponsesPassThrough(t *testing.T) {
	for name, c := range map[string]struct {
		ids   *fakeIDs
		token string
		write func(http.ResponseWriter, *http.Request)
	}{
		"no delayed events": {aliceHasOne(), "bob", body(mine)},
		"trouble":           {&fakeIDs{err: errors.New("no database")}, "alice", body(mine)},
		"an error":          {aliceHasOne(), "alice", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(403); io.WriteString(w, mine) }},
		"compressed": {aliceHasOne(), "alice", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			io.WriteString(w, mine)
		}},
		"no JSON": {aliceHasOne(), "alice", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/html")
			io.WriteString(w, mine)
		}},
		"nothing": {aliceHasOne(), "alice", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) }},
	} {
		inner := respondWith(c.write)
		got := fetch(ShowDelayIDs(c.ids, inner), "GET", syncing, c.token)
		want := fetch(inner, "GET", syncing, c.token)
		if got.Code != want.Code || got.Body.String() != want.Body.String() || len(got.Header()) != len(want.Header()) {
			t.Errorf("%s: %d %s, want %d %s", name, got.Code, got.Body, want.Code, want.Body)
		}
	}
}

// A response to which nothing is added is streamed, and a ResponseController keeps all its abilities.
func TestResponsesStream(t *testing.T) {
	for _, token := range []string{"alice", "bob"} {
		next := make(chan bool)
		server := httptest.NewServer(ShowDelayIDs(aliceHasOne(), respondWith(func(w http.ResponseWriter, r *http.Request) {
			rc := http.NewResponseController(w)
			if err := rc.SetWriteDeadline(time.Now().Add(time.Minute)); err != nil {
				t.Error(err)
			}
			w.WriteHeader(http.StatusEarlyHints)
			io.WriteString(w, "["+mine)
			if err := rc.Flush(); err != nil {
				t.Error(err)
			}
			w.(http.Flusher).Flush()
			if token == "bob" {
				<-next // until the first part has been read
			}
			io.WriteString(w, "]")
		})))
		res := connect(t, server, token)
		want := "[" + mineSeen
		if token == "bob" {
			want = "[" + mine
		}
		got := make([]byte, len(want))
		if _, err := io.ReadFull(res.Body, got); err != nil || string(got) != want {
			t.Errorf("%s read %s, %v", token, got, err)
		}
		close(next)
		if rest, err := io.ReadAll(res.Body); err != nil || string(rest) != "]" {
			t.Errorf("%s read %s, %v", token, rest, err)
		}
		res.Body.Close()
		server.Close()
	}
}

func TestContentLengthIsTrue(t *testing.T) {
	server := httptest.NewServer(ShowDelayIDs(aliceHasOne(), respondWith(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", strconv.Itoa(len(mine)))
		w.WriteHeader(http.StatusOK)
		io.WriteString(w, mine)
	})))
	defer server.Close()
	for token, want := range map[string]string{"alice": mineSeen, "bob": mine} {
		res := connect(t, server, token)
		got, err := io.ReadAll(res.Body)
		res.Body.Close()
		if err != nil || string(got) != want || res.ContentLength != int64(len(want)) {
			t.Errorf("%s: %s of length %d, %v", token, got, res.ContentLength, err)
		}
	}
}

// Invariant 8: a response that is larger than the limit is not changed.
func TestHugeResponsePassesThrough(t *testing.T) {
	chunk := strings.Repeat(" ", 1<<20)
	written := 0
	h := ShowDelayIDs(aliceHasOne(), respondWith(func(w http.ResponseWriter, _ *http.Request) {
		for range mostRecorded>>20 + 2 {
			n, err := io.WriteString(w, chunk)
			if err != nil {
				t.Fatal(err)
			}
			written += n
		}
		n, _ := io.WriteString(w, mine)
		written += n
	}))
	w := fetch(h, "GET", syncing, "alice")
	if got := w.Body.Len(); got != written || !strings.HasSuffix(w.Body.String(), " "+mine) {
		t.Errorf("%d bytes of %d", got, written)
	}
}

// The event may be sent, and may be the user's first, while a request waits.
func TestDelayIDOfAnEventThatWasWaitedFor(t *testing.T) {
	ids := &fakeIDs{byUser: map[string]map[string]string{}}
	h := ShowDelayIDs(ids, respondWith(func(w http.ResponseWriter, r *http.Request) {
		if len(ids.asked) != 0 {
			t.Error("it was decided too early")
		}
		ids.byUser[alice] = map[string]string{"$1": "d1"}
		io.WriteString(w, mine)
	}))
	if w := fetch(h, "GET", syncing, "alice"); w.Body.String() != mineSeen {
		t.Error(w.Body)
	}
	if len(ids.asked) != 1 || ids.asked[0] != alice {
		t.Errorf("asked for %v", ids.asked)
	}
}

// If the client goes away, its request is cancelled. If the handler panics, no response is sent.
func TestCancelledAndAbortedRequests(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	req := httptest.NewRequestWithContext(ctx, "GET", syncing, nil)
	req.Header.Set("Authorization", "Bearer alice")
	w := httptest.NewRecorder()
	defer func() {
		if recover() != http.ErrAbortHandler || w.Body.Len() != 0 {
			t.Errorf("the response is %s", w.Body)
		}
	}()
	ShowDelayIDs(aliceHasOne(), respondWith(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "[")
		cancel()
		<-r.Context().Done()
		panic(http.ErrAbortHandler)
	})).ServeHTTP(w, req)
}
