package setup

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/mux"
	fedapi "github.com/matrix-org/dendrite/federationapi/api"
	userapi "github.com/matrix-org/dendrite/userapi/api"

	south "github.com/matrix-org/dendrite/futures/roomserver"
)

// oneUser knows one access token.
type oneUser struct{}

func (oneUser) QueryAccessToken(_ context.Context, req *userapi.QueryAccessTokenRequest, res *userapi.QueryAccessTokenResponse) error {
	if req.AccessToken == "alice" {
		res.Device = &userapi.Device{UserID: "@alice:localhost"}
	}
	return nil
}

// gatedRoom is a gated route of a room whose handler does what the test wants.
func gatedRoom(gates *south.Gates, next http.HandlerFunc) http.Handler {
	router := mux.NewRouter()
	router.Handle("/{roomID}", (&gating{gates: gates, users: oneUser{}}).handler(thisRoom, next))
	return router
}

func requestRoom(token string, body io.Reader) *http.Request {
	req := httptest.NewRequest(http.MethodPut, "/!room", body)
	req.Header.Set("Authorization", "Bearer "+token)
	return req
}

// TestGateOfRequests: a request waits for the one inside, gets its whole body, and leaves at its end.
func TestGateOfRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var gates south.Gates
		inside := gates.Enter(t.Context(), "!room", "")
		time.AfterFunc(time.Second, inside)
		start := time.Now()
		for _, c := range []struct {
			token  string
			length int
			after  time.Duration
		}{
			{"stranger", 10, 0},
			{"alice", mostBuffered + 1, 0},
			{"alice", mostBuffered, time.Second},
			{"alice", 10, time.Second},
		} {
			var at time.Duration
			body := strings.Repeat("x", c.length)
			gatedRoom(&gates, func(_ http.ResponseWriter, req *http.Request) {
				at = time.Since(start)
				if data, err := io.ReadAll(req.Body); string(data) != body || err != nil {
					t.Errorf("the body has %d bytes, not %d: %v", len(data), c.length, err)
				}
			}).ServeHTTP(httptest.NewRecorder(), requestRoom(c.token, strings.NewReader(body)))
			if at != c.after {
				t.Errorf("the request of %s with %d bytes came after %s, want %s", c.token, c.length, at, c.after)
			}
		}
	})
}

// TestGateOfSlowClients: a client that sends its body slowly blocks nobody.
func TestGateOfSlowClients(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var gates south.Gates
		r, w := io.Pipe()
		h := gatedRoom(&gates, func(http.ResponseWriter, *http.Request) {})
		done := make(chan struct{})
		go func() {
			h.ServeHTTP(httptest.NewRecorder(), requestRoom("alice", r))
			close(done)
		}()
		time.Sleep(time.Second)
		start := time.Now()
		h.ServeHTTP(httptest.NewRecorder(), requestRoom("alice", http.NoBody))
		if took := time.Since(start); took != 0 {
			t.Errorf("another request took %s", took)
		}
		w.CloseWithError(errors.New("gone"))
		<-done
	})
}

// slowServers answer after a minute.
type slowServers struct{ fedapi.RoomserverFederationAPI }

func (slowServers) PerformJoin(context.Context, *fedapi.PerformJoinRequest, *fedapi.PerformJoinResponse) {
	time.Sleep(time.Minute)
}

func (slowServers) PerformLeave(context.Context, *fedapi.PerformLeaveRequest, *fedapi.PerformLeaveResponse) error {
	time.Sleep(time.Minute)
	return nil
}

// TestGateOfRemoteJoins: a request that waits for another server blocks nobody.
func TestGateOfRemoteJoins(t *testing.T) {
	const user = "@alice:localhost"
	for name, ask := range map[string]func(fedapi.RoomserverFederationAPI){
		"join": func(f fedapi.RoomserverFederationAPI) {
			f.PerformJoin(context.Background(), &fedapi.PerformJoinRequest{RoomID: "!room", UserID: user}, nil)
		},
		"leave": func(f fedapi.RoomserverFederationAPI) {
			_ = f.PerformLeave(context.Background(), &fedapi.PerformLeaveRequest{RoomID: "!room", UserID: user}, nil)
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var gates south.Gates
				go gatedRoom(&gates, func(http.ResponseWriter, *http.Request) {
					ask(yieldingFederation{slowServers{}, &gates})
				}).ServeHTTP(httptest.NewRecorder(), requestRoom("alice", http.NoBody))
				synctest.Wait()
				start := time.Now()
				gates.Enter(t.Context(), "!room", "")()
				if took := time.Since(start); took != 0 {
					t.Errorf("another one waited for %s", took)
				}
				time.Sleep(2 * time.Minute) // until the other server has answered
			})
		})
	}
}
