package rtc

import (
	"bytes"
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

// TestWebhook: what is believed, and what follows from it.
func TestWebhook(t *testing.T) {
	const body = `{"event":"participant_joined","room":{"name":"alias"},"participant":{"identity":"id"},"new":1}`
	now := time.Now()
	for _, c := range []struct {
		name, body, sum, issuer, secret string
		expires                         time.Time
		method                          jwt.SigningMethod
		want                            int
		looks                           bool
	}{
		{name: "signed", want: 200, looks: true},
		{name: "13.5 of the second SFU", issuer: "K2", secret: "S2", want: 200, looks: true},
		{name: "13.5 another secret", secret: "x", want: 401},
		{name: "13.5 another key", issuer: "x", want: 401},
		{name: "13.5 the key of one, the secret of another", issuer: "K2", want: 401},
		{name: "13.5 another body", sum: body + " ", want: 401},
		{name: "13.5 expired", expires: now.Add(-2 * time.Minute), want: 401},
		{name: "within the leeway", expires: now.Add(-10 * time.Second), want: 200, looks: true},
		{name: "13.5 another algorithm", method: jwt.SigningMethodHS512, want: 401},
		{name: "other news", body: `{"event":"room_started","room":{"name":"alias"}}`, want: 200},
		{name: "of a room that nobody knows", body: `{"event":"participant_joined","room":{"name":"x"}}`, want: 200},
		{name: "no JSON", body: `{`, want: 400},
	} {
		t.Run(c.name, func(t *testing.T) {
			orElse := func(s *string, value string) {
				if *s == "" {
					*s = value
				}
			}
			orElse(&c.body, body)
			orElse(&c.sum, c.body)
			orElse(&c.issuer, "K1")
			orElse(&c.secret, "S1")
			if c.expires.IsZero() {
				c.expires = now.Add(time.Minute)
			}
			if c.method == nil {
				c.method = jwt.SigningMethodHS256
			}
			sum := sha256.Sum256([]byte(c.sum))
			token, err := jwt.NewWithClaims(c.method, webhookClaims{
				jwt.RegisteredClaims{Issuer: c.issuer, ExpiresAt: jwt.NewNumericDate(c.expires)}, base64.StdEncoding.EncodeToString(sum[:]),
			}).SignedString([]byte(c.secret))
			if err != nil {
				t.Fatal(err)
			}
			s := &Service{metrics: newMetrics(nil), issued: newIssued(nil), sfus: []*sfu{
				newSFU(fconfig.LiveKit{APIKey: "K1", APISecret: "S1"}), newSFU(fconfig.LiveKit{APIKey: "K2", APISecret: "S2"}),
			}}
			s.issued.add(seat{s.sfus[0], "alias", "id", "!room", "@user"})
			for range 2 { // a repeat does no harm
				req := httptest.NewRequestWithContext(t.Context(), post, "/", strings.NewReader(c.body))
				req.Header.Set("Authorization", token)
				if res := s.webhook(req); res.Code != c.want {
					t.Errorf("%+v, want %d", res, c.want)
				}
				select {
				case room := <-s.issued.hurry:
					if !c.looks || room != "!room" {
						t.Errorf("looks at %s", room)
					}
				default:
					if c.looks {
						t.Error("nobody looks at the room")
					}
				}
			}
		})
	}
}

// TestWebhookUnsigned: without a token, or with too large a body, nothing is believed.
func TestWebhookUnsigned(t *testing.T) {
	s := &Service{metrics: newMetrics(nil), sfus: []*sfu{newSFU(fconfig.LiveKit{APIKey: "K", APISecret: "S"})}}
	w := httptest.NewRecorder()
	limitBody(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) { respond(w, s.webhook(req)) })).
		ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), post, "/", bytes.NewReader(make([]byte, maxBody+1))))
	if w.Code != http.StatusBadRequest {
		t.Errorf("too large: %d", w.Code)
	}
	if res := s.webhook(httptest.NewRequestWithContext(t.Context(), post, "/", strings.NewReader("{}"))); res.Code != http.StatusUnauthorized {
		t.Errorf("unsigned: %d", res.Code)
	}
}
