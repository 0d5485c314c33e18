// Package remote tests what clients see when another server refuses a request made on their behalf, fails, or cannot be
// reached: a text for people, and a status about their request. Above all it must not be 401, which tells clients that
// their own login is over.
package remote_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/matrix-org/dendrite/futures/test/rig"
)

func TestMain(m *testing.M) { rig.Main(m) }

// fake starts a server that gives every request the same answer, and returns its name. With a status of 0 it is gone.
func fake(t *testing.T, status int, body string) string {
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		io.WriteString(w, body)
	}))
	if status == 0 {
		s.Close()
	} else {
		t.Cleanup(s.Close)
	}
	return strings.TrimPrefix(s.URL, "https://")
}

// A refusal is the answer of another server, and the answer that our client must get.
type refusal struct {
	status  int
	body    string
	want    int
	errcode string
	text    string // a part of it
}

func matrixError(code string) string {
	return `{"errcode":"` + code + `","error":"the reason is ` + code + `"}`
}

// everywhere are refusals that have the same meaning for all requests.
var everywhere = []refusal{
	{403, matrixError("M_FORBIDDEN"), 403, "M_FORBIDDEN", "the reason is M_FORBIDDEN"},
	{404, matrixError("M_NOT_FOUND"), 404, "M_NOT_FOUND", ""},
	{429, `{"errcode":"M_LIMIT_EXCEEDED","error":"slow down","retry_after_ms":7}`, 429, "M_LIMIT_EXCEEDED", "slow down"},
	{401, matrixError("M_UNAUTHORIZED"), 502, "M_UNKNOWN", "the reason is M_UNAUTHORIZED"},
	{401, matrixError("M_UNKNOWN_TOKEN"), 502, "M_UNKNOWN", "the reason is M_UNKNOWN_TOKEN"},
	{400, matrixError("M_MISSING_PARAM"), 502, "M_UNKNOWN", "the reason is M_MISSING_PARAM"},
	{400, matrixError("M_INVALID_PARAM"), 502, "M_UNKNOWN", "the reason is M_INVALID_PARAM"},
	{500, matrixError("M_UNKNOWN"), 502, "M_UNKNOWN", "the reason is M_UNKNOWN"},
	{403, "<html>a proxy</html>", 502, "M_UNKNOWN", "403"},
	{502, "", 502, "M_UNKNOWN", "502"},
	{200, "this is no JSON", 502, "M_UNKNOWN", ""},
	{0, "", 502, "M_UNKNOWN", "cannot be reached"},
}

// versions are refusals because of the version of the room, or of the other server.
var versions = []refusal{
	{
		400, `{"errcode":"M_INCOMPATIBLE_ROOM_VERSION","error":"not with us","room_version":"99"}`,
		400, "M_INCOMPATIBLE_ROOM_VERSION", "not with us",
	},
	{404, matrixError("M_UNRECOGNIZED"), 502, "M_UNKNOWN", ""}, // a server without the endpoint
	{400, matrixError("M_UNSUPPORTED_ROOM_VERSION"), 400, "M_UNSUPPORTED_ROOM_VERSION", "the reason is"},
}

// An asking is one way in which alice makes her server ask another one.
type asking struct {
	what string
	ask  func(remote string) rig.Response
	more []refusal // in addition to everywhere
}

func askings(alice *rig.User, room string) []asking {
	joins := append([]refusal{
		{200, `{"room_version":"99","event":{"type":"m.room.member"}}`, 400, "M_INCOMPATIBLE_ROOM_VERSION", `"99"`},
		{400, matrixError("M_UNABLE_TO_AUTHORISE_JOIN"), 400, "M_UNABLE_TO_AUTHORISE_JOIN", "the reason is"},
	}, versions...)
	get := func(query url.Values, path ...string) rig.Response {
		return alice.Do(http.MethodGet, rig.Path(path...), query, nil)
	}
	post := func(body map[string]any, path ...string) rig.Response {
		return alice.Do(http.MethodPost, rig.Path(path...), nil, body)
	}
	none := map[string]any{}
	return []asking{
		{"join", func(remote string) rig.Response { return post(none, "join", "!room:"+remote) }, joins},
		{"join by alias", func(remote string) rig.Response { return post(none, "join", "#room:"+remote) }, nil},
		{"invite", func(remote string) rig.Response {
			return post(map[string]any{"user_id": "@bob:" + remote}, "rooms", room, "invite")
		}, versions},
		{"createRoom", func(remote string) rig.Response {
			return post(map[string]any{"invite": []string{"@bob:" + remote}}, "createRoom")
		}, versions},
		{"peek", func(remote string) rig.Response { return post(none, "peek", "!room:"+remote) }, nil},
		{"alias", func(remote string) rig.Response { return get(nil, "directory", "room", "#room:"+remote) }, nil},
		{"profile", func(remote string) rig.Response { return get(nil, "profile", "@bob:"+remote) }, nil},
		{"publicRooms", func(remote string) rig.Response { return get(url.Values{"server": {remote}}, "publicRooms") }, nil},
	}
}

func TestErrors(t *testing.T) {
	alice, _ := setUp(t)
	room := alice.CreateRoom(nil)
	for _, asked := range askings(alice, room) {
		for _, r := range append(asked.more, everywhere...) {
			t.Run(fmt.Sprintf("%s %d %s", asked.what, r.status, r.body), func(t *testing.T) {
				got := asked.ask(fake(t, r.status, r.body))
				text := got.JSON.Get("error").String()
				if got.Status != r.want || got.ErrCode() != r.errcode || text == "" || !strings.Contains(text, r.text) {
					t.Errorf("got %d %s; want %d %s, %q", got.Status, got.Body, r.want, r.errcode, r.text)
				}
				if strings.Contains(text, "contents=") || strings.Contains(text, "[123") {
					t.Errorf("this is no text for people: %s", text)
				}
			})
		}
	}
	if r := alice.Do(http.MethodGet, rig.Path("account", "whoami"), nil, nil); r.Status != http.StatusOK {
		t.Errorf("after it all alice is %d %s", r.Status, r.Body)
	}
}

func setUp(t *testing.T) (*rig.User, *rig.Server) {
	// Peeking is off by default.
	server := rig.New(t, rig.Config{Federation: true, Set: map[string]any{"mscs.mscs": []any{"msc2753"}}})
	return server.Register(t, "alice"), server
}

// TestKeys: an answer about several servers says for each what was wrong.
func TestKeys(t *testing.T) {
	alice, _ := setUp(t)
	remote := fake(t, 401, matrixError("M_UNAUTHORIZED"))
	for endpoint, body := range map[string]map[string]any{
		"query": {"device_keys": map[string]any{"@bob:" + remote: []string{}}},
		"claim": {"one_time_keys": map[string]any{"@bob:" + remote: map[string]any{"DEVICE": "signed_curve25519"}}},
	} {
		r := alice.Do(http.MethodPost, rig.Path("keys", endpoint), nil, body)
		text := r.JSON.Get("failures").Raw
		if r.Status != http.StatusOK || !strings.Contains(text, "the reason is") || strings.Contains(text, "contents=") {
			t.Errorf("%s: got %d %s", endpoint, r.Status, r.Body)
		}
	}
}

func TestMedia(t *testing.T) {
	alice, _ := setUp(t)
	for status, want := range map[int]string{401: "answered 401 Unauthorized", 500: "answered 500", 0: "cannot be reached"} {
		remote := fake(t, status, matrixError("M_UNKNOWN"))
		r := alice.Do(http.MethodGet, "/_matrix/media/v3/download/"+remote+"/file", nil, nil)
		if text := r.JSON.Get("error").String(); r.Status != 404 || !strings.Contains(text, want) || strings.Contains(text, "%!") {
			t.Errorf("got %d %s, want %q", r.Status, r.Body, want)
		}
	}
}

// TestNobodyToAsk: a room that is unknown here, and whose only server would be this one.
func TestNobodyToAsk(t *testing.T) {
	alice, server := setUp(t)
	r := alice.Do(http.MethodPost, rig.Path("join", "!unknown:"+server.Name), nil, map[string]any{})
	if r.Status != 404 || r.ErrCode() != "M_NOT_FOUND" {
		t.Errorf("got %d %s", r.Status, r.Body)
	}
}
