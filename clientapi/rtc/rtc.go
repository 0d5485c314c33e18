// Package rtc serves MatrixRTC: it tells clients which SFUs carry the media of calls (MSC4143), and issues tokens for
// LiveKit SFUs (MSC4195), also by the older API of lk-jwt-service. It is a part of the north adapter. This file lists
// all routes; each of the others serves one of them or holds what they share.
package rtc

import (
	"context"
	"errors"
	"maps"
	"net/http"
	"time"

	"github.com/gorilla/mux"
	"github.com/matrix-org/dendrite/internal/httputil"
	rsapi "github.com/matrix-org/dendrite/roomserver/api"
	"github.com/matrix-org/dendrite/setup/config"
	userapi "github.com/matrix-org/dendrite/userapi/api"
	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/matrix-org/util"
	"github.com/prometheus/client_golang/prometheus"

	fconfig "github.com/matrix-org/dendrite/futures/setup/config"
)

const (
	unstableTransports = "/unstable/org.matrix.msc4143/rtc/transports"
	stableTransports   = "/v1/rtc/transports"
	unstableLiveKit    = "/unstable/io.element.msc4195/rtc/livekit"
	stableLiveKit      = "/v1/rtc/livekit"

	get, post, options = http.MethodGet, http.MethodPost, http.MethodOptions

	maxBody = 64 << 10 // of requests, and of what other servers answer
)

// Rooms is what the endpoints ask the roomserver.
type Rooms interface {
	QueryMembershipForUser(context.Context, *rsapi.QueryMembershipForUserRequest, *rsapi.QueryMembershipForUserResponse) error
	QueryServerJoinedToRoom(context.Context, *rsapi.QueryServerJoinedToRoomRequest, *rsapi.QueryServerJoinedToRoomResponse) error
	QueryServerBannedFromRoom(context.Context, *rsapi.QueryServerBannedFromRoomRequest, *rsapi.QueryServerBannedFromRoomResponse) error
}

// Users is what they ask the user API.
type Users interface {
	userapi.QueryAcccessTokenAPI
	QueryOpenIDToken(context.Context, *userapi.QueryOpenIDTokenRequest, *userapi.QueryOpenIDTokenResponse) error
}

// Limit takes a token from the key's bucket, or says how long there will be none.
type Limit func(key string) time.Duration

// Options are what the endpoints need of the rest of the server.
type Options struct {
	Dendrite *config.Dendrite
	Config   *fconfig.MatrixRTC
	Users    Users
	Rooms    Rooms
	Keys     gomatrixserverlib.JSONVerifier
	// Federation sends a request to another Matrix server, which the URL names in place of a host; nil if there is
	// no federation.
	Federation func(context.Context, *http.Request) (*http.Response, error)
	Rate       fconfig.RateLimit // of tokens, for one user
	NewLimit   func(fconfig.RateLimit) func(key string) time.Duration
	Source     func(*http.Request) string // names the client's address, for rate limits
	Registerer prometheus.Registerer      // takes the metrics; nil for none
}

// Service is what the endpoints share.
type Service struct {
	Options
	sfus      []*sfu
	issued    *issued
	delegates *delegates // nil without futures
	metrics   *metrics
	versions  *versions
	perUser   Limit
	perServer Limit
}

// New returns a service that has no routes yet.
func New(o Options) *Service {
	s := &Service{Options: o}
	if !o.Config.Issues() {
		return s
	}
	s.metrics = newMetrics(o.Registerer)
	for _, l := range o.Config.LiveKit {
		l := newSFU(l)
		l.observe(o.Registerer)
		s.sfus = append(s.sfus, l)
	}
	s.issued = newIssued(s.joined)
	s.versions = new(versions)
	s.perUser = o.NewLimit(o.Rate)
	s.perServer = o.NewLimit(fconfig.RateLimit{PerSecond: 5 * o.Rate.PerSecond, Burst: 2 * o.Rate.Burst}) // for its users
	return s
}

// Delegate has leaves delegated to these futures, beginning with those that were before the server stopped. It must be
// called before any request, and before futures are sent. What it starts ends with ctx.
func (s *Service) Delegate(ctx context.Context, futures Futures) {
	if s.Config.Issues() {
		s.delegates = newDelegates(ctx, futures, s.metrics)
		s.delegates.look, s.delegates.remove = s.look, s.remove
		s.delegates.resume()
	}
}

// look asks all SFUs of a call. With an error the answer may lack somebody.
func (s *Service) look(ctx context.Context, c callKey, identities ...string) (there present, err error) {
	there = make(present)
	for _, l := range s.sfus {
		if !c.on(l.URL) {
			continue
		}
		if len(identities) == 0 {
			found, e := l.participants(ctx, c.alias)
			maps.Copy(there, found)
			err = errors.Join(err, e)
		}
		for _, identity := range identities {
			err = errors.Join(err, l.participant(ctx, c.alias, identity, there))
		}
	}
	return there, err
}

// remove removes the participant from all SFUs of a call.
func (s *Service) remove(ctx context.Context, c callKey, identities ...string) (err error) {
	for _, l := range s.sfus {
		for _, identity := range identities {
			if c.on(l.URL) {
				err = errors.Join(err, l.remove(ctx, c.alias, identity))
			}
		}
	}
	return err
}

// AddRoutes must be called before Dendrite registers its own routes: the first that matches wins. What is not
// configured gets no route, so that the answer is 404 M_UNRECOGNIZED: clients then know that they have to look
// elsewhere.
func (s *Service) AddRoutes(routers httputil.Routers) {
	s.addWellKnown(routers.WellKnown)
	if list := s.Config.Announced(); len(list) > 0 {
		s.addTransports(routers.Client, list)
	}
	if s.Config.Issues() {
		s.addTokens(routers)
	}
}

// addTokens registers get_token of MSC4195, for clients and for other servers, and delegate_delayed_leave. Clients take any
// answer but 404 from the latter as the promise that somebody watches the SFU, whichever service their token comes from.
func (s *Service) addTokens(routers httputil.Routers) {
	token := s.authenticated("livekit_token", s.clientToken)
	leave := s.authenticated("livekit_delegate", s.delegateLeave)
	for _, prefix := range []string{stableLiveKit, unstableLiveKit} {
		routers.Client.Handle(prefix+"/get_token", token).Methods(post, options)
		if s.Config.Delegates() {
			routers.Client.Handle(prefix+"/delegate_delayed_leave", leave).Methods(post, options)
		}
	}
	if s.Federation == nil {
		return
	}
	remote := limitBody(httputil.MakeExternalAPI("livekit_federation_token", s.federationToken))
	for _, prefix := range []string{stableLiveKit, unstableLiveKit} {
		routers.Federation.Handle(prefix+"/get_token", remote).Methods(post)
	}
}

// authenticated wraps a handler for users with an access token, guests among them: people join calls by links.
func (s *Service) authenticated(name string, f func(*http.Request, *userapi.Device) util.JSONResponse) http.Handler {
	return limitBody(httputil.MakeAuthAPI(name, s.Users, f, httputil.WithAllowGuests()))
}

func (s *Service) addTransports(client *mux.Router, list []map[string]any) {
	// The array has had two names, and clients look for either.
	answer := util.JSONResponse{Code: http.StatusOK, JSON: map[string]any{"rtc_transports": list, "transports": list}}
	handler := s.authenticated("rtc_transports", func(*http.Request, *userapi.Device) util.JSONResponse { return answer })
	if s.Config.Public {
		handler = httputil.MakeExternalAPI("rtc_transports", func(*http.Request) util.JSONResponse { return answer })
	}
	for _, path := range []string{stableTransports, unstableTransports} {
		client.Handle(path, handler).Methods(get, options)
	}
}

func limitBody(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		req.Body = http.MaxBytesReader(w, req.Body, maxBody)
		next.ServeHTTP(w, req)
	})
}

// isLocal reports whether the server of that name is this one.
func (s *Service) isLocal(name spec.ServerName) bool {
	return s.Dendrite.Global.IsLocalServerName(name)
}
