package rtc

import (
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	fconfig "github.com/matrix-org/dendrite/futures/setup/config"
)

// FuzzWebhook: whatever the body is, a signed webhook is answered 200 or 400, and an unsigned one 401.
func FuzzWebhook(f *testing.F) {
	f.Add(`{"event":"participant_left","room":{"name":"alias"},"participant":{"identity":"id","sid":"PA_1","disconnectReason":"SIGNAL_CLOSE"}}`, "")
	f.Add(`{"event":"participant_joined","room":{"name":"alias"}}`, "a.b.c")
	f.Add(`{"event":1}`, "Bearer")
	f.Add(`[`, "eyJhbGciOiJub25lIn0.e30.")
	s := &Service{metrics: newMetrics(nil), issued: newIssued(nil), sfus: []*sfu{newSFU(fconfig.LiveKit{APIKey: "K", APISecret: "S"})}}
	s.delegates = newDelegates(f.Context(), nil, s.metrics)
	f.Fuzz(func(t *testing.T, body, forged string) {
		sum := sha256.Sum256([]byte(body))
		token, err := jwt.NewWithClaims(jwt.SigningMethodHS256, webhookClaims{
			jwt.RegisteredClaims{Issuer: "K", ExpiresAt: jwt.NewNumericDate(time.Now().Add(time.Minute))},
			base64.StdEncoding.EncodeToString(sum[:]),
		}).SignedString([]byte("S"))
		if err != nil {
			t.Fatal(err)
		}
		for _, authorization := range []string{token, forged} {
			req := httptest.NewRequestWithContext(t.Context(), post, "/", strings.NewReader(body))
			req.Header["Authorization"] = []string{authorization}
			res := s.webhook(req)
			isSigned := authorization == token
			if isSigned && res.Code != http.StatusOK && res.Code != http.StatusBadRequest || !isSigned && res.Code != http.StatusUnauthorized {
				t.Errorf("signed %v: %d", isSigned, res.Code)
			}
		}
		req := httptest.NewRequestWithContext(t.Context(), get, "/", nil)
		req.Header["Authorization"] = []string{"Bearer " + forged}
		if _, _, ok := s.sfus[0].bearer(req); ok {
			t.Errorf("%q opens a signalling connection", forged)
		}
	})
}
