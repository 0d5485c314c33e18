package clientapi

import (
	"errors"
	"net/http"
	"net/netip"
	"time"

	"github.com/matrix-org/util"
	"github.com/sirupsen/logrus"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
	fconfig "github.com/matrix-org/dendrite/futures/setup/config"
)

// bearerCalls is what calls by token and by delay_id have in common: knowing it is the credential.
type bearerCalls struct {
	futures api.ActionAPI
	answers *answers
	valid   *limiter[api.Token]  // calls with a valid one, for each
	invalid *limiter[netip.Addr] // calls with others, for each source address
	missed  *limiter[string]     // likewise, for each user who has logged in
	proxies []netip.Prefix
	headers // of every answer
}

func newBearerCalls(futures api.ActionAPI, cfg *fconfig.FutureServer) *bearerCalls {
	return &bearerCalls{
		futures: futures,
		answers: newAnswers(),
		valid:   newLimiter[api.Token](cfg.RateLimits.Token),
		invalid: newLimiter[netip.Addr](cfg.RateLimits.InvalidToken),
		missed:  newLimiter[string](cfg.RateLimits.Token),
		proxies: cfg.TrustedProxies,
		headers: headers{
			contentType:  []string{"application/json"},
			allowOrigin:  []string{"*"},
			allowMethods: []string{"GET, POST, PUT, DELETE, OPTIONS"},
			allowHeaders: []string{"Origin, X-Requested-With, Content-Type, Accept, Authorization"},
		},
	}
}

// headers are made once for all answers, because a heartbeat costs little else.
type headers struct{ contentType, allowOrigin, allowMethods, allowHeaders []string }

func (h *headers) addTo(answer http.Header) {
	answer["Content-Type"] = h.contentType
	answer["Access-Control-Allow-Origin"] = h.allowOrigin
	answer["Access-Control-Allow-Methods"] = h.allowMethods
	answer["Access-Control-Allow-Headers"] = h.allowHeaders
}

// call acts if the limits let it, or returns how long they do not: with a nil error because of the token itself,
// with api.ErrGone because too many unknown ones come from its source: the user, if there is one, so that people
// behind one address are not in each other's way, else the address. ok is false for what cannot be a token.
func (c *bearerCalls) call(req *http.Request, user string, token api.Token, ok bool, act func() error) (retry time.Duration, err error) {
	err = api.ErrGone
	if ok {
		if retry = c.valid.take(token); retry > 0 {
			return retry, nil
		}
		if err = act(); !errors.Is(err, api.ErrGone) {
			return 0, err
		}
		c.valid.giveBack(token) // made-up tokens would fill the table
	}
	if user != "" {
		return c.missed.take(user), err
	}
	return c.invalid.take(source(req, c.proxies)), err
}

// bearerFailure answers for a valid token whose action failed. The room's own words may name a user or the
// room, which the holder of a token is not to learn (4.10).
func bearerFailure(req *http.Request, err error) util.JSONResponse {
	if refusal, ok := errors.AsType[*api.Refusal](err); ok {
		err = &api.Refusal{Kind: refusal.Kind, Message: "The room does not accept the event now"}
	}
	res := respond(err)
	if res.Code == http.StatusInternalServerError && req.Context().Err() == nil {
		logrus.WithError(err).Error("A token's action failed")
	}
	return res
}
