package clientapi

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/sirupsen/logrus"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
	fconfig "github.com/matrix-org/dendrite/futures/setup/config"
)

// known adds a token with that outcome and returns its path.
func (h *harness) known(outcome error) (token api.Token, path string) {
	token = api.NewSecret().Token(api.RefreshToken)
	h.outcome[token] = outcome
	return token, tokenAt + token.String()
}

func TestTokenPaths(t *testing.T) {
	for _, prefix := range []string{"v3", "r0", "v1", "unstable/org.matrix.msc4140", "unstable/io.element.msc3140"} {
		for _, name := range []string{"future", "futures"} {
			h := newHarness(unlimited)
			token, _ := h.known(nil)
			path := client + "/" + prefix + "/" + name + "/" + token.String()
			t.Run("2.1.2 PUT and POST, 2.1.4, 2.2 "+prefix+" "+name, func(t *testing.T) {
				for _, method := range []string{"PUT", "POST"} {
					if a := h.do(method, path, "", ""); a.code != 200 || a.body != "{}" {
						t.Errorf("%s: %d %s", method, a.code, a.body)
					}
				}
				if len(h.uses) != 2 || h.uses[0] != token || h.uses[1] != token {
					t.Errorf("used %d tokens", len(h.uses))
				}
				if !h.tokens.Matches(httptest.NewRequest("PUT", path, nil)) {
					t.Error("Matches does not know the path")
				}
			})
			t.Run("4.12 CORS "+prefix+" "+name, func(t *testing.T) {
				for _, method := range []string{"OPTIONS", "POST"} {
					a := h.do(method, path, "", "")
					if a.code != 200 || a.header.Get("Access-Control-Allow-Origin") != "*" ||
						!strings.Contains(a.header.Get("Access-Control-Allow-Methods"), "POST") ||
						!strings.Contains(a.header.Get("Access-Control-Allow-Headers"), "Content-Type") {
						t.Errorf("%s: %d %v", method, a.code, a.header)
					}
				}
			})
			h.do("GET", path, "", "").want(t, 405, "M_UNRECOGNIZED")
		}
	}
	h := newHarness()
	for _, path := range []string{
		client + "/v3/futures", client + "/v3/futures/", client + "/v2/futures/t", client + "/v3/rooms/t", client + "/v3/futures/t/t",
	} {
		if h.tokens.Matches(httptest.NewRequest("PUT", path, nil)) {
			t.Errorf("Matches takes %s", path)
		}
	}
}

// In front of the router the handler sees methods that the router would have refused.
func TestTokenOtherMethods(t *testing.T) {
	h := newHarness()
	_, path := h.known(nil)
	for _, method := range []string{"GET", "DELETE", "PATCH"} {
		rec := httptest.NewRecorder()
		h.tokens.ServeHTTP(rec, httptest.NewRequest(method, path, nil))
		if rec.Code != 405 || len(h.uses) > 0 {
			t.Errorf("%s: %d", method, rec.Code)
		}
	}
}

func TestTokenRequest(t *testing.T) {
	h := newHarness(unlimited)
	_, path := h.known(nil)
	t.Run("4.1 no, good and bad credentials", func(t *testing.T) {
		for _, header := range []string{"Bearer alice", "Bearer nobody", "Bearer", "Basic ???", ""} {
			h.do("POST", path, "", "", "Authorization", header).wantOK(t)
		}
		h.do("POST", path+"?access_token=nobody&user_id=x;%zz", "alice", "").wantOK(t)
	})
	t.Run("4.2 any body", func(t *testing.T) {
		for _, body := range []string{"", "{}", `{"action":"send"}`, "[", "\xff", strings.Repeat("x", 2<<20)} {
			h.do("POST", path, "", body).wantOK(t)
		}
	})
	t.Run("4.2 a body that does not arrive", func(t *testing.T) {
		before := len(h.uses)
		for _, length := range []int64{-1, 2} {
			req := httptest.NewRequest("POST", path, iotest.ErrReader(errors.New("timeout")))
			req.ContentLength = length
			rec := httptest.NewRecorder()
			h.tokens.ServeHTTP(rec, req)
			if rec.Code != 408 || rec.Header().Get("Connection") != "close" || len(h.uses) != before {
				t.Errorf("got %d %v", rec.Code, rec.Header())
			}
		}
	})
}

func TestTokenGone(t *testing.T) {
	const gone = `{"errcode":"M_NOT_FOUND","error":"The token is unknown or has been used up"}`
	h := newHarness(unlimited)
	spent, path := h.known(api.ErrGone)
	for name, path := range map[string]string{
		"4.7 spent":               path,
		"4.7 made up, 4.8, 2.4.5": tokenAt + api.NewSecret().Token(api.SendToken).String(),
		"too short":               tokenAt + "abc",
		"too long":                path + "a",
		"padded":                  path + "==",
		"not base64":              tokenAt + strings.Repeat("!", 22),
		"stray bits":              tokenAt + strings.Repeat("A", 21) + "B",
		"encoded slash":           tokenAt + "%2F",
		"a word":                  tokenAt + "undefined",
		"very long":               tokenAt + strings.Repeat("A", 5000),
	} {
		t.Run(name, func(t *testing.T) {
			if a := h.do("POST", path, "", ""); a.code != 410 || a.body != gone || a.header.Get("Content-Type") != "application/json" {
				t.Errorf("got %d %s", a.code, a.body)
			}
		})
	}
	t.Run("7.3 a percent-encoded token is the token", func(t *testing.T) {
		h.outcome[spent] = nil
		first := spent.String()[:1]
		encoded := tokenAt + "%" + strings.ToUpper(string("0123456789abcdef"[first[0]>>4])+string("0123456789abcdef"[first[0]&15])) + spent.String()[1:]
		h.do("POST", encoded, "", "").wantOK(t)
	})
}

func TestTokenFailures(t *testing.T) {
	log := captureLog(t)
	const secretive = "@alice:test may not send to !r:test ($event)"
	for _, c := range []struct {
		name    string
		err     error
		code    int
		errcode string
	}{
		{"4.11 forbidden", &api.Refusal{Kind: api.Forbidden, Message: secretive}, 403, "M_FORBIDDEN"},
		{"4.11 room gone", &api.Refusal{Kind: api.RoomNotFound, Message: secretive}, 404, "M_NOT_FOUND"},
		{"4.11 too large", &api.Refusal{Kind: api.TooLarge, Message: secretive}, 413, "M_TOO_LARGE"},
		{"4.11 impossible", &api.Refusal{Kind: api.BadEvent, Message: secretive}, 400, "M_BAD_JSON"},
		{"4.11 internal", &api.Refusal{Kind: api.Internal, Message: secretive}, 500, "M_UNKNOWN"},
		{"another fault", errors.New(secretive), 500, "M_UNKNOWN"},
		{"shutting down", api.ErrStopping, 503, "M_UNKNOWN"},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newHarness()
			token, path := h.known(c.err)
			a := h.do("POST", path, "", "")
			a.want(t, c.code, c.errcode)
			if strings.ContainsAny(a.body, "@!$") {
				t.Errorf("4.10 the body names somebody: %s", a.body)
			}
			if c.code == 503 && a.header.Get("Retry-After") == "" {
				t.Error("no Retry-After")
			}
			if strings.Contains(log.String(), token.String()) {
				t.Errorf("7.3 the token is in the log: %s", log)
			}
		})
	}
	if n := strings.Count(log.String(), "A token's action failed"); n != 2 {
		t.Errorf("want the two internal faults in the log, got %d: %s", n, log)
	}
	t.Run("a caller who hung up is no fault", func(t *testing.T) {
		log.Reset()
		h := newHarness()
		_, path := h.known(context.Canceled)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		h.router.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(ctx, "POST", path, nil))
		if log.Len() > 0 {
			t.Error(log)
		}
	})
}

// captureLog redirects the log at every level until the test ends.
func captureLog(t *testing.T) *bytes.Buffer {
	var buf bytes.Buffer
	out, level := logrus.StandardLogger().Out, logrus.GetLevel()
	logrus.SetOutput(&buf)
	logrus.SetLevel(logrus.TraceLevel)
	t.Cleanup(func() { logrus.SetOutput(out); logrus.SetLevel(level) })
	return &buf
}

// 7.3: requests to E3 leave nothing in the log, at any level.
func TestTokenIsNotLogged(t *testing.T) {
	log := captureLog(t)
	h := newHarness()
	_, path := h.known(nil)
	h.do("PUT", path, "", "").wantOK(t)
	h.do("OPTIONS", path, "", "").wantOK(t)
	h.do("PUT", tokenAt+"unknown", "", "")
	if log.Len() > 0 {
		t.Error(log)
	}
}

func TestTokenRateLimits(t *testing.T) {
	from := func(h *harness, addr, path string) answer {
		req := httptest.NewRequest("POST", path, nil)
		req.RemoteAddr = addr
		rec := httptest.NewRecorder()
		h.router.ServeHTTP(rec, req)
		return answer{code: rec.Code, body: rec.Body.String(), header: rec.Result().Header}
	}
	const bogus = tokenAt + "bogus"
	t.Run("4.9 invalid tokens count against the address, whatever the port", func(t *testing.T) {
		h := newHarness()
		_, valid := h.known(nil)
		_, refused := h.known(&api.Refusal{Kind: api.Forbidden})
		for range 10 { // these do not count
			from(h, "10.0.0.1:1", valid)
			from(h, "10.0.0.1:1", refused)
		}
		for i := range 5 {
			if a := from(h, "10.0.0.1:"+string(rune('1'+i)), bogus); a.code != 410 {
				t.Errorf("call %d: %d %s", i+1, a.code, a.body)
			}
		}
		for _, path := range []string{bogus, tokenAt + api.NewSecret().Token(0).String()} {
			a := from(h, "10.0.0.1:99", path)
			if a.code != 429 || !strings.Contains(a.body, "M_LIMIT_EXCEEDED") || !strings.Contains(a.body, "retry_after_ms") ||
				a.header.Get("Retry-After") != "2" {
				t.Errorf("got %d %s %s", a.code, a.body, a.header.Get("Retry-After"))
			}
		}
		if a := from(h, "10.0.0.1:99", valid); a.code != 200 {
			t.Errorf("a neighbour's refresh is starved: %d %s", a.code, a.body)
		}
		if a := from(h, "10.0.0.2:1", bogus); a.code != 410 {
			t.Errorf("another address: %d", a.code)
		}
	})
	t.Run("4.9 a valid token is limited by itself", func(t *testing.T) {
		h := newHarness(func(c *fconfig.FutureServer) {
			c.RateLimits.Token = fconfig.RateLimit{PerSecond: 0.01, Burst: 3}
		})
		_, one := h.known(nil)
		_, two := h.known(nil)
		for range 3 {
			if a := from(h, "10.0.0.1:1", one); a.code != 200 {
				t.Errorf("got %d", a.code)
			}
		}
		before := len(h.uses)
		if a := from(h, "10.0.0.2:1", one); a.code != 429 || a.header.Get("Retry-After") != "100" {
			t.Errorf("got %d %s", a.code, a.body)
		}
		if len(h.uses) != before {
			t.Error("the limited call was carried out")
		}
		if a := from(h, "10.0.0.1:1", two); a.code != 200 {
			t.Errorf("another token: %d", a.code)
		}
	})
	t.Run("4.9 made-up tokens take no memory", func(t *testing.T) {
		h := newHarness()
		for range 1000 {
			from(h, "10.0.0.1:1", tokenAt+api.NewSecret().Token(0).String())
		}
		if n := h.tokens.valid.size(); n != 0 {
			t.Errorf("%d buckets", n)
		}
	})
}

// A refresh must not allocate.
func TestTokenAllocations(t *testing.T) {
	h := newHarness(muchUsed)
	h.tokens.futures = allValid{}
	req := httptest.NewRequest("PUT", tokenAt+api.NewSecret().Token(0).String(), nil)
	w := &nullWriter{header: http.Header{}}
	if n := testing.AllocsPerRun(100, func() { h.tokens.ServeHTTP(w, req) }); n > 0 {
		t.Errorf("%v allocations for one refresh", n)
	}
}

type allValid struct{ api.ClientAPI }

func (allValid) PerformTokenAction(context.Context, api.Token) error { return nil }

type nullWriter struct{ header http.Header }

func (w *nullWriter) Header() http.Header       { return w.header }
func (*nullWriter) Write(b []byte) (int, error) { return len(b), nil }
func (*nullWriter) WriteHeader(int)             {}

func (*nullWriter) WriteString(s string) (int, error) { return len(s), nil }

// muchUsed sets a token limit that a benchmark does not reach.
func muchUsed(c *fconfig.FutureServer) {
	c.RateLimits.Token = fconfig.RateLimit{PerSecond: 1e6, Burst: 1e6}
}

func BenchmarkRefresh(b *testing.B) {
	h := newHarness(muchUsed)
	h.tokens.futures = allValid{}
	benchmarkHeartbeats(b, h.tokens, func(token string) *http.Request {
		return httptest.NewRequest("PUT", tokenAt+token, nil)
	})
}

func benchmarkHeartbeats(b *testing.B, h http.Handler, request func(token string) *http.Request) {
	requests := make([]*http.Request, 4096)
	for i := range requests {
		requests[i] = request(api.NewSecret().Token(0).String())
	}
	w := &nullWriter{header: http.Header{}}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		h.ServeHTTP(w, requests[i%len(requests)])
	}
}
