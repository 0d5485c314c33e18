// Package rtc_test tests MatrixRTC on whole servers, with a fake SFU (docs/rtc-requirements.md).
package rtc_test

import (
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"github.com/matrix-org/dendrite/futures/test/rig"
)

func TestMain(m *testing.M) { rig.Main(m) }

const (
	stable   = "/_matrix/client/v1/rtc/"
	unstable = "/_matrix/client/unstable/"

	transportsPath = unstable + "org.matrix.msc4143/rtc/transports"
	wellKnown      = "/.well-known/matrix/client"
	sfuURL         = "wss://rtc.example.com"
)

// An sfu is a fake LiveKit server: it accepts all calls and records them.
type sfu struct {
	URL string

	mu    sync.Mutex
	calls []call
	fails int                          // status to answer with, 0 for success
	there map[string]map[string]string // who is connected: sid by identity by alias
}

type call struct {
	method       string
	claims, body gjson.Result
}

func newSFU(t *testing.T) *sfu {
	f := new(sfu)
	s := httptest.NewServer(f)
	t.Cleanup(s.Close)
	f.URL = s.URL
	return f
}

func (f *sfu) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, _ := io.ReadAll(req.Body)
	_, method, _ := strings.Cut(req.URL.Path, "/twirp/livekit.RoomService/")
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, call{method: method, claims: claims(strings.TrimPrefix(req.Header.Get("Authorization"), "Bearer ")), body: gjson.ParseBytes(body)})
	if f.fails != 0 {
		w.WriteHeader(f.fails)
		return
	}
	asked := gjson.ParseBytes(body)
	present := f.there[asked.Get("room").Str]
	switch sid, ok := present[asked.Get("identity").Str]; {
	case method == "GetParticipant" && !ok:
		w.WriteHeader(http.StatusNotFound)
		w.Write([]byte(`{"code":"not_found","msg":"participant does not exist"}`))
	case method == "GetParticipant":
		json.NewEncoder(w).Encode(participant(asked.Get("identity").Str, sid))
	case method == "ListParticipants":
		all := []object{}
		for identity, sid := range present {
			all = append(all, participant(identity, sid))
		}
		json.NewEncoder(w).Encode(object{"participants": all})
	default:
		w.Write([]byte("{}"))
	}
}

func participant(identity, sid string) object {
	return object{"identity": identity, "sid": sid, "state": "ACTIVE"}
}

// connect makes a participant enter the call, or leave it if there is no sid. The homeserver is not told.
func (f *sfu) connect(alias, identity, sid string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.there == nil {
		f.there = make(map[string]map[string]string)
	}
	if f.there[alias] == nil {
		f.there[alias] = make(map[string]string)
	}
	if delete(f.there[alias], identity); sid != "" {
		f.there[alias][identity] = sid
	}
}

// of returns the calls of a method so far.
func (f *sfu) of(method string) (found []call) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.calls {
		if c.method == method {
			found = append(found, c)
		}
	}
	return found
}

func (f *sfu) fail(status int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fails = status
}

// wait waits for a call of the method.
func (f *sfu) wait(t *testing.T, method string, such func(call) bool) call {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		for _, c := range f.of(method) {
			if such(c) {
				return c
			}
		}
	}
	t.Fatalf("the SFU has got no such call of %s in a minute", method)
	return call{}
}

// claims decodes a token; test/livekit checks signatures.
func claims(token string) gjson.Result {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return gjson.Result{}
	}
	data, _ := base64.RawURLEncoding.DecodeString(parts[1])
	return gjson.ParseBytes(data)
}

func wants(t *testing.T, r rig.Response, status int, errcode string) rig.Response {
	t.Helper()
	if r.Status != status || r.ErrCode() != errcode {
		t.Fatalf("got %d %s, want %d %s", r.Status, r.Body, status, errcode)
	}
	return r
}

// visitor sends a request without a login.
func visitor(t *testing.T, s *rig.Server, method, path string, body any) rig.Response {
	t.Helper()
	c := s.Client()
	r, err := c.Do(t.Context(), method, path, nil, body)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func guest(t *testing.T, s *rig.Server) rig.Client {
	t.Helper()
	c := s.Client()
	r, err := c.Do(t.Context(), http.MethodPost, rig.Path("register"), map[string][]string{"kind": {"guest"}}, map[string]any{})
	if err != nil || r.Status != http.StatusOK {
		t.Fatalf("registering a guest: %d %s %v", r.Status, r.Body, err)
	}
	c.Token = r.JSON.Get("access_token").String()
	return c
}

// openID returns an OpenID token of the user.
func openID(t *testing.T, u *rig.User) map[string]any {
	t.Helper()
	r := wants(t, u.Do(http.MethodPost, rig.Path("user", u.ID, "openid", "request_token"), nil, map[string]any{}), 200, "")
	return map[string]any{
		"access_token":       r.JSON.Get("access_token").String(),
		"matrix_server_name": r.JSON.Get("matrix_server_name").String(),
		"token_type":         "Bearer",
		"expires_in":         r.JSON.Get("expires_in").Int(),
	}
}
