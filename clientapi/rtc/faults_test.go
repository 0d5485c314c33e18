package rtc

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
	fconfig "github.com/matrix-org/dendrite/futures/setup/config"
)

// What once removed participants who were there, kept those who were gone, or let requests through.

// A job on two SFUs: the signalling connection to one ends, the participant stays on the other.
func TestOneOfTwoSFUs(t *testing.T) {
	inCall(t, func(c *call) {
		c.connect("PA")
		l := c.scheduleOnTwo("leave", time.Hour)
		one, two := line{"wss://sfu", alias, "alice"}, line{"wss://sfu2", alias, "alice"}
		c.connected(one)
		c.connected(two)
		synctest.Wait()
		c.disconnected(two, true) // one of the SFUs is not needed any more
		c.stays(l, 10*time.Second)
	})
}

func (c *call) scheduleOnTwo(id string, delay time.Duration) *leave {
	l := &leave{done: make(chan struct{})}
	l.timer = time.AfterFunc(delay, func() { c.end(l) })
	l.delegated = api.Delegated{Timeout: delay, Done: l.done}
	c.leaves[id] = l
	if err := c.accept(c.ctx, api.Delegation{DelayID: id, UserID: "@alice:test", RoomID: "!room", Key: id},
		details{SFUs: []string{"wss://sfu", "wss://sfu2"}, Alias: alias, Identities: []string{"other", "alice"}}); err != nil {
		c.Fatal(err)
	}
	synctest.Wait()
	return l
}

// The news of two connections overtake each other: disconnected has counted, connected counts and informs, then
// disconnected informs.
func TestLinesOvertake(t *testing.T) {
	inCall(t, func(c *call) {
		c.connect("PA")
		l := c.schedule("leave", time.Hour)
		c.connected(aliceLine)
		synctest.Wait()
		if c.lines.add(aliceLine, -1) != 0 { // first half of disconnected
			t.Fatal()
		}
		c.connected(aliceLine)
		c.inform(aliceLine, func(w *watch, now time.Time) action { return w.unheard(now, true) }) // second half
		c.stays(l, 10*time.Second)
	})
}

// An answer to an earlier question is taken for the answer to the next.
func TestStaleAnswer(t *testing.T) {
	now := time.Now()
	w := newWatch(time.Hour, now) // begin asks: question 1
	w.joined(now, "PA")
	w.left(now.Add(time.Second), "PA", "SIGNAL_CLOSE") // grace of 2 s
	if act := w.asked(now.Add(time.Second), nil); act == send {
		t.Error("the answer to question 1 ends the grace period")
	}
}

// The SFU shuts down: participant_left SERVER_SHUTDOWN, then room_finished.
func TestShutdownThenFinished(t *testing.T) {
	now := time.Now()
	w := newWatch(time.Hour, now)
	w.joined(now, "PA")
	w.left(now, "PA", "SERVER_SHUTDOWN")
	if w.finished(now) != nothing {
		t.Error("room_finished ends the 30 s")
	}
}

// The same with a call that has begun again: room_finished comes late.
func TestLateFinished(t *testing.T) {
	inCall(t, func(c *call) {
		c.connect("PB")
		l := c.schedule("leave", time.Hour)
		c.hook(participantJoined, "PB", "")
		n := &news{Event: roomFinished}
		n.Room.Name = alias
		c.webhook("wss://sfu", n)
		c.stays(l, 10*time.Second)
	})
}

// The webhook of the join is lost; the client crashes within 30 s.
func TestLeftBeforeJoined(t *testing.T) {
	inCall(t, func(c *call) {
		l := c.schedule("leave", time.Hour)
		c.connected(aliceLine)
		c.connect("PA")
		time.Sleep(10 * time.Second)
		c.connect("")
		c.disconnected(aliceLine, true)
		c.hook(participantLeft, "PA", "CONNECTION_TIMEOUT")
		c.goes(l, 5*time.Minute)
	})
}

// SFUs with one key pair, or a job for all SFUs: the same call ends on another SFU.
func TestFinishedElsewhere(t *testing.T) {
	inCall(t, func(c *call) {
		c.connect("PA")
		l := c.scheduleOnTwo("leave", time.Hour)
		c.hook(participantJoined, "PA", "")
		n := &news{Event: roomFinished}
		n.Room.Name = alias
		c.webhook("wss://sfu2", n)
		c.stays(l, 10*time.Second)
	})
}

// The queue is full of news while the database is slow; the client is back, but that is dropped.
func TestHeardDropped(t *testing.T) {
	inCall(t, func(c *call) {
		c.connect("PA")
		l := c.schedule("leave", time.Hour)
		c.connected(aliceLine)
		synctest.Wait()
		time.Sleep(48*time.Minute - time.Second)
		c.setOverload(7) // about 30 s without the database, at the time of a restart
		time.Sleep(2 * time.Second)
		for range 14 {
			c.post(participantJoined, "PA", "")
		}
		c.disconnected(aliceLine, true)
		c.connected(aliceLine) // at once
		c.stays(l, time.Minute)
	})
}

// The reverse proxy in front of this server restarts: all signalling connections end at once, from the client's side, and come
// back after three seconds.
func TestFrontProxyRestarts(t *testing.T) {
	inCall(t, func(c *call) {
		c.connect("PA")
		l := c.schedule("leave", time.Hour)
		bob := line{"wss://sfu", alias, "bob"}
		for _, at := range []line{aliceLine, bob} {
			c.connected(at)
		}
		synctest.Wait()
		for _, at := range []line{aliceLine, bob} {
			c.disconnected(at, true)
		}
		c.stays(l, 3*time.Second)
		c.connected(aliceLine)
		c.stays(l, time.Minute)
	})
}

// Another participant reconnects at the same time: that is no restart of a proxy.
func TestOneDiesWhileAnotherReconnects(t *testing.T) {
	inCall(t, func(c *call) {
		c.connect("PA")
		l := c.schedule("leave", time.Hour)
		bob := line{"wss://sfu", alias, "bob"}
		c.connected(aliceLine)
		c.connected(bob)
		synctest.Wait()
		c.disconnected(bob, true)
		c.connected(bob)
		c.disconnected(aliceLine, true)
		c.goes(l, comeBackSignal)
	})
}

// TestProxyPaths: only a client with a token of the SFU reaches it, only at /rtc, and only a token that has not expired makes a
// room.
func TestProxyPaths(t *testing.T) {
	var got []string
	back := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got = append(got, r.Method+" "+r.URL.EscapedPath())
		w.Write([]byte("{}"))
	}))
	defer back.Close()
	l := newSFU(fconfig.LiveKit{URL: "ws://x/_matrix/livekit/sfu", APIURL: back.URL, APIKey: "K", APISecret: "S", Signalling: true})
	left := 100
	limit := func(string) time.Duration {
		if left--; left < 0 {
			return time.Second
		}
		return 0
	}
	h := (&Service{sfus: []*sfu{l}, metrics: newMetrics(nil), perUser: limit}).Signalling()
	token := func(secret string, life time.Duration) string {
		text, err := jwt.NewWithClaims(jwt.SigningMethodHS256, claims{
			RegisteredClaims: jwt.RegisteredClaims{Issuer: "K", Subject: "alice", ExpiresAt: jwt.NewNumericDate(time.Now().Add(life))},
			Video:            grants{Room: "r", RoomJoin: true},
		}).SignedString([]byte(secret))
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	const makesRoom = "POST /twirp/livekit.RoomService/CreateRoom,"
	good, old, forged := token("S", time.Hour), token("S", -time.Hour), token("forged", time.Hour)
	for _, c := range []struct {
		method, path, token string
		want                int
		reached             string
	}{
		{"GET", "/rtc", good, 200, makesRoom + "GET /rtc"},
		{"GET", "/rtc/v1/validate", good, 200, makesRoom + "GET /rtc/v1/validate"},
		{"GET", "/rtc", old, 200, "GET /rtc"},
		{"OPTIONS", "/rtc/validate", "", 200, "OPTIONS /rtc/validate"},
		{"GET", "/rtc", "", 401, ""},
		{"GET", "/rtc", forged, 401, ""},
		{"POST", "/rtc", good, 404, ""},
		{"GET", "/rtcfoo", good, 404, ""},
		{"GET", "/twirp/rtc", good, 404, ""},
		{"GET", "/rtc/../twirp/livekit.RoomService/ListRooms", good, 404, ""},
		{"GET", "/rtc/%2e%2e/debug/rooms", good, 404, ""},
		{"OPTIONS", "/rtc/../twirp/x", "", 404, ""},
	} {
		got = nil
		rec := httptest.NewRecorder()
		h.ServeHTTP(rec, httptest.NewRequestWithContext(t.Context(), c.method, "http://x"+fconfig.SignalPath+c.path+"?access_token="+c.token, nil))
		if reached := strings.Join(got, ","); rec.Code != c.want || reached != c.reached {
			t.Errorf("%s %s: %d, reached %q; want %d, %q", c.method, c.path, rec.Code, reached, c.want, c.reached)
		}
	}
	left = 0
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, httptest.NewRequestWithContext(t.Context(), "GET", "http://x"+fconfig.SignalPath+"/rtc?access_token="+good, nil))
	if rec.Code != http.StatusTooManyRequests {
		t.Errorf("too many: %d", rec.Code)
	}
}

// TestLongNames: what this server would remember is bounded.
func TestLongNames(t *testing.T) {
	long := strings.Repeat("x", maxName+1)
	if fail := fillStateMember(&tokenRequest{Room: "!r:x", DeviceID: long}); fail == nil {
		t.Error("a long device_id is accepted")
	}
	if fail := (&tokenRequest{RoomID: "!r:x", SlotID: long, MemberID: "m"}).check(); fail == nil {
		t.Error("a long slot_id is accepted")
	}
}
