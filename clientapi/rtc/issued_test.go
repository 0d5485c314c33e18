package rtc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	userapi "github.com/matrix-org/dendrite/userapi/api"

	fconfig "github.com/matrix-org/dendrite/futures/setup/config"
)

// TestSeats: who is removed, and how long anybody is remembered.
func TestSeats(t *testing.T) {
	trouble := errors.New("the database is away")
	for _, c := range []struct {
		name                  string
		in                    bool
		err                   error
		over                  bool // the token's time
		connected, sfuAway    bool
		wantRemoved, wantKept bool
	}{
		{name: "in the room", in: true, connected: true, wantKept: true},
		{name: "in the room, not connected yet", in: true, wantKept: true},
		{name: "connected for longer than the token", in: true, over: true, connected: true, wantKept: true},
		{name: "in the room, never came", in: true, over: true},
		{name: "in the room, the SFU is away", in: true, over: true, sfuAway: true, wantKept: true},
		{name: "left", connected: true, wantRemoved: true, wantKept: true},
		{name: "left, not connected", wantRemoved: true, wantKept: true},
		{name: "left, the token is over", over: true, connected: true, wantRemoved: true},
		{name: "left, the SFU is away", over: true, sfuAway: true, wantKept: true},
		{name: "nobody knows", err: trouble, connected: true, wantKept: true},
		{name: "nobody knows, the token is over", err: trouble, over: true, connected: true, wantKept: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			removed := false
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
				switch _, method, _ := strings.Cut(req.URL.Path, "livekit.RoomService/"); {
				case c.sfuAway:
					w.WriteHeader(http.StatusBadGateway)
				case method == "ListParticipants" && c.connected:
					fmt.Fprint(w, `{"participants":[{"identity":"id","x":1}]}`)
				case method == "RemoveParticipant" && c.connected:
					removed = true
					fmt.Fprint(w, `{}`)
				default:
					removed = removed || method == "RemoveParticipant"
					w.WriteHeader(http.StatusNotFound)
					fmt.Fprint(w, `{"code":"not_found","msg":"x"}`)
				}
			}))
			defer server.Close()
			i := newIssued(func(context.Context, string, string) (bool, error) { return c.in, c.err })
			s := seat{newSFU(fconfig.LiveKit{APIURL: server.URL, APIKey: "K", APISecret: "S"}), "alias", "id", "!room", "@user"}
			i.add(s)
			if c.over {
				i.rooms["!room"][s] = time.Now().Add(-time.Second)
			}
			i.sweep(t.Context(), "!room")
			if kept := len(i.rooms["!room"]) > 0; kept != c.wantKept || i.seats != len(i.rooms) || removed != c.wantRemoved {
				t.Errorf("kept %v, removed %v", kept, removed)
			}
		})
	}
}

// TestNewerTokenIsKept: a seat does not end with its first token.
func TestNewerTokenIsKept(t *testing.T) {
	i, s := newIssued(nil), seat{alias: "a", roomID: "!room"}
	i.add(s)
	old := i.rooms["!room"][s].Add(-time.Minute)
	i.forget(s, old)
	if i.seats != 1 {
		t.Error("it is forgotten")
	}
	i.add(s)
	if i.seats != 1 {
		t.Errorf("%d seats", i.seats)
	}
	i.forget(s, i.rooms["!room"][s])
	if i.seats != 0 || len(i.rooms) != 0 {
		t.Error("it is not forgotten")
	}
}

// TestTooManyTokens: the answer says when to come again, in whole seconds that are not too few.
func TestTooManyTokens(t *testing.T) {
	s := &Service{perUser: func(key string) time.Duration {
		if key != "@alice:h" {
			t.Errorf("the limit is of %s", key)
		}
		return 1500 * time.Millisecond
	}}
	req := httptest.NewRequestWithContext(t.Context(), post, "/", http.NoBody)
	res := s.clientToken(req, &userapi.Device{UserID: "@alice:h"})
	if res.Code != http.StatusTooManyRequests || res.Headers["Retry-After"] != "2" {
		t.Errorf("%+v", res)
	}
}

func TestAPIAddress(t *testing.T) {
	for _, c := range [][3]string{
		{"wss://h/p", "", "https://h/p"}, {"ws://h:1", "", "http://h:1"}, {"wss://h", "http://i", "http://i"},
	} {
		if got := newSFU(fconfig.LiveKit{URL: c[0], APIURL: c[1]}).api; got != c[2] {
			t.Errorf("%v: %s", c, got)
		}
	}
}

// TestErrorsHideURLs: there may be a token in them.
func TestErrorsHideURLs(t *testing.T) {
	s := &Service{Options: Options{Federation: func(_ context.Context, req *http.Request) (*http.Response, error) {
		return nil, fmt.Errorf("outer: %w", httpError(req))
	}}}
	req, err := http.NewRequestWithContext(t.Context(), get, "http://h/?access_token=secret", nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.exchange(t.Context(), req, nil); err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("%v", err)
	}
}

func httpError(req *http.Request) error {
	client := http.Client{Transport: failing{}}
	_, err := client.Do(req)
	return err
}

type failing struct{}

func (failing) RoundTrip(*http.Request) (*http.Response, error) { return nil, io.ErrUnexpectedEOF }
