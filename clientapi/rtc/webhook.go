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

// The events of webhooks that matter here.
const (
	participantJoined  = "participant_joined"
	participantLeft    = "participant_left"
	participantAborted = "participant_connection_aborted"
	roomFinished       = "room_finished"
)

// news is the body of a webhook.
type news struct {
	Event       string
	Room        struct{ Name string }
	Participant struct {
		Identity, SID    string
		DisconnectReason string
	}
}

// webhook serves the webhooks of SFUs. A participant that connects may have left the Matrix room meanwhile, because LiveKit
// accepts its token until the token expires; so the memberships of the room are checked. News of participants goes to
// their delegated leaves. Other events are only acknowledged.
func (s *Service) webhook(req *http.Request) util.JSONResponse {
	body, err := io.ReadAll(req.Body)
	if err != nil {
		s.metrics.webhooks.WithLabelValues("unreadable").Inc()
		return *failed(http.StatusBadRequest, spec.ErrorNotJSON, "The body could not be read, or is too large")
	}
	at := slices.IndexFunc(s.sfus, func(l *sfu) bool { return l.signed(req.Header.Get("Authorization"), body) })
	if at < 0 {
		s.metrics.webhooks.WithLabelValues("refused").Inc()
		return *failed(http.StatusUnauthorized, errorUnauthorized, "The webhook is not signed by an SFU of this server")
	}
	var n news
	if fail := read(body, &n); fail != nil {
		s.metrics.webhooks.WithLabelValues("unreadable").Inc()
		return *fail
	}
	s.metrics.webhooks.WithLabelValues("accepted").Inc()
	if n.Event == participantJoined {
		for _, roomID := range s.issued.roomsOf(n.Room.Name) {
			s.MembersChanged(roomID)
		}
	}
	switch n.Event {
	case participantJoined, participantLeft, participantAborted, roomFinished:
		// SFUs that share a key pair cannot be distinguished.
		for _, l := range s.sfus {
			if l.APIKey == s.sfus[at].APIKey && s.delegates != nil {
				s.delegates.webhook(l.URL, &n)
			}
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
