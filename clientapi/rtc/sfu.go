package rtc

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/golang-jwt/jwt/v5"

	fconfig "github.com/matrix-org/dendrite/futures/setup/config"
)

const (
	tokenLife  = time.Hour        // to connect in; who is connected stays, and LiveKit renews the token
	callLife   = time.Minute      // of the tokens for our own calls
	clockSkew  = 10 * time.Second // the SFU's clock may be behind
	sfuTimeout = 10 * time.Second

	emptyTimeout     = 300 // seconds for which the SFU keeps a room into which nobody has come
	departureTimeout = 20  // after the last has left
)

// An sfu is one LiveKit server: its address, and the key pair with which we speak in its name.
type sfu struct {
	fconfig.LiveKit
	api      string
	client   *http.Client
	answered atomic.Int64 // when it last did, Unix ns
}

func newSFU(l fconfig.LiveKit) *sfu {
	api := l.APIURL
	if api == "" { // ws and wss become http and https
		api = "http" + strings.TrimPrefix(l.URL, "ws")
	}
	s := &sfu{LiveKit: l, api: api, client: &http.Client{Timeout: sfuTimeout}}
	s.answered.Store(time.Now().UnixNano())
	return s
}

// grants are LiveKit's VideoGrant.
type grants struct {
	Room                 string `json:"room,omitempty"`
	RoomJoin             bool   `json:"roomJoin,omitempty"`
	RoomCreate           bool   `json:"roomCreate,omitempty"` // permits to delete any room, too: never for clients
	RoomAdmin            bool   `json:"roomAdmin,omitempty"`
	CanPublish           *bool  `json:"canPublish,omitempty"`
	CanSubscribe         *bool  `json:"canSubscribe,omitempty"`
	CanUpdateOwnMetadata *bool  `json:"canUpdateOwnMetadata,omitempty"`
}

// claims are those of a LiveKit token.
type claims struct {
	jwt.RegisteredClaims
	Video grants `json:"video"`
}

// sign makes a token. It holds no name and no metadata: participants are pseudonyms.
func (l *sfu) sign(identity string, life time.Duration, g grants) (string, error) {
	now := time.Now()
	return jwt.NewWithClaims(jwt.SigningMethodHS256, claims{
		RegisteredClaims: jwt.RegisteredClaims{
			Issuer:    l.APIKey,
			Subject:   identity,
			IssuedAt:  jwt.NewNumericDate(now),
			NotBefore: jwt.NewNumericDate(now.Add(-clockSkew)),
			ExpiresAt: jwt.NewNumericDate(now.Add(life)),
		},
		Video: g,
	}).SignedString([]byte(l.APISecret))
}

// admit makes the room and the token that lets a participant in. The token alone must not make rooms.
func (l *sfu) admit(ctx context.Context, alias, identity string, publish bool) (string, error) {
	if err := l.createRoom(ctx, alias); err != nil {
		return "", err
	}
	yes, no := true, false
	return l.sign(identity, tokenLife, grants{
		Room: alias, RoomJoin: true, CanPublish: &publish, CanSubscribe: &yes, CanUpdateOwnMetadata: &no,
	})
}

// createRoom does nothing if the room is there.
func (l *sfu) createRoom(ctx context.Context, alias string) error {
	room := map[string]any{"name": alias, "empty_timeout": emptyTimeout, "departure_timeout": departureTimeout}
	return l.call(ctx, "CreateRoom", grants{RoomCreate: true}, room, nil)
}

// remove ends the connection of a participant, if there is one.
func (l *sfu) remove(ctx context.Context, alias, identity string) error {
	err := l.call(ctx, "RemoveParticipant", grants{RoomAdmin: true, Room: alias}, map[string]any{"room": alias, "identity": identity}, nil)
	if isNotFound(err) {
		return nil
	}
	return err
}

// A connection is LiveKit's ParticipantInfo, as far as it is of use here.
type connection struct {
	Identity, SID, State string
}

// isThere reports whether it counts: LiveKit keeps those that have ended for a moment.
func (c connection) isThere() bool { return c.State != "DISCONNECTED" }

// participants returns who is connected.
func (l *sfu) participants(ctx context.Context, alias string) (present, error) {
	var answer struct {
		Participants []connection
	}
	err := l.call(ctx, "ListParticipants", grants{RoomAdmin: true, Room: alias}, map[string]any{"room": alias}, &answer)
	if err != nil && !isNotFound(err) {
		return nil, err
	}
	there := make(present, len(answer.Participants))
	for _, p := range answer.Participants {
		if p.isThere() {
			there[p.Identity] = p.SID
		}
	}
	return there, nil
}

// participant adds one identity to those who are there, if it is.
func (l *sfu) participant(ctx context.Context, alias, identity string, there present) error {
	var p connection
	err := l.call(ctx, "GetParticipant", grants{RoomAdmin: true, Room: alias}, map[string]any{"room": alias, "identity": identity}, &p)
	if isNotFound(err) {
		return nil
	}
	if err == nil && p.isThere() {
		there[identity] = p.SID
	}
	return err
}

// sfuError is what LiveKit answers instead of a result.
type sfuError struct {
	Status int
	Code   string `json:"code"`
	Msg    string `json:"msg"`
}

func (e *sfuError) Error() string {
	return fmt.Sprintf("the SFU answered %d %s %s", e.Status, e.Code, e.Msg)
}

func isNotFound(err error) bool {
	e, ok := err.(*sfuError)
	return ok && e.Code == "not_found"
}

// call asks LiveKit's RoomService, whose protocol is Twirp: JSON by POST.
func (l *sfu) call(ctx context.Context, method string, g grants, question, answer any) error {
	body, err := json.Marshal(question)
	if err != nil {
		return err
	}
	token, err := l.sign("", callLife, g)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, l.api+"/twirp/livekit.RoomService/"+method, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := l.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	l.answered.Store(time.Now().UnixNano())
	data, err := io.ReadAll(io.LimitReader(resp.Body, 16<<20)) // some 10,000 participants with their tracks
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		failed := &sfuError{Status: resp.StatusCode}
		_ = json.Unmarshal(data, failed) // a proxy's answer is no JSON; the status is enough then
		return failed
	}
	if answer == nil {
		return nil
	}
	return json.Unmarshal(data, answer)
}

// sameURL compares addresses of SFUs as browsers understand them.
func sameURL(a, b string) bool {
	return normalURL(a) == normalURL(b)
}

func normalURL(s string) string {
	u, err := url.Parse(s)
	if err != nil {
		return s
	}
	scheme, host, port := strings.ToLower(u.Scheme), strings.ToLower(u.Hostname()), u.Port()
	if scheme == "wss" && port == "443" || scheme == "ws" && port == "80" {
		port = ""
	}
	return scheme + "://" + host + ":" + port + strings.TrimRight(u.EscapedPath(), "/")
}
