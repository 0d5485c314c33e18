package rig

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/fclient"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/tidwall/gjson"
)

const fakeKeyID gomatrixserverlib.KeyID = "ed25519:fake"

// Fake is another homeserver that the test controls. It uses TLS, publishes a key, and signs requests and events, but
// it says anything that the test wants. It runs in the test's process.
type Fake struct {
	Name string // server name

	t      testing.TB
	key    ed25519.PrivateKey
	client http.Client

	mu       sync.Mutex
	answers  []answer // newest last
	rooms    map[string]*FakeRoom
	requests []FakeRequest
	latest   int64 // timestamp
}

// FakeRequest is a request that a Fake has received.
type FakeRequest struct {
	Method string
	Path   string // unescaped
	Query  url.Values
	Body   gjson.Result
}

// Last returns the last segment of the path.
func (r FakeRequest) Last() string { return r.Path[strings.LastIndexByte(r.Path, '/')+1:] }

type answer struct {
	part string
	give func(FakeRequest) (int, any)
}

// NewFake starts a homeserver that ends with the test.
func NewFake(t testing.TB) *Fake {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	f := &Fake{t: t, key: key, rooms: map[string]*FakeRoom{}}
	f.client.Transport = &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	s := httptest.NewUnstartedServer(http.HandlerFunc(f.serve))
	s.Config.ErrorLog = log.New(io.Discard, "", 0) // discards the handshake errors of killed servers
	s.StartTLS()
	f.Name = strings.TrimPrefix(s.URL, "https://")
	t.Cleanup(func() {
		f.client.CloseIdleConnections()
		s.CloseClientConnections()
		s.Close()
	})
	return f
}

// User returns the ID of a user of this server.
func (f *Fake) User(name string) string { return "@" + name + ":" + f.Name }

// Answer sets the answer to all requests whose unescaped path contains part. A later answer has precedence over an
// earlier one, and over the standard answers.
func (f *Fake) Answer(part string, give func(FakeRequest) (status int, body any)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.answers = append(f.answers, answer{part, give})
}

// AnswerWith is Answer with the same answer each time.
func (f *Fake) AnswerWith(part string, status int, body any) {
	f.Answer(part, func(FakeRequest) (int, any) { return status, body })
}

// Requests returns the requests so far whose path contains part.
func (f *Fake) Requests(part string) []FakeRequest {
	f.mu.Lock()
	defer f.mu.Unlock()
	var found []FakeRequest
	for _, r := range f.requests {
		if strings.Contains(r.Path, part) {
			found = append(found, r)
		}
	}
	return found
}

// WaitRequest waits for a request whose path contains part and for which pred, if not nil, is true.
func (f *Fake) WaitRequest(part string, within time.Duration, pred func(FakeRequest) bool) FakeRequest {
	f.t.Helper()
	for deadline := time.Now().Add(within); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		for _, r := range f.Requests(part) {
			if pred == nil || pred(r) {
				return r
			}
		}
	}
	f.t.Fatalf("no request to %q within %s", part, within)
	return FakeRequest{}
}

// WaitPDU waits until a server has sent the fake an event for which pred is true.
func (f *Fake) WaitPDU(within time.Duration, pred func(pdu gjson.Result) bool) gjson.Result {
	f.t.Helper()
	var found gjson.Result
	f.WaitRequest("/federation/v1/send/", within, func(r FakeRequest) bool {
		for _, pdu := range r.Body.Get("pdus").Array() {
			if pred(pdu) {
				found = pdu
				return true
			}
		}
		return false
	})
	return found
}

func (f *Fake) serve(w http.ResponseWriter, req *http.Request) {
	body, _ := io.ReadAll(req.Body)
	r := FakeRequest{Method: req.Method, Path: req.URL.Path, Query: req.URL.Query(), Body: gjson.ParseBytes(body)}
	f.mu.Lock()
	f.requests = append(f.requests, r)
	give := f.Standard
	for _, a := range f.answers {
		if strings.Contains(r.Path, a.part) {
			give = a.give
		}
	}
	f.mu.Unlock()
	status, answer := give(r)
	data, ok := answer.([]byte)
	if !ok {
		var err error
		if data, err = json.Marshal(answer); err != nil {
			f.t.Errorf("the fake's answer to %s: %v", r.Path, err)
		}
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	w.Write(data) //nolint:errcheck // the other side may have gone
}

// keys is the answer to /_matrix/key/v2/server.
func (f *Fake) keys() any {
	fields, err := json.Marshal(gomatrixserverlib.ServerKeyFields{
		ServerName: spec.ServerName(f.Name),
		VerifyKeys: map[gomatrixserverlib.KeyID]gomatrixserverlib.VerifyKey{
			fakeKeyID: {Key: spec.Base64Bytes(f.key.Public().(ed25519.PublicKey))},
		},
		ValidUntilTS:  spec.AsTimestamp(time.Now().Add(24 * time.Hour)),
		OldVerifyKeys: map[gomatrixserverlib.KeyID]gomatrixserverlib.OldVerifyKey{},
	})
	if err != nil {
		f.t.Error(err)
	}
	return json.RawMessage(f.sign(fields))
}

func (f *Fake) sign(message []byte) []byte {
	signed, err := gomatrixserverlib.SignJSON(f.Name, fakeKeyID, f.key, message)
	if err != nil {
		f.t.Errorf("signing %s: %v", message, err)
	}
	return signed
}

// Ask sends a signed request to a server and returns the response, with any status. The path must be escaped, as by
// FederationPath.
func (f *Fake) Ask(s *Server, method, path string, content any) Response {
	f.t.Helper()
	req := fclient.NewFederationRequest(method, spec.ServerName(f.Name), spec.ServerName(s.Name), path)
	if content != nil {
		if err := req.SetContent(content); err != nil {
			f.t.Fatal(err)
		}
	}
	if err := req.Sign(spec.ServerName(f.Name), fakeKeyID, f.key); err != nil {
		f.t.Fatal(err)
	}
	r, err := req.HTTPRequest()
	if err != nil {
		f.t.Fatal(err)
	}
	r.URL.Scheme = "https"
	resp, err := f.client.Do(r.WithContext(f.t.Context()))
	if err != nil {
		f.t.Fatalf("%s %s: %v", method, path, err)
	}
	defer resp.Body.Close()
	answer := Response{Status: resp.StatusCode, Header: resp.Header}
	if answer.Body, err = io.ReadAll(resp.Body); err != nil {
		f.t.Fatalf("%s %s: %v", method, path, err)
	}
	answer.JSON = gjson.ParseBytes(answer.Body)
	return answer
}

// Send sends a transaction of PDUs, which may be anything that JSON can encode.
func (f *Fake) Send(s *Server, pdus ...any) Response {
	f.t.Helper()
	return f.Ask(s, http.MethodPut, FederationPath("v1", "send", rand.Text()), map[string]any{
		"origin": f.Name, "origin_server_ts": time.Now().UnixMilli(), "pdus": pdus,
	})
}

// MustSend sends a transaction that the server must accept.
func (f *Fake) MustSend(s *Server, pdus ...any) {
	f.t.Helper()
	if r := f.Send(s, pdus...); r.Status != http.StatusOK {
		f.t.Fatalf("the transaction: %d %s", r.Status, r.Body)
	}
}

// FederationPath joins escaped segments to a path under /_matrix/federation.
func FederationPath(segments ...string) string {
	path := "/_matrix/federation"
	for _, s := range segments {
		path += "/" + url.PathEscape(s)
	}
	return path
}
