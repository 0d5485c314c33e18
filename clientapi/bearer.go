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

// bearerCalls is shared by the calls that use a token and those that use a delay_id. Knowing the token or ID is the
// only credential.
type bearerCalls struct {
	futures api.ActionAPI
	answers *answers
	valid   *limiter[api.Token]  // limits the calls for each valid token
	invalid *limiter[netip.Addr] // limits the calls with invalid tokens for each source address
	missed  *limiter[string]     // limits the calls with invalid tokens for each authenticated user
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

// headers are allocated once for all answers, because a heartbeat costs little else.
type headers struct{ contentType, allowOrigin, allowMethods, allowHeaders []string }

func (h *headers) addTo(answer http.Header) {
	answer["Content-Type"] = h.contentType
	answer["Access-Control-Allow-Origin"] = h.allowOrigin
	answer["Access-Control-Allow-Methods"] = h.allowMethods
	answer["Access-Control-Allow-Headers"] = h.allowHeaders
}

// call calls act if the rate limits allow it. Otherwise it returns how long the caller must wait: with a nil error if
// this token is used too often, with api.ErrGone if too many invalid tokens come from the same source. The source is
// the user if there is one, so that users behind one address do not block each other; else it is the address. ok is
// false if the text cannot be a token.
func (c *bearerCalls) call(req *http.Request, user string, token api.Token, ok bool, act func() error) (retry time.Duration, err error) {
	err = api.ErrGone
	if ok {
		if retry = c.valid.take(token); retry > 0 {
			return retry, nil
		}
		if err = act(); !errors.Is(err, api.ErrGone) {
			return 0, err
		}
		c.valid.giveBack(token) // otherwise made-up tokens would fill the table
	}
	if user != "" {
		return c.missed.take(user), err
	}
	return c.invalid.take(source(req, c.proxies)), err
}

// bearerFailure answers for a valid token whose action failed. It replaces the room's message, which may name a user or
// the room: the holder of a token must not learn these (4.10).
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
