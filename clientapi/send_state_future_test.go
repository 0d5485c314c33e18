package clientapi

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
	fconfig "github.com/matrix-org/dendrite/futures/setup/config"
)

func TestCreatePaths(t *testing.T) {
	for _, prefix := range []string{
		"v3", "r0", "v1", "unstable/org.matrix.msc4140", "unstable/io.element.msc3140",
	} {
		for _, c := range []struct {
			name, path     string
			typ            string
			stateKey       *string
			txn, roomWants string
		}{
			{"2.1.1 message", "rooms/!r:test/send_future/m.room.message/t1", "m.room.message", nil, "t1", room},
			{"2.1.1 state", "rooms/!r:test/state_future/m.room.topic/key", "m.room.topic", ptr("key"), "", room},
			{"2.2.3 user as state key", "rooms/!r:test/state_future/m.room.member/@u:h", "m.room.member", ptr("@u:h"), "", room},
			{"2.1.3 no state key", "rooms/!r:test/state_future/m.room.topic", "m.room.topic", ptr(""), "", room},
			{"2.1.3 empty state key", "rooms/!r:test/state_future/m.room.topic/", "m.room.topic", ptr(""), "", room},
			{"encoded room", "rooms/%21r%3Atest/send_future/m.room.message/t1", "m.room.message", nil, "t1", room},
			{"encoded slashes", "rooms/!r:test/state_future/a%2Fb/c%2Fd", "a/b", ptr("c/d"), "", room},
			{"encoded slash in txn", "rooms/!r:test/send_future/a%2Fb/c%2Fd", "a/b", nil, "c/d", room},
		} {
			t.Run(prefix+" "+c.name, func(t *testing.T) {
				h := newHarness()
				path := client + "/" + prefix + "/" + c.path
				h.put(path + "?future_timeout=10").wantOK(t)
				if len(h.created) != 1 {
					t.Fatal("nothing was created")
				}
				f := h.created[0]
				if f.RoomID != c.roomWants || f.Type != c.typ || f.TxnID != c.txn {
					t.Errorf("room %q type %q txn %q", f.RoomID, f.Type, f.TxnID)
				}
				if (f.StateKey == nil) != (c.stateKey == nil) || f.StateKey != nil && *f.StateKey != *c.stateKey {
					t.Errorf("state key %v", f.StateKey)
				}
				if f.Policy.Has(api.CancelOnNewerState) != (c.stateKey != nil) {
					t.Errorf("5.7 policy %v", f.Policy)
				}
				if a := h.do("OPTIONS", path, "", ""); a.code != 200 || a.header.Get("Access-Control-Allow-Origin") != "*" {
					t.Errorf("CORS: %d %v", a.code, a.header)
				}
				if a := h.do("GET", path, "alice", ""); a.code != 405 {
					t.Errorf("GET: %d", a.code)
				}
			})
		}
	}
	t.Run("another prefix", func(t *testing.T) {
		newHarness().put(client+"/v4/rooms/!r:test/send_future/m/t?future_timeout=10").want(t, 404, "M_UNRECOGNIZED")
	})
	t.Run("a dot is a dot", func(t *testing.T) {
		newHarness().put(client+"/unstable/orgXmatrix.msc4140/rooms/!r:test/send_future/m/t?future_timeout=10").
			want(t, 404, "M_UNRECOGNIZED")
	})
}

func TestCreateParams(t *testing.T) {
	long := strings.Repeat("g", 255)
	for _, c := range []struct {
		name, query, errcode string // empty errcode: accepted
		timeout              time.Duration
		group                string // "": chosen by the server
	}{
		{"2.3.1 timeout future", "future_timeout=1500", "", 1500 * time.Millisecond, ""},
		{"2.3.3 timeout in a group, 3.6", "future_timeout=10&future_group_id=groupA", "", 10 * time.Millisecond, "groupA"},
		{"2.3.2 action future", "future_group_id=groupA", "", 0, "groupA"},
		{"2.3.4 quotes are part of the value", "future_group_id=%22groupA%22", "", 0, `"groupA"`},
		{"2.3.5 the least timeout", "future_timeout=1", "", time.Millisecond, ""},
		{"2.3.5 more than a Duration", "future_timeout=9223372036854775807", "", 9223372036854 * time.Millisecond, ""},
		{"ts is ignored", "future_timeout=1&ts=1000", "", time.Millisecond, ""},
		{"longest group id", "future_group_id=" + long, "", 0, long},
		{"2.3.3 neither, 3.4", "", "M_MISSING_PARAM", 0, ""},
		{"2.3.7 timeout is no parameter", "timeout=600", "M_MISSING_PARAM", 0, ""},
		{"2.3.5 zero", "future_timeout=0", "M_INVALID_PARAM", 0, ""},
		{"2.3.5 negative", "future_timeout=-1", "M_INVALID_PARAM", 0, ""},
		{"2.3.5 plus sign", "future_timeout=%2B1", "M_INVALID_PARAM", 0, ""},
		{"2.3.5 fraction", "future_timeout=1.5", "M_INVALID_PARAM", 0, ""},
		{"2.3.5 exponent", "future_timeout=1e3", "M_INVALID_PARAM", 0, ""},
		{"2.3.5 overflow", "future_timeout=9223372036854775808", "M_INVALID_PARAM", 0, ""},
		{"2.3.5 empty", "future_timeout=", "M_INVALID_PARAM", 0, ""},
		{"2.3.5 empty beside a group", "future_timeout&future_group_id=g", "M_INVALID_PARAM", 0, ""},
		{"2.3.5 a word", "future_timeout=soon", "M_INVALID_PARAM", 0, ""},
		{"2.3.5 none", "future_timeout=none&future_group_id=g", "M_INVALID_PARAM", 0, ""},
		{"2.3.5 repeated", "future_timeout=10&future_timeout=10", "M_INVALID_PARAM", 0, ""},
		{"2.3.4 quotes around a number", "future_timeout=%2210%22", "M_INVALID_PARAM", 0, ""},
		{"2.3.2 group repeated", "future_group_id=g&future_group_id=g", "M_INVALID_PARAM", 0, ""},
		{"2.3.2 group empty", "future_group_id=", "M_INVALID_PARAM", 0, ""},
		{"2.3.2 group empty beside a timeout", "future_timeout=10&future_group_id=", "M_INVALID_PARAM", 0, ""},
		{"group too long", "future_group_id=g" + long, "M_INVALID_PARAM", 0, ""},
		{"group not UTF-8", "future_group_id=%ff", "M_INVALID_PARAM", 0, ""},
		{"group with NUL", "future_group_id=a%00", "M_INVALID_PARAM", 0, ""},
		{"unreadable query", "future_timeout=10;x", "M_INVALID_PARAM", 0, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newHarness()
			for _, path := range []string{sending + "t1", state + "key"} {
				a := h.put(path + "?" + c.query)
				if c.errcode != "" {
					a.want(t, 400, c.errcode)
					if len(h.created) > 0 {
						t.Error("created nevertheless")
					}
					continue
				}
				a.wantOK(t)
				f := h.created[len(h.created)-1]
				if f.Timeout != c.timeout || c.group != "" && f.GroupID != c.group {
					t.Errorf("timeout %v group %q", f.Timeout, f.GroupID)
				}
			}
		})
	}
}

func TestCreateResponse(t *testing.T) {
	h := newHarness()
	t.Run("2.4.1 timeout future, 2.4.2, 2.4.4, 2.4.5", func(t *testing.T) {
		a := h.put(sending + "t1?future_timeout=10").wantOK(t)
		if ct := a.header.Get("Content-Type"); ct != "application/json" {
			t.Errorf("Content-Type %q", ct)
		}
		if len(a.json) != 4 {
			t.Errorf("want four keys, got %s", a.body)
		}
		seen := map[any]bool{}
		for _, key := range []string{"send_token", "cancel_token", "refresh_token", "future_group_id"} {
			token, _ := a.json[key].(string)
			if raw, err := base64.RawURLEncoding.DecodeString(token); err != nil || len(raw) != 16 || seen[token] {
				t.Errorf("%s is %q", key, token)
			}
			seen[token] = true
		}
	})
	t.Run("2.4.2 action future has no refresh_token, 2.4.3 the group is echoed", func(t *testing.T) {
		a := h.put(state + "?future_group_id=groupA").wantOK(t)
		if _, has := a.json["refresh_token"]; has || len(a.json) != 3 || a.json["future_group_id"] != "groupA" {
			t.Errorf("got %s", a.body)
		}
	})
	t.Run("5.20 what is handed on", func(t *testing.T) {
		content := ` {"big":12345678901234567890, "s":"<&>"}`
		h.do("PUT", sending+"t2?future_timeout=10", "alice", content).wantOK(t)
		f := h.created[len(h.created)-1]
		if string(f.Content) != content || f.UserID != alice || f.DeviceID != "PHONE" || f.SessionID != 7 {
			t.Errorf("got %+v", f)
		}
	})
	t.Run("5.19 guests, application services", func(t *testing.T) {
		h.do("PUT", state+"?future_timeout=10", "guest", "{}").wantOK(t)
		h.do("PUT", state+"?future_timeout=10&user_id=%40ghost:test", "bridge", "{}").wantOK(t)
		if f := h.created[len(h.created)-1]; f.UserID != "@ghost:test" {
			t.Errorf("created for %s", f.UserID)
		}
	})
}

func TestCreateTransactions(t *testing.T) {
	first := sending + "t1?future_timeout=10"
	t.Run("2.5.1 a repeat gets the first answer", func(t *testing.T) {
		h := newHarness(func(c *fconfig.FutureServer) {
			c.RateLimits.Create = fconfig.RateLimit{PerSecond: 0.001, Burst: 2}
		})
		want := h.put(first).wantOK(t).body
		h.fail = errors.New("the database is on fire")
		for _, c := range []struct{ name, path, body string }{
			{"same", first, `{"body":"hi"}`}, // takes the user's last token
			{"over the rate limit", first, `{"body":"hi"}`},
			{"other prefix", strings.Replace(first, "v3", "unstable/org.matrix.msc4140", 1), `{}`},
			{"encoded otherwise", strings.Replace(first, "!", "%21", 1), `{}`},
			{"no body", first, ""},
			{"bad body", first, "{"},
			{"body too large", first, strings.Repeat(" ", maxBody+1)},
			{"no parameters", sending + "t1", `{}`},
			{"bad parameters", sending + "t1?future_timeout=x", `{}`},
		} {
			if a := h.do("PUT", c.path, "alice", c.body); a.code != 200 || a.body != want {
				t.Errorf("%s: %d %s, want 200 %s", c.name, a.code, a.body, want)
			}
		}
		if len(h.created) != 1 {
			t.Errorf("%d futures", len(h.created))
		}
	})
	t.Run("2.5.1 what differs is another transaction", func(t *testing.T) {
		h := newHarness()
		distinct := map[string]string{}
		for _, c := range []struct{ token, path string }{
			{"alice", first},
			{"alice2", first},
			{"bob", first},
			{"alice", sending + "t2?future_timeout=10"},
			{"alice", strings.Replace(first, "m.room.message", "m.room.messag", 1)},
			{"alice", strings.Replace(first, "!r:test", "!s:test", 1)},
			{"bridge", first + "&user_id=@a:test"},
			{"bridge", first + "&user_id=@b:test"},
			{"other", first + "&user_id=@a:test"},
		} {
			a := h.do("PUT", c.path, c.token, "{}").wantOK(t)
			if before := distinct[a.body]; before != "" {
				t.Errorf("%s %s was answered like %s", c.token, c.path, before)
			}
			distinct[a.body] = c.token + " " + c.path
		}
	})
	t.Run("2.5.3 equal state requests are two futures", func(t *testing.T) {
		h := newHarness()
		first, second := h.put(state+"?future_timeout=10"), h.put(state+"?future_timeout=10")
		if first.body == second.body {
			t.Error("the second got the tokens of the first")
		}
	})
	t.Run("no two lists of parts hash alike", func(t *testing.T) {
		for separator := range 256 {
			s := string([]byte{byte(separator)})
			if string(digest("a"+s+"b", "c")) == string(digest("a", "b"+s+"c")) || string(digest("ab", "c")) == string(digest("a", "bc")) {
				t.Errorf("they do, with %q", s)
			}
		}
	})
}

func TestCreateBody(t *testing.T) {
	object := func(size int) string { return `{"body":"` + strings.Repeat("x", size-11) + `"}` }
	for _, c := range []struct {
		name, body string
		code       int
		errcode    string
	}{
		{"2.3.6 empty content", "{}", 200, ""},
		{"60 KiB", object(60 << 10), 200, ""},
		{"the largest body", object(maxBody), 200, ""},
		{"one byte more", object(maxBody + 1), 413, "M_TOO_LARGE"},
		{"3.7 no body", "", 400, "M_NOT_JSON"},
		{"3.7 not JSON", "{", 400, "M_NOT_JSON"},
		{"3.7 two objects", "{}{}", 400, "M_NOT_JSON"},
		{"3.7 too deep", strings.Repeat("[", 20000) + strings.Repeat("]", 20000), 400, "M_NOT_JSON"},
		{"3.7 not UTF-8", "{\"a\":\"\xff\"}", 400, "M_NOT_JSON"},
		{"3.7 array", "[]", 400, "M_BAD_JSON"},
		{"3.7 null", " null", 400, "M_BAD_JSON"},
		{"3.7 number", "1", 400, "M_BAD_JSON"},
		{"a key twice", `{"a":1,"a":2}`, 400, "M_BAD_JSON"},
		{"a key twice, spelt otherwise", `{"a":1,"\u0061":2}`, 400, "M_BAD_JSON"},
		{"a key twice, deep inside", `{"a":[{"b":{}},{"c":[1,{"d":"d","d":null}]}]}`, 400, "M_BAD_JSON"},
		{"a key twice, after an object", `{"a":{"b":1},"c":[],"a":1}`, 400, "M_BAD_JSON"},
		{"values are no keys", `{"a":"b","b":"a","c":["a","a"],"d":{"a":"a"},"e":{"a":1}}`, 200, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := newHarness().do("PUT", sending+"t1?future_timeout=10", "alice", c.body)
			if a.code != c.code || a.errcode() != c.errcode {
				t.Errorf("got %d %s", a.code, a.body)
			}
		})
	}
}

// Over a real connection: a body that is too large is answered without waiting for its end, with and without a
// Content-Length.
func TestCreateBodyTooLargeIsNotRead(t *testing.T) {
	server := httptest.NewServer(newHarness().router)
	defer server.Close()
	for name, start := range map[string]string{
		"announced": fmt.Sprintf("Content-Length: %d\r\n\r\n{", maxBody+1),
		"chunked":   fmt.Sprintf("Transfer-Encoding: chunked\r\n\r\n%x\r\n%s", maxBody+1, strings.Repeat(" ", maxBody+1)),
	} {
		t.Run(name, func(t *testing.T) {
			conn, err := net.Dial("tcp", server.Listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(10 * time.Second))
			fmt.Fprintf(conn, "PUT %st1?future_timeout=10 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer alice\r\n%s", sending, start)
			res, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Fatal("no answer before the end of the body: ", err)
			}
			body, _ := io.ReadAll(res.Body)
			if res.StatusCode != 413 || !strings.Contains(string(body), "M_TOO_LARGE") || !res.Close {
				t.Errorf("got %s %s, close %v", res.Status, body, res.Close)
			}
		})
	}
}

func TestCreateNames(t *testing.T) {
	long := strings.Repeat("t", maxIDLength)
	for name, path := range map[string]string{
		"NUL in type":           client + "/v3/rooms/!r:test/send_future/a%00/t1",
		"NUL in state key":      state + "a%00",
		"NUL in transaction":    sending + "a%00",
		"type not UTF-8":        client + "/v3/rooms/!r:test/state_future/a%ff/",
		"state key not UTF-8":   state + "a%ff",
		"transaction not UTF-8": sending + "a%ff",
		"room not UTF-8":        client + "/v3/rooms/!%ff:test/state_future/a/",
		"transaction too long":  sending + long + "t",
	} {
		t.Run(name, func(t *testing.T) {
			h := newHarness()
			h.put(path+"?future_timeout=10").want(t, 400, "M_INVALID_PARAM")
			if len(h.created) > 0 {
				t.Error("created nevertheless")
			}
		})
	}
	newHarness().put(sending + long + "?future_timeout=10").wantOK(t)
}

func TestCreateErrors(t *testing.T) {
	week := &api.TimeoutError{Max: 7 * 24 * time.Hour}
	for _, c := range []struct {
		name       string
		err        error
		code       int
		body       string // exactly
		retryAfter string
	}{
		{"3.2 action future without group", api.ErrUnknownGroup, 409, `{"errcode":"M_UNKNOWN",` +
			`"error":"There is no timeout future with this future_group_id","org.matrix.msc4140.errcode":"M_UNKNOWN_FUTURE_GROUP"}`, ""},
		{"3.3 timeout over the maximum", week, 400, `{"errcode":"M_UNKNOWN",` +
			`"error":"The requested timeout exceeds the allowed maximum of 604800000 ms.",` +
			`"org.matrix.msc4140.errcode":"M_FUTURE_MAX_TIMEOUT_EXCEEDED","org.matrix.msc4140.timeout_duration":604800000}`, ""},
		{"5.18 too many futures", &api.LimitError{Max: 100, RetryAfter: 1500 * time.Millisecond}, 429,
			`{"errcode":"M_LIMIT_EXCEEDED","error":"at most 100 futures may be scheduled at a time","retry_after_ms":1500}`, "2"},
		{"5.18 none of them has a timer", &api.LimitError{Max: 100}, 429,
			`{"errcode":"M_LIMIT_EXCEEDED","error":"at most 100 futures may be scheduled at a time","retry_after_ms":1000}`, "1"},
		{"3.8 not in the room", &api.Refusal{Kind: api.Forbidden, Message: "no"}, 403, `{"errcode":"M_FORBIDDEN","error":"no"}`, ""},
		{"3.1 unknown room", &api.Refusal{Kind: api.RoomNotFound, Message: "no"}, 404, `{"errcode":"M_NOT_FOUND","error":"no"}`, ""},
		{"3.1 event too large", &api.Refusal{Kind: api.TooLarge, Message: "no"}, 413, `{"errcode":"M_TOO_LARGE","error":"no"}`, ""},
		{"3.1 impossible event", &api.Refusal{Kind: api.BadEvent, Message: "no"}, 400, `{"errcode":"M_BAD_JSON","error":"no"}`, ""},
		{"3.1 internal", &api.Refusal{Kind: api.Internal, Message: "no"}, 500, `{"errcode":"M_UNKNOWN","error":"Internal server error"}`, ""},
		{"3.1 anything else", errors.New("disk full"), 500, `{"errcode":"M_UNKNOWN","error":"Internal server error"}`, ""},
		{"shutting down", api.ErrStopping, 503, `{"errcode":"M_UNKNOWN","error":"The server is restarting"}`, "5"},
		{"overloaded", api.ErrOverloaded, 503, `{"errcode":"M_UNKNOWN","error":"The server is busy"}`, "1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, err := range []error{c.err, fmt.Errorf("wrapped: %w", c.err)} {
				h := newHarness()
				h.fail = err
				a := h.put(sending + "t1?future_timeout=10")
				if a.code != c.code || a.body != c.body || a.header.Get("Retry-After") != c.retryAfter {
					t.Errorf("got %d %s %s", a.code, a.body, a.header.Get("Retry-After"))
				}
			}
		})
	}
	t.Run("3.7 access token", func(t *testing.T) {
		h := newHarness()
		for _, path := range []string{sending + "t1?future_timeout=10", state + "?future_timeout=10"} {
			h.do("PUT", path, "", "{}").want(t, 401, "M_MISSING_TOKEN")
			h.do("PUT", path, "nobody", "{}").want(t, 401, "M_UNKNOWN_TOKEN")
		}
	})
}

func TestCreateRateLimit(t *testing.T) {
	h := newHarness(func(c *fconfig.FutureServer) {
		c.RateLimits.Create = fconfig.RateLimit{PerSecond: 0.1, Burst: 2}
	})
	path := state + "?future_timeout=10"
	for range 2 {
		h.put(path).wantOK(t)
	}
	for _, accessToken := range []string{"alice", "alice2"} { // the limit is the user's, not the device's
		a := h.do("PUT", path, accessToken, "{}")
		a.want(t, 429, "M_LIMIT_EXCEEDED")
		if ms, _ := a.json["retry_after_ms"].(float64); ms <= 0 || ms > 10_000 || a.header.Get("Retry-After") != "10" {
			t.Errorf("got %s, Retry-After %s", a.body, a.header.Get("Retry-After"))
		}
	}
	h.do("PUT", path, "bob", "{}").wantOK(t)
	for _, exempt := range []string{"admin", "exempt", "bridge"} {
		for range 5 {
			h.do("PUT", path+"&user_id=@ghost:test", exempt, "{}").wantOK(t)
		}
	}
	if n := len(h.created); n != 2+1+15 {
		t.Errorf("%d futures", n)
	}
}

func TestDisabled(t *testing.T) {
	h := newHarness(func(c *fconfig.FutureServer) { c.Enabled = false })
	for _, path := range []string{sending + "t1", state} {
		a := h.put(path + "?future_timeout=10")
		a.want(t, 403, "M_FORBIDDEN")
		if !strings.Contains(a.body, "future_server.enabled") {
			t.Errorf("%s does not say how to enable", a.body)
		}
	}
	h.do("POST", tokenAt+api.NewSecret().Token(0).String(), "", "").want(t, 410, "M_NOT_FOUND")
	if a := h.do("GET", client+"/v3/futures", "alice", ""); a.code != 200 || a.body != "[]" {
		t.Errorf("list: %d %s", a.code, a.body)
	}
	h.put(client+"/v3/rooms/!r:test/send/m.room.message/t1?future_timeout=10").want(t, 400, "M_INVALID_PARAM")
	if a := h.do("GET", "/_dendrite/admin/futures", "admin", ""); a.code != 200 || !strings.Contains(a.body, `"futures":[]`) {
		t.Errorf("admin: %d %s", a.code, a.body)
	}
	if a := h.do("DELETE", "/_dendrite/admin/futures?id=1", "admin", ""); a.body != `{"cancelled":0}` {
		t.Errorf("admin: %d %s", a.code, a.body)
	}
}

func FuzzRepeatsKey(f *testing.F) {
	for _, seed := range []string{`{}`, `{"a":{"a":[1,"a"]}}`, `{"a":1,"a":1}`, `[{"x":null},{"x":[]}]`} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		var v any
		if json.Unmarshal([]byte(s), &v) != nil {
			return
		}
		clean, _ := json.Marshal(v) // a map has no key twice
		if repeatsKey(clean) {
			t.Errorf("found a key twice in %s", clean)
		}
		repeatsKey([]byte(s)) // must not panic
	})
}

// An event type that ends with a slash keeps it; only the last slash belongs to the path.
func TestEventTypeWithASlash(t *testing.T) {
	for _, path := range []string{
		"/v3/rooms/!r:test/send_future/com.example.a%2F/t1?future_timeout=10",
		"/v3/rooms/!r:test/state_future/com.example.a%2F/key?future_timeout=10",
		"/v3/rooms/!r:test/send/com.example.a%2F/t2?org.matrix.msc4140.delay=10",
	} {
		h := newHarness()
		h.put(client + path).wantOK(t)
		if f := h.created[0]; f.Type != "com.example.a/" {
			t.Errorf("%s: type %q, want %q", path, f.Type, "com.example.a/")
		}
	}
}
