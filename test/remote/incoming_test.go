package remote_test

import (
	"crypto/ed25519"
	"crypto/tls"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/fclient"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/tidwall/gjson"

	"github.com/matrix-org/dendrite/futures/test/rig"
)

// A peer is another server that has nothing but a key: it can sign requests to ours.
type peer struct {
	*testing.T
	name   spec.ServerName
	key    ed25519.PrivateKey
	client http.Client
}

const keyID gomatrixserverlib.KeyID = "ed25519:peer"

func newPeer(t *testing.T) *peer {
	p := &peer{T: t, key: ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))}
	p.client.Transport = &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write(p.keys()) }))
	t.Cleanup(s.Close)
	t.Cleanup(p.client.CloseIdleConnections)
	p.name = spec.ServerName(strings.TrimPrefix(s.URL, "https://"))
	return p
}

// keys is the peer's only answer: its key.
func (p *peer) keys() []byte {
	fields, err := json.Marshal(gomatrixserverlib.ServerKeyFields{
		ServerName:    p.name,
		VerifyKeys:    map[gomatrixserverlib.KeyID]gomatrixserverlib.VerifyKey{keyID: {Key: spec.Base64Bytes(p.key.Public().(ed25519.PublicKey))}},
		ValidUntilTS:  spec.AsTimestamp(time.Now().Add(time.Hour)),
		OldVerifyKeys: map[gomatrixserverlib.KeyID]gomatrixserverlib.OldVerifyKey{},
	})
	if err != nil {
		p.Error(err)
	}
	signed, err := gomatrixserverlib.SignJSON(string(p.name), keyID, p.key, fields)
	if err != nil {
		p.Error(err)
	}
	return signed
}

// ask sends a signed request to a server.
func (p *peer) ask(server *rig.Server, method, path string, content any) (int, gjson.Result) {
	p.Helper()
	req := fclient.NewFederationRequest(method, p.name, spec.ServerName(server.Name), path)
	if content != nil {
		if err := req.SetContent(content); err != nil {
			p.Fatal(err)
		}
	}
	if err := req.Sign(p.name, keyID, p.key); err != nil {
		p.Fatal(err)
	}
	r, err := req.HTTPRequest()
	if err != nil {
		p.Fatal(err)
	}
	r.URL.Scheme = "https"
	resp, err := p.client.Do(r)
	if err != nil {
		p.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		p.Fatal(err)
	}
	return resp.StatusCode, gjson.ParseBytes(body)
}

// TestUnknownVersions: an invite to a room of an unknown version, and a join by a server that does not know the room's
// version, are refused with the reason.
func TestUnknownVersions(t *testing.T) {
	server := rig.New(t, rig.Config{Federation: true})
	alice := server.Register(t, "alice")
	p := newPeer(t)
	event := map[string]any{
		"type": "m.room.member", "state_key": alice.ID, "sender": "@bob:" + string(p.name), "room_id": "!room:" + string(p.name),
		"content": map[string]any{"membership": "invite"}, "depth": 7, "origin_server_ts": time.Now().UnixMilli(),
		"prev_events": []string{}, "auth_events": []string{}, "hashes": map[string]any{}, "signatures": map[string]any{},
	}
	invite := "/_matrix/federation/v2/invite/" + url.PathEscape("!room:"+string(p.name)) + "/$event"
	for _, version := range []any{"99", "org.example.future", ""} {
		status, answer := p.ask(server, http.MethodPut, invite, map[string]any{
			"room_version": version, "event": event, "invite_room_state": []any{},
		})
		if status != 400 || answer.Get("errcode").Str != "M_UNSUPPORTED_ROOM_VERSION" || answer.Get("error").Str == "" {
			t.Errorf("an invite of version %q: %d %s", version, status, answer.Raw)
		}
	}
	for _, version := range []any{nil, 11, map[string]any{}} {
		status, answer := p.ask(server, http.MethodPut, invite, map[string]any{"room_version": version, "event": event})
		if status != 400 || answer.Get("errcode").Str == "" {
			t.Errorf("an invite of version %v: %d %s", version, status, answer.Raw)
		}
	}
	room := alice.CreateRoom(map[string]any{"preset": "public_chat", "room_version": "11"})
	join := "/_matrix/federation/v1/make_join/" + url.PathEscape(room) + "/" + url.PathEscape("@bob:"+string(p.name))
	for _, query := range []string{"", "?ver=1&ver=99"} {
		status, answer := p.ask(server, http.MethodGet, join+query, nil)
		if status != 400 || answer.Get("errcode").Str != "M_INCOMPATIBLE_ROOM_VERSION" || answer.Get("room_version").Str != "11" {
			t.Errorf("make_join%s: %d %s", query, status, answer.Raw)
		}
	}
	if status, answer := p.ask(server, http.MethodGet, join+"?ver=11", nil); status != 200 {
		t.Errorf("make_join with the right version: %d %s", status, answer.Raw)
	}
}
