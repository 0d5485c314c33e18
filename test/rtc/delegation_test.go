package rtc_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/matrix-org/dendrite/futures/test/rig"
)

const (
	delegatePath = stable + "livekit/delegate_delayed_leave"
	memberType   = "org.matrix.msc3401.call.member"
	sfuSecret    = "a secret of the SFU"
)

// A seat is a user in a call: a membership by state event, and the delayed event that ends it.
type seat struct {
	*testing.T
	*rig.User
	sfu       *sfu
	room, key string
	delayID   string
	alias     string
}

// newSeat makes a user enter the call, with a leave of that delay.
func newSeat(t *testing.T, f *sfu, u *rig.User, room string, delay time.Duration) *seat {
	t.Helper()
	s := &seat{T: t, User: u, sfu: f, room: room, key: "_" + u.ID + "_D_m.call", alias: hash(room, slot)}
	u.SendState(room, memberType, s.key, object{"application": "m.call"})
	s.delayID = scheduled(t, u, room, s.key, delay)
	return s
}

func scheduled(t *testing.T, u *rig.User, room, key string, delay time.Duration) string {
	t.Helper()
	r := wants(t, u.Delay(room, "state/"+memberType+"/"+key, object{}, delay), 200, "")
	return r.JSON.Get("delay_id").String()
}

func (s *seat) asks() object {
	return object{"url": sfuURL, "room_id": s.room, "slot_id": slot, "member_id": "m1", "delay_id": s.delayID}
}

func (s *seat) isIn() bool { return s.GetState(s.room, memberType, s.key).Get("application").Exists() }

// stays fails if the membership ends within that time.
func (s *seat) stays(d time.Duration) {
	s.Helper()
	for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		if !s.isIn() {
			s.Fatalf("%s has been thrown out of the call", s.ID)
		}
	}
}

// goes fails unless the membership ends within that time, and returns how long it took.
func (s *seat) goes(d time.Duration) time.Duration {
	s.Helper()
	start := time.Now()
	for time.Since(start) < d {
		if !s.isIn() {
			return time.Since(start)
		}
		time.Sleep(20 * time.Millisecond)
	}
	s.Fatalf("%s is still in the call after %v", s.ID, d)
	return 0
}

// hook sends a webhook of the SFU.
func hook(t *testing.T, s *rig.Server, event, alias, identity, sid, reason string) {
	t.Helper()
	body, err := json.Marshal(object{
		"event": event, "id": "EV_" + sid, "createdAt": "1",
		"room": object{"name": alias}, "participant": object{"identity": identity, "sid": sid, "disconnectReason": reason},
	})
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(body)
	token, err := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{
		"iss": "K", "exp": time.Now().Add(time.Minute).Unix(), "sha256": base64.StdEncoding.EncodeToString(sum[:]),
	}).SignedString([]byte(sfuSecret))
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL+legacyPath+"/sfu_webhook", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", token)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != http.StatusOK {
		t.Fatalf("the webhook is answered %d", res.StatusCode)
	}
}

func delegatingServer(t *testing.T, f *sfu) *rig.Server {
	return rig.New(t, rig.Config{Federation: true, Set: map[string]any{
		"global.well_known_client_name": baseURL,
		"future_server.matrix_rtc.livekit": []any{
			map[string]any{"url": sfuURL, "api_url": f.URL, "api_key": "K", "api_secret": sfuSecret},
			map[string]any{"url": noRemoteURL, "api_url": f.URL, "api_key": "K2", "api_secret": "another secret"},
		},
	}})
}

// TestDelegation: 13.3 and 13.4, and the refusals (6.2, 6.3).
func TestDelegation(t *testing.T) {
	t.Parallel()
	f := newSFU(t)
	server := delegatingServer(t, f)
	alice := server.Register(t, "alice")
	room := alice.CreateRoom(map[string]any{
		"preset": "public_chat", "power_level_content_override": object{"events": object{memberType: 0}},
	})
	n := 0
	run := func(name string, test func(t *testing.T, user *rig.User)) {
		n++
		login := fmt.Sprint("user", n)
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			u := server.Register(t, login)
			u.Join(room)
			test(t, u)
		})
	}
	run("13.3 refused", func(t *testing.T, u *rig.User) { refused(t, newSeat(t, f, u, room, 20*time.Second), alice) })
	for name, c := range map[string]struct {
		path     string
		identity func(u *rig.User) string
	}{
		"stable":              {delegatePath, func(u *rig.User) string { return hash(u.ID, "m1") }},
		"unstable":            {unstableLiveKit + "delegate_delayed_leave", func(u *rig.User) string { return hash(u.ID, u.DeviceID, "m1") }},
		"by state membership": {delegatePath, func(u *rig.User) string { return u.ID + ":" + u.DeviceID }},
	} {
		run("by "+name, func(t *testing.T, u *rig.User) {
			s := newSeat(t, f, u, room, 10*time.Second)
			wants(t, u.Do(http.MethodPost, c.path, nil, s.asks()), 200, "")
			wants(t, u.Do(http.MethodPost, c.path, nil, s.asks()), 200, "")
			s.follows(server, c.identity(u))
		})
	}
	for name, c := range map[string]struct {
		path     string
		body     func(s *seat) object
		identity func(u *rig.User) string
	}{
		"/sfu/get": {"/sfu/get", func(s *seat) object {
			return object{"room": room, "device_id": s.DeviceID, "delay_timeout": 1, "delay_cs_api_url": "http://x.example.com"}
		}, func(u *rig.User) string { return u.ID + ":" + u.DeviceID }},
		"/get_token":              {"/get_token", memberBody, func(u *rig.User) string { return hash(u.ID, "D", "m1") }},
		"/delegate_delayed_leave": {"/delegate_delayed_leave", memberBody, func(u *rig.User) string { return u.ID + ":D" }},
	} {
		run("by the older "+name, func(t *testing.T, u *rig.User) {
			s := newSeat(t, f, u, room, 10*time.Second)
			body := c.body(s).with("openid_token", openID(t, u)).with("delay_id", s.delayID)
			wants(t, visitor(t, server, http.MethodPost, legacyPath+c.path, body), 200, "")
			s.follows(server, c.identity(u))
		})
	}
	run("13.4 reconnects", func(t *testing.T, u *rig.User) {
		s := newSeat(t, f, u, room, 10*time.Second)
		wants(t, u.Do(http.MethodPost, delegatePath, nil, s.asks()), 200, "")
		id := hash(u.ID, "m1")
		s.sfu.connect(s.alias, id, "1")
		hook(t, server, "participant_joined", s.alias, id, "1", "")
		s.sfu.connect(s.alias, id, "2")
		hook(t, server, "participant_left", s.alias, id, "1", "CLIENT_INITIATED")
		hook(t, server, "participant_joined", s.alias, id, "2", "")
		hook(t, server, "participant_left", s.alias, id, "1", "DUPLICATE_IDENTITY")
		s.stays(12 * time.Second)
	})
}

func memberBody(s *seat) object {
	return object{"room_id": s.room, "slot_id": slot, "member": object{"id": "m1", "claimed_user_id": s.ID, "claimed_device_id": "D"}}
}

// follows: connected for longer than the delay, and then gone.
func (s *seat) follows(server *rig.Server, identity string) {
	s.Helper()
	s.sfu.connect(s.alias, identity, "1")
	hook(s.T, server, "participant_joined", s.alias, identity, "1", "")
	s.stays(12 * time.Second)
	s.sfu.connect(s.alias, identity, "")
	hook(s.T, server, "participant_left", s.alias, identity, "1", "CLIENT_INITIATED")
	s.Logf("gone %v after the webhook", s.goes(5*time.Second))
}

func refused(t *testing.T, s *seat, other *rig.User) {
	elsewhere := s.CreateRoom(nil)
	finished := scheduled(t, s.User, s.room, "x", time.Minute)
	wants(t, s.Do(http.MethodPost, rig.UnstableDelayed+"/"+finished, nil, object{"action": "cancel"}), 200, "")
	short := scheduled(t, s.User, s.room, "x", 5*time.Second)
	for name, body := range map[string]object{
		"unknown":           s.asks().with("delay_id", "unknown"),
		"of another user":   s.asks().with("delay_id", scheduled(t, other, s.room, "x", time.Minute)),
		"of another room":   s.asks().with("room_id", elsewhere),
		"another SFU":       s.asks().with("url", "wss://x.example.com"),
		"a finished one":    s.asks().with("delay_id", finished),
		"too short to last": s.asks().with("delay_id", short),
	} {
		t.Run(name, func(t *testing.T) {
			wants(t, s.Do(http.MethodPost, delegatePath, nil, body), 400, "M_INVALID_PARAM")
		})
	}
	wants(t, s.Do(http.MethodPost, delegatePath, nil, s.asks().with("delay_id", nil)), 400, "M_BAD_JSON")
	wants(t, s.Do(http.MethodPost, delegatePath, nil, s.asks().with("member_id", nil)), 400, "M_BAD_JSON")
	wants(t, s.Do(http.MethodPost, delegatePath, nil, s.asks().with("room_id", other.CreateRoom(nil))), 403, "M_FORBIDDEN")
	s.goes(25 * time.Second) // nobody has delegated it
}

// TestDelegationOutages: neither an outage of this server, longer than the delay, nor one of the SFU removes a
// participant who is connected. Those who left meanwhile are removed.
func TestDelegationOutages(t *testing.T) {
	t.Parallel()
	f := newSFU(t)
	server := delegatingServer(t, f)
	var seats []*seat
	for _, name := range []string{"stays", "goes"} {
		u := server.Register(t, name)
		s := newSeat(t, f, u, u.CreateRoom(nil), 10*time.Second)
		wants(t, u.Do(http.MethodPost, delegatePath, nil, s.asks()), 200, "")
		f.connect(s.alias, hash(u.ID, "m1"), "1")
		hook(t, server, "participant_joined", s.alias, hash(u.ID, "m1"), "1", "")
		seats = append(seats, s)
	}
	stays, goes := seats[0], seats[1]
	server.Kill()
	f.connect(goes.alias, hash(goes.ID, "m1"), "")
	time.Sleep(12 * time.Second) // longer than the delay: the outage is the test
	server.Start()
	stays.stays(12 * time.Second)
	t.Logf("gone after %v more", goes.goes(90*time.Second))
	f.fail(http.StatusServiceUnavailable)
	hook(t, server, "participant_left", stays.alias, hash(stays.ID, "m1"), "1", "CONNECTION_TIMEOUT")
	stays.stays(15 * time.Second)
	f.fail(0)
	server.CrashAt("claimed", 1) // between the decision and the room
	f.connect(stays.alias, hash(stays.ID, "m1"), "")
	hook(t, server, "participant_left", stays.alias, hash(stays.ID, "m1"), "1", "CLIENT_INITIATED")
	if !server.WaitExit(time.Minute) {
		t.Fatal("nothing was claimed")
	}
	server.Start()
	stays.goes(10 * time.Second)
}
