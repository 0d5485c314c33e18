package clientapi

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	userapi "github.com/matrix-org/dendrite/userapi/api"
)

// tokenUsers is a user API in which each token is the name of its user, until it is gone.
type tokenUsers struct {
	userapi.UserInternalAPI
	asked atomic.Int64
	slow  time.Duration // delay between lookup and answer
	gone  sync.Map
}

func (u *tokenUsers) QueryAccessToken(_ context.Context, req *userapi.QueryAccessTokenRequest, res *userapi.QueryAccessTokenResponse) error {
	u.asked.Add(1)
	if _, gone := u.gone.Load(req.AccessToken); !gone {
		res.Device = &userapi.Device{UserID: "@" + req.AccessToken + ":x", AccessToken: req.AccessToken}
		if req.AppServiceUserID != "" {
			res.Device.AppserviceID = "bridge"
		}
	}
	time.Sleep(u.slow)
	return nil
}

func (u *tokenUsers) PerformDeviceDeletion(_ context.Context, req *userapi.PerformDeviceDeletionRequest, _ *userapi.PerformDeviceDeletionResponse) error {
	u.gone.Store(req.UserID[1:len(req.UserID)-2], true)
	return nil
}

func (u *tokenUsers) PerformPasswordUpdate(_ context.Context, req *userapi.PerformPasswordUpdateRequest, _ *userapi.PerformPasswordUpdateResponse) error {
	u.gone.Store(req.Localpart, true)
	return nil
}

func (u *tokenUsers) PerformAccountDeactivation(_ context.Context, req *userapi.PerformAccountDeactivationRequest, _ *userapi.PerformAccountDeactivationResponse) error {
	u.gone.Store(req.Localpart, true)
	return nil
}

func (u *tokenUsers) PerformDeviceCreation(_ context.Context, req *userapi.PerformDeviceCreationRequest, _ *userapi.PerformDeviceCreationResponse) error {
	u.gone.Store(req.Localpart, true)
	return nil
}

// whose asks the cache whose token that is.
func whose(t *testing.T, s *Sessions, token, as string) string {
	t.Helper()
	var res userapi.QueryAccessTokenResponse
	if err := s.Remembered().QueryAccessToken(t.Context(), &userapi.QueryAccessTokenRequest{AccessToken: token, AppServiceUserID: as}, &res); err != nil {
		t.Fatal(err)
	}
	if res.Device == nil {
		return ""
	}
	if res.Device.AccessToken != token {
		t.Errorf("the device of %q has the token %q", token, res.Device.AccessToken)
	}
	return res.Device.UserID
}

// endings are the ways in which Dendrite ends alice's session.
func endings(ctx context.Context) map[string]func(*Sessions) error {
	device := "DEVICE"
	creation := func(server string) func(*Sessions) error {
		return func(s *Sessions) error {
			req := &userapi.PerformDeviceCreationRequest{Localpart: "alice", DeviceID: &device}
			if server != "" {
				req.ServerName = "x"
			}
			return s.PerformDeviceCreation(ctx, req, nil)
		}
	}
	return map[string]func(*Sessions) error{
		"deletion": func(s *Sessions) error {
			return s.PerformDeviceDeletion(ctx, &userapi.PerformDeviceDeletionRequest{UserID: "@alice:x"}, nil)
		},
		"password": func(s *Sessions) error {
			return s.PerformPasswordUpdate(ctx, &userapi.PerformPasswordUpdateRequest{Localpart: "alice", ServerName: "x"}, nil)
		},
		"deactivation": func(s *Sessions) error {
			return s.PerformAccountDeactivation(ctx, &userapi.PerformAccountDeactivationRequest{Localpart: "alice", ServerName: "x"}, nil)
		},
		"login":                  creation("x"),
		"login without a server": creation(""),
	}
}

func TestSessionsEnd(t *testing.T) {
	for name, end := range endings(t.Context()) {
		t.Run(name, func(t *testing.T) {
			users := new(tokenUsers)
			s := NewSessions(users)
			for range 3 {
				if got := whose(t, s, "alice", ""); got != "@alice:x" {
					t.Fatalf("the token is %q's", got)
				}
			}
			whose(t, s, "bob", "")
			if n := users.asked.Load(); n != 2 {
				t.Errorf("asked %d times for two tokens", n)
			}
			if err := end(s); err != nil {
				t.Fatal(err)
			}
			if got := whose(t, s, "alice", ""); got != "" {
				t.Errorf("after its end the token is %q's", got)
			}
			if got := whose(t, s, "bob", ""); got != "@bob:x" {
				t.Errorf("bob's token is %q's", got)
			}
		})
	}
}

// TestSessionsEndRace: an answer that is in flight when the session ends is not cached.
func TestSessionsEndRace(t *testing.T) {
	for name, end := range endings(t.Context()) {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := NewSessions(&tokenUsers{slow: 10 * time.Millisecond})
				for i := range 20 {
					go func() {
						time.Sleep(time.Duration(i) * time.Millisecond)
						whose(t, s, "alice", "")
					}()
				}
				time.Sleep(9500 * time.Microsecond)
				if err := end(s); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Second)
				if got := whose(t, s, "alice", ""); got != "" {
					t.Errorf("after its end the token is %q's", got)
				}
			})
		})
	}
}

func TestSessionsExpire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		users := new(tokenUsers)
		s := NewSessions(users)
		whose(t, s, "alice", "")
		time.Sleep(sessionLife - time.Millisecond)
		users.gone.Store("alice", true) // without a call of Sessions
		if got := whose(t, s, "alice", ""); got != "@alice:x" {
			t.Errorf("the token is %q's", got)
		}
		time.Sleep(time.Millisecond) // a lookup does not extend the lifetime
		if got := whose(t, s, "alice", ""); got != "" {
			t.Errorf("after %s the token is still %q's", sessionLife, got)
		}
		whose(t, s, "bob", "")
		time.Sleep(2 * sessionLife)
		whose(t, s, "carol", "")
		if n := len(s.known); n != 1 {
			t.Errorf("%d sessions are remembered", n)
		}
	})
}

func TestSessionsAreBounded(t *testing.T) {
	users := new(tokenUsers)
	s := NewSessions(users)
	for i := range mostSessions + 100 {
		whose(t, s, fmt.Sprint(i), "")
	}
	if n := len(s.known); n != mostSessions {
		t.Errorf("%d sessions are remembered, want %d", n, mostSessions)
	}
}

// TestSessionsRememberUsersOnly: unknown tokens and those of application services are never cached.
func TestSessionsRememberUsersOnly(t *testing.T) {
	users := new(tokenUsers)
	users.gone.Store("nobody", true)
	s := NewSessions(users)
	for range 3 {
		whose(t, s, "nobody", "")
		whose(t, s, "bridge", "@somebody:x")
	}
	if n := users.asked.Load(); n != 6 || len(s.known) != 0 {
		t.Errorf("asked %d times, remembered %d", n, len(s.known))
	}
}
