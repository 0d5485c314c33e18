package rtc

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/matrix-org/util"
)

const webhookLeeway = time.Minute // between the SFU's clock and ours

// webhookClaims are those of the token with which LiveKit signs a webhook.
type webhookClaims struct {
	jwt.RegisteredClaims
	Sha256 string `json:"sha256"` // of the body
}

// webhook serves what an SFU tells: somebody has connected. LiveKit lets everybody in who has a token, also those who
// have left the Matrix room meanwhile, so the memberships there are looked at. All other news is acknowledged alone.
func (s *Service) webhook(req *http.Request) util.JSONResponse {
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return *failed(http.StatusBadRequest, spec.ErrorNotJSON, "The body could not be read, or is too large")
	}
	if !slices.ContainsFunc(s.sfus, func(l *sfu) bool { return l.signed(req.Header.Get("Authorization"), body) }) {
		return *failed(http.StatusUnauthorized, errorUnauthorized, "The webhook is not signed by an SFU of this server")
	}
	var news struct {
		Event string
		Room  struct{ Name string }
	}
	if fail := read(body, &news); fail != nil {
		return *fail
	}
	if news.Event == "participant_joined" {
		for _, roomID := range s.issued.roomsOf(news.Room.Name) {
			s.MembersChanged(roomID)
		}
	}
	return util.JSONResponse{Code: http.StatusOK, JSON: json.RawMessage("{}")}
}

// signed reports whether the SFU has made the token for that body, and not long ago.
func (l *sfu) signed(token string, body []byte) bool {
	var c webhookClaims
	_, err := jwt.ParseWithClaims(token, &c, func(*jwt.Token) (any, error) { return []byte(l.APISecret), nil },
		jwt.WithValidMethods([]string{"HS256"}), jwt.WithIssuer(l.APIKey), jwt.WithExpirationRequired(), jwt.WithLeeway(webhookLeeway))
	if err != nil {
		return false
	}
	sum := sha256.Sum256(body)
	return subtle.ConstantTimeCompare([]byte(c.Sha256), []byte(base64.StdEncoding.EncodeToString(sum[:]))) == 1
}

// roomsOf returns the Matrix rooms, one at the most unless a hash collides, that have the alias on an SFU.
func (i *issued) roomsOf(alias string) (found []string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	for roomID, seats := range i.rooms {
		for s := range seats {
			if s.alias == alias {
				found = append(found, roomID)
				break
			}
		}
	}
	return found
}
