package rtc

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"time"

	userapi "github.com/matrix-org/dendrite/userapi/api"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/matrix-org/util"
	"github.com/sirupsen/logrus"
)

// openIDToken proves to anybody whose account it is, as the homeserver of that name will confirm.
type openIDToken struct {
	AccessToken string          `json:"access_token"`
	Server      spec.ServerName `json:"matrix_server_name"`
}

// errNotProved is what is wrong with a token that is invalid, expired, or of a server that does not confirm it.
var errNotProved = errors.New("the OpenID token is not valid")

// userOf returns whose token it is. Anybody may name a server here, so only those that are in the room are asked.
func (s *Service) userOf(ctx context.Context, token *openIDToken, roomID string) (string, error) {
	if s.isLocal(token.Server) {
		var res userapi.QueryOpenIDTokenResponse
		err := s.Users.QueryOpenIDToken(ctx, &userapi.QueryOpenIDTokenRequest{Token: token.AccessToken}, &res)
		if err != nil || res.Sub == "" || time.Now().UnixMilli() > res.ExpiresAtMS {
			return "", errNotProved // unknown tokens are an error there
		}
		return res.Sub, nil
	}
	if s.Federation == nil {
		return "", errNotProved
	}
	if _, _, ok := spec.ParseAndValidateServerName(token.Server); !ok {
		return "", errNotProved
	}
	if in, err := s.serverJoined(ctx, roomID, token.Server); err != nil {
		return "", err
	} else if !in {
		return "", errNotProved
	}
	return s.remoteUser(ctx, token)
}

// remoteUser asks the token's server. It may speak for its own users only.
func (s *Service) remoteUser(ctx context.Context, token *openIDToken) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, remoteTimeout)
	defer cancel()
	at := url.URL{
		Scheme:   "matrix",
		Host:     string(token.Server),
		Path:     "/_matrix/federation/v1/openid/userinfo",
		RawQuery: url.Values{"access_token": {token.AccessToken}}.Encode(),
	}
	// The client logs URLs of requests at some levels, and this one holds a token.
	quiet := util.ContextWithLogger(ctx, logrus.NewEntry(&logrus.Logger{Out: io.Discard}))
	req, err := http.NewRequestWithContext(quiet, get, at.String(), nil)
	if err != nil {
		return "", errNotProved
	}
	var answer struct {
		Sub string `json:"sub"`
	}
	if err := s.exchange(quiet, req, &answer); err != nil {
		util.GetLogger(ctx).WithError(err).WithField("server", token.Server).Info("Another server does not confirm an OpenID token")
		return "", errNotProved
	}
	if _, server, err := parseUser(answer.Sub); err != nil || server != token.Server {
		return "", errNotProved
	}
	return answer.Sub, nil
}
