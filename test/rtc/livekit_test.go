package rtc_test

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"github.com/matrix-org/dendrite/futures/test/rig"
)

const (
	getToken         = stable + "livekit/get_token"
	unstableLiveKit  = unstable + "io.element.msc4195/rtc/livekit/"
	unstableGetToken = unstableLiveKit + "get_token"
	legacyPath       = "/_matrix/livekit/jwt"
	noRemoteURL      = "wss://no-remote.example.com"
	someRemoteURL    = "wss://some-remote.example.com"
	slot             = "m.call#ROOM"
)

// A scene is a server with three SFUs, another server, and a room in which both have a user.
type scene struct {
	*testing.T
	server *rig.Server
	sfu    *sfu
	other  *rig.Fake
	alice  *rig.User
	room   string
	remote string // the other server's user
	joined *rig.FakeRoom
}

// object is the body of a request.
type object map[string]any

// with returns a copy with another member; nil removes it.
func (o object) with(name string, value any) object {
	changed := object{}
	for n, v := range o {
		changed[n] = v
	}
	if changed[name] = value; value == nil {
		delete(changed, name)
	}
	return changed
}

// hash computes the names of MSC4195 on the SFU.
func hash(parts ...string) string {
	data, _ := json.Marshal(parts)
	sum := sha256.Sum256(data)
	return base64.RawStdEncoding.EncodeToString(sum[:])
}

func newScene(t *testing.T) *scene {
	s := &scene{T: t, sfu: newSFU(t), other: rig.NewFake(t)}
	entry := func(url string, remote any) any {
		return map[string]any{"url": url, "api_url": s.sfu.URL, "api_key": "K", "api_secret": "a secret of the SFU", "remote_publish": remote}
	}
	s.server = rig.New(t, rig.Config{Federation: true, Set: map[string]any{
		"global.well_known_client_name": baseURL,
		"future_server.matrix_rtc.livekit": []any{
			entry(sfuURL, true), entry(noRemoteURL, false), entry(someRemoteURL, []any{s.other.Name}),
		},
	}})
	s.alice = s.server.Register(t, "alice")
	s.room = s.alice.CreateRoom(map[string]any{"preset": "public_chat", "room_version": "10"})
	s.remote = s.other.User("remote")
	s.joined = s.other.Join(s.server, s.room, s.remote, "10")
	return s
}

// asks is a request of today's MSC4195.
func (s *scene) asks() object {
	return object{"url": sfuURL, "room_id": s.room, "slot_id": slot, "member_id": "m1"}
}

// TestLiveKit tests section 13 of the requirements of MSC4195.
func TestLiveKit(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	run := func(name string, test func(*scene)) {
		t.Run(name, func(t *testing.T) {
			here := *s
			here.T = t
			test(&here)
		})
	}
	run("13.1 identities", (*scene).identities)
	run("grants", (*scene).grants)
	run("errors", (*scene).errors)
	run("13.6 two servers", (*scene).incoming)
	run("13.6 the other way", (*scene).outgoing)
	run("13.7 the probe for delegation", (*scene).probe)
	run("13.9 OpenID tokens", (*scene).openIDs)
	run("13.10 who may publish", (*scene).publishing)
	run("legacy API", (*scene).legacy)
	run("several SFUs", (*scene).several)
	run("who leaves is removed", (*scene).leaving)
	if log := s.server.Log(); strings.Contains(log, "a secret of the SFU") || strings.Contains(log, "access_token=") {
		t.Error("there is a secret in the log")
	}
}

func (s *scene) subject(r rig.Response) string {
	s.Helper()
	return claims(wants(s.T, r, 200, "").JSON.Get("jwt").String()).Get("sub").String()
}

// post sends a request without a login.
func (s *scene) post(path string, body any) rig.Response {
	s.Helper()
	return visitor(s.T, s.server, http.MethodPost, path, body)
}

func (s *scene) asAlice(path string, body any) rig.Response {
	s.Helper()
	return s.alice.Do(http.MethodPost, path, nil, body)
}

func (s *scene) identities() {
	member := object{"id": "m1", "claimed_device_id": "D", "claimed_user_id": s.alice.ID}
	plain := s.asks().with("member_id", nil)
	token := openID(s.T, s.alice)
	two, three := hash(s.alice.ID, "m1"), hash(s.alice.ID, "D", "m1")
	for _, c := range []struct {
		name, got, want string
	}{
		{"member_id", s.subject(s.asAlice(getToken, s.asks())), two},
		{"unstable path", s.subject(s.asAlice(unstableGetToken, s.asks())), two},
		{"member with a device", s.subject(s.asAlice(unstableGetToken, plain.with("member", member))), three},
		{"member without one, no url", s.subject(s.asAlice(getToken, plain.with("member", object{"id": "m1"}).with("url", nil).with("x", 1))), two},
		{"/get_token", s.subject(s.post(legacyPath+"/get_token", plain.with("member", member).with("openid_token", token))), three},
		{"/sfu/get", s.subject(s.post(legacyPath+"/sfu/get", object{"room": s.room, "device_id": "D", "openid_token": token})), s.alice.ID + ":D"},
	} {
		if c.got != c.want {
			s.Errorf("%s: got %s, want %s", c.name, c.got, c.want)
		}
	}
}

func (s *scene) grants() {
	r := wants(s.T, s.asAlice(getToken, s.asks()), 200, "")
	got, alias, now := claims(r.JSON.Get("jwt").String()), hash(s.room, slot), time.Now().Unix()
	want := `{"room":"` + alias + `","roomJoin":true,"canPublish":true,"canSubscribe":true,"canUpdateOwnMetadata":false}`
	if got.Get("video").Raw != want || got.Get("iss").String() != "K" || got.Get("name").Exists() || got.Get("metadata").Exists() {
		s.Errorf("claims %s", got.Raw)
	}
	if life := got.Get("exp").Int() - now; life < 3500 || life > 3601 || got.Get("nbf").Int() > now-5 {
		s.Errorf("now is %d, claims %s", now, got.Raw)
	}
	if r.JSON.Get("url").String() != sfuURL {
		s.Errorf("%s", r.Body)
	}
	made := s.sfu.of("CreateRoom")
	last := made[len(made)-1]
	if last.body.Get("name").String() != alias || last.body.Get("empty_timeout").Int() != 300 || last.claims.Get("video").Raw != `{"roomCreate":true}` {
		s.Errorf("the room is made by %s with %s", last.body.Raw, last.claims.Raw)
	}
}

func (s *scene) errors() {
	for _, field := range []string{"room_id", "slot_id", "member_id"} {
		wants(s.T, s.asAlice(getToken, s.asks().with(field, nil)), 400, "M_BAD_JSON")
		wants(s.T, s.asAlice(getToken, s.asks().with(field, "")), 400, "M_BAD_JSON")
		wants(s.T, s.asAlice(getToken, s.asks().with(field, 1)), 400, "M_BAD_JSON")
	}
	wants(s.T, s.asAlice(getToken, "{"), 400, "M_NOT_JSON")
	wants(s.T, s.asAlice(getToken, s.asks().with("url", "wss://x.example.com")), 400, "M_INVALID_PARAM")
	wants(s.T, s.asAlice(getToken, s.asks().with("url", "WSS://RTC.example.com:443/")), 200, "")
	for _, room := range []string{"!unknown:" + s.server.Name, "!x", s.server.Register(s.T, "bob").CreateRoom(nil)} {
		wants(s.T, s.asAlice(getToken, s.asks().with("room_id", room)), 403, "M_FORBIDDEN")
	}
	wants(s.T, s.post(getToken, s.asks()), 401, "M_MISSING_TOKEN")
	wants(s.T, s.alice.Do(http.MethodGet, getToken, nil, nil), 405, "M_UNRECOGNIZED")
	s.sfu.fail(503)
	defer s.sfu.fail(0)
	wants(s.T, s.asAlice(getToken, s.asks()), 500, "M_UNKNOWN")
}

func (s *scene) incoming() {
	ask := func(path string, body object) rig.Response {
		return s.other.Ask(s.server, http.MethodPost, "/_matrix/federation"+path, body)
	}
	asks := s.asks().with("user_id", s.remote)
	for _, path := range []string{"/v1/rtc/livekit/get_token", "/unstable/io.element.msc4195/rtc/livekit/get_token"} {
		if got := s.subject(ask(path, asks)); got != hash(s.remote, "m1") {
			s.Errorf("%s: %s", path, got)
		}
	}
	const path = "/v1/rtc/livekit/get_token"
	wants(s.T, ask(path, asks.with("user_id", s.other.User("absent"))), 403, "M_FORBIDDEN")
	wants(s.T, ask(path, asks.with("user_id", s.alice.ID)), 403, "M_FORBIDDEN")
	wants(s.T, ask(path, asks.with("user_id", "@x:third.example.com")), 403, "M_FORBIDDEN")
	wants(s.T, ask(path, asks.with("room_id", "!unknown:"+s.server.Name)), 403, "M_FORBIDDEN")
	wants(s.T, ask(path, asks.with("url", "wss://x.example.com")), 400, "M_INVALID_PARAM")
	wants(s.T, ask(path, asks.with("url", nil)), 400, "M_BAD_JSON")
	wants(s.T, ask(path, asks.with("slot_id", nil)), 400, "M_BAD_JSON")
	if r := s.post("/_matrix/federation"+path, asks); r.Status/100 != 4 || r.JSON.Get("jwt").Exists() {
		s.Errorf("unsigned: %d %s", r.Status, r.Body)
	}
}

func (s *scene) outgoing() {
	const part = "/rtc/livekit/get_token"
	asks := s.asks().with("server_name", s.other.Name).with("url", "wss://other.example.com")
	s.other.AnswerWith("/v1"+part, 404, object{"errcode": "M_UNRECOGNIZED"})
	s.other.AnswerWith("/unstable/io.element.msc4195"+part, 200, object{"jwt": "of the other"})
	for range 2 {
		if r := wants(s.T, s.asAlice(getToken, asks), 200, ""); r.JSON.Get("jwt").String() != "of the other" {
			s.Errorf("%s", r.Body)
		}
	}
	if n := len(s.other.Requests("/v1" + part)); n != 1 {
		s.Errorf("the stable path was asked %d times", n)
	}
	got := s.other.Requests("/unstable/io.element.msc4195" + part)[0].Body
	if got.Get("user_id").String() != s.alice.ID || got.Get("server_name").Exists() || got.Get("member_id").String() != "m1" {
		s.Errorf("the other server was asked %s", got.Raw)
	}
	for _, c := range []struct {
		status int
		code   string
		want   int
		errs   string
	}{
		{403, "M_FORBIDDEN", 403, "M_FORBIDDEN"}, {400, "M_INVALID_PARAM", 400, "M_INVALID_PARAM"}, {401, "M_UNKNOWN_TOKEN", 502, "M_UNKNOWN"},
		{500, "M_UNKNOWN", 502, "M_UNKNOWN"}, {404, "M_UNRECOGNIZED", 502, "M_UNKNOWN"}, {200, "", 502, "M_UNKNOWN"},
	} {
		s.other.AnswerWith(part, c.status, object{"errcode": c.code, "error": "words of the other"})
		r := wants(s.T, s.asAlice(getToken, asks), c.want, c.errs)
		if strings.Contains(string(r.Body), "words of the other") {
			s.Errorf("passed on: %s", r.Body)
		}
	}
	wants(s.T, s.asAlice(getToken, asks.with("server_name", "absent.example.com")), 403, "M_FORBIDDEN")
}

// probe is the request with which Element Call finds out whether it can delegate its leave.
func (s *scene) probe() {
	for _, path := range []string{unstableLiveKit, stable + "livekit/"} {
		wants(s.T, s.post(path+"delegate_delayed_leave", nil), 401, "M_MISSING_TOKEN")
	}
	wants(s.T, s.post(legacyPath+"/delegate_delayed_leave", nil), 400, "M_NOT_JSON")
	elsewhere := rig.New(s.T, rig.Config{Set: map[string]any{
		"global.well_known_client_name": baseURL,
		"future_server.matrix_rtc.livekit": []any{
			map[string]any{"url": sfuURL, "api_key": "K", "api_secret": "S"},
		},
		"future_server.matrix_rtc.transports": []any{
			map[string]any{"type": "livekit", "livekit_service_url": "https://jwt.example.com"},
		},
	}})
	for _, path := range []string{unstableLiveKit, stable + "livekit/"} {
		wants(s.T, visitor(s.T, elsewhere, http.MethodPost, path+"delegate_delayed_leave", nil), 404, "M_UNRECOGNIZED")
	}
}

func (s *scene) openIDs() {
	const part = "/openid/userinfo"
	ask := func(token object) rig.Response {
		return s.post(legacyPath+"/sfu/get", object{"room": s.room, "device_id": "D", "openid_token": token})
	}
	foreign := object{"access_token": "t", "matrix_server_name": s.other.Name, "token_type": "Bearer", "expires_in": 3600}
	s.other.AnswerWith(part, 200, object{"sub": s.remote})
	if got := s.subject(ask(foreign)); got != s.remote+":D" {
		s.Errorf("a foreign token is for %s", got)
	}
	if asked := s.other.Requests(part); asked[0].Query.Get("access_token") != "t" {
		s.Errorf("asked %v", asked)
	}
	for _, sub := range []string{s.alice.ID, "@x:third.example.com", "", "x"} {
		s.other.AnswerWith(part, 200, object{"sub": sub})
		wants(s.T, ask(foreign), 401, "M_UNAUTHORIZED")
	}
	s.other.AnswerWith(part, 401, object{"errcode": "M_UNKNOWN_TOKEN"})
	wants(s.T, ask(foreign), 401, "M_UNAUTHORIZED")
	wants(s.T, ask(foreign.with("matrix_server_name", s.server.Name)), 401, "M_UNAUTHORIZED")
	wants(s.T, ask(foreign.with("matrix_server_name", "a/b")), 401, "M_UNAUTHORIZED")

	outsider := rig.NewFake(s.T) // a server that is not in the room must not be asked
	wants(s.T, ask(foreign.with("matrix_server_name", outsider.Name)), 401, "M_UNAUTHORIZED")
	if asked := outsider.Requests(part); len(asked) > 0 {
		s.Errorf("asked %v", asked)
	}
	wants(s.T, ask(foreign.with("access_token", nil)), 400, "M_BAD_JSON")
	s.other.AnswerWith(part, 200, object{"sub": s.other.User("absent")})
	wants(s.T, ask(foreign), 403, "M_FORBIDDEN")
}

func (s *scene) publishing() {
	for url, want := range map[string]bool{sfuURL: true, noRemoteURL: false, someRemoteURL: true} {
		asks := s.asks().with("url", url)
		own := claims(wants(s.T, s.asAlice(getToken, asks), 200, "").JSON.Get("jwt").String())
		r := s.other.Ask(s.server, http.MethodPost, "/_matrix/federation/v1/rtc/livekit/get_token", asks.with("user_id", s.remote))
		remote := claims(wants(s.T, r, 200, "").JSON.Get("jwt").String())
		if may := remote.Get("video.canPublish"); !own.Get("video.canPublish").Bool() || may.Type == gjson.Null || may.Bool() != want {
			s.Errorf("%s: own %s, remote %s", url, own.Raw, remote.Raw)
		}
	}
}

func (s *scene) legacy() {
	token := openID(s.T, s.alice)
	asks := object{"room": s.room, "device_id": "D", "openid_token": token, "delay_id": "x", "delay_timeout": 1, "unknown": object{}}
	r := wants(s.T, s.post(legacyPath+"//sfu/get", asks), 200, "")
	if r.JSON.Get("url").String() != sfuURL || r.Header.Get("Access-Control-Allow-Origin") != "*" || r.Header.Get("Content-Type") != "application/json" {
		s.Errorf("%s %v", r.Body, r.Header)
	}
	if got := claims(r.JSON.Get("jwt").String()).Get("video.room").String(); got != hash(s.room, slot) {
		s.Errorf("the room is called %s", got)
	}
	wants(s.T, s.post(legacyPath+"/sfu/get", "x"), 400, "M_NOT_JSON")
	wants(s.T, s.post(legacyPath+"/sfu/get", asks.with("device_id", nil)), 400, "M_BAD_JSON")
	wants(s.T, s.post(legacyPath+"/sfu/get", asks.with("openid_token", nil)), 400, "M_BAD_JSON")
	wants(s.T, s.post(legacyPath+"/sfu/get", asks.with("room", "!unknown:"+s.server.Name)), 403, "M_FORBIDDEN")
	member := s.asks().with("member_id", nil).with("openid_token", token).with("member", object{"id": "m1", "claimed_device_id": "D", "claimed_user_id": s.remote})
	wants(s.T, s.post(legacyPath+"/get_token", member), 401, "M_UNAUTHORIZED")
	wants(s.T, s.post(legacyPath+"/get_token", member.with("member", object{"id": "m1"})), 400, "M_BAD_JSON")
	wants(s.T, visitor(s.T, s.server, http.MethodGet, legacyPath+"/healthz", nil), 200, "")
	wants(s.T, visitor(s.T, s.server, http.MethodGet, legacyPath+"/sfu/get", nil), 405, "M_UNRECOGNIZED")
	wants(s.T, s.post(legacyPath+"/sfu_webhook", object{"event": "participant_joined"}), 401, "M_UNAUTHORIZED")
	preflight(s.T, s.server, legacyPath+"/sfu/get")
}

func (s *scene) several() {
	asks := object{"room": s.room, "device_id": "D", "openid_token": openID(s.T, s.alice)}
	for path, url := range map[string]string{"": sfuURL, "/2": noRemoteURL, "/3": someRemoteURL} {
		if r := wants(s.T, s.post(legacyPath+path+"/sfu/get", asks), 200, ""); r.JSON.Get("url").String() != url {
			s.Errorf("%q: %s", path, r.Body)
		}
	}
	wants(s.T, s.post(legacyPath+"/4/sfu/get", asks), 404, "M_UNRECOGNIZED")
	wants(s.T, s.post(legacyPath+"/0/sfu/get", asks), 404, "M_UNRECOGNIZED")
}

func (s *scene) leaving() {
	bob, carol := s.server.Register(s.T, "leaving"), s.server.Register(s.T, "banned")
	for _, u := range []*rig.User{bob, carol} {
		u.Join(s.room)
		wants(s.T, u.Do(http.MethodPost, getToken, nil, s.asks()), 200, "")
	}
	bob.Leave(s.room)
	wants(s.T, s.alice.Do(http.MethodPost, rig.Path("rooms", s.room, "ban"), nil, object{"user_id": carol.ID}), 200, "")
	for _, u := range []*rig.User{bob, carol} {
		c := s.sfu.wait(s.T, "RemoveParticipant", func(c call) bool { return c.body.Get("identity").String() == hash(u.ID, "m1") })
		if c.body.Get("room").String() != hash(s.room, slot) || !c.claims.Get("video.roomAdmin").Bool() || c.claims.Get("video.room").String() != hash(s.room, slot) {
			s.Errorf("%s with %s", c.body.Raw, c.claims.Raw)
		}
		wants(s.T, u.Do(http.MethodPost, getToken, nil, s.asks()), 403, "M_FORBIDDEN")
	}
	for _, c := range s.sfu.of("RemoveParticipant") {
		if id := c.body.Get("identity").String(); id == hash(s.alice.ID, "m1") {
			s.Error("somebody who is in the room was removed")
		}
	}
}
