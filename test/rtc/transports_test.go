package rtc_test

import (
	"net/http"
	"testing"

	"github.com/matrix-org/dendrite/futures/test/rig"
)

const baseURL = "https://example.com"

var transportPaths = []string{transportsPath, stable + "transports"}

// TestTransports tests section 8 of the requirements of MSC4143.
func TestTransports(t *testing.T) {
	t.Run("8.1 nothing configured", testNothing)
	t.Run("8.2,8.5,8.6 an SFU of our own", testOwnSFU)
	t.Run("disable_federation", testWithoutFederation)
}

func flags(t *testing.T, s *rig.Server) string {
	return visitor(t, s, http.MethodGet, "/_matrix/client/versions", nil).JSON.Get("unstable_features").Raw
}

func testNothing(t *testing.T) {
	t.Parallel()
	s := rig.New(t, rig.Config{Set: map[string]any{
		"global.well_known_client_name": baseURL, "global.well_known_sliding_sync_proxy": "https://proxy.example.com",
	}})
	alice := s.Register(t, "alice")
	for _, path := range append(transportPaths, stable+"livekit/get_token", unstable+"io.element.msc4195/rtc/livekit/get_token",
		unstable+"io.element.msc4195/rtc/livekit/delegate_delayed_leave", "/_matrix/livekit/jwt/sfu/get") {
		for _, method := range []string{http.MethodGet, http.MethodPost} {
			wants(t, visitor(t, s, method, path, nil), 404, "M_UNRECOGNIZED")
			wants(t, alice.Do(method, path, nil, nil), 404, "M_UNRECOGNIZED")
		}
	}
	versions := visitor(t, s, http.MethodGet, "/_matrix/client/versions", nil).JSON
	if versions.Get(`unstable_features.org\.matrix\.msc4143`).Exists() {
		t.Errorf("the flag is there: %s", versions.Raw)
	}
	const stock = `{"m.homeserver":{"base_url":"https://example.com"},"org.matrix.msc3575.proxy":{"url":"https://proxy.example.com"}}`
	if r := visitor(t, s, http.MethodGet, wellKnown, nil); string(r.Body) != stock {
		t.Errorf("%s says %s", wellKnown, r.Body)
	}
}

func testOwnSFU(t *testing.T) {
	t.Parallel()
	s := rig.New(t, rig.Config{Set: map[string]any{
		"global.well_known_client_name":             baseURL,
		"global.well_known_sliding_sync_proxy":      "https://proxy.example.com",
		"client_api.registration_disabled":          false,
		"client_api.enable_registration_captcha":    true, // Dendrite requires one; guests do not see it
		"client_api.recaptcha_public_key":           "x",
		"client_api.recaptcha_private_key":          "x",
		"client_api.guests_disabled":                false,
		"future_server.matrix_rtc.transports":       []any{map[string]any{"type": "m.livekit", "url": sfuURL}},
		"future_server.matrix_rtc.livekit":          []any{map[string]any{"url": sfuURL, "api_key": "K", "api_secret": "a secret of the SFU"}},
		"future_server.matrix_rtc.well_known_extra": map[string]any{"org.example": map[string]any{"a": 1}},
	}})
	alice, guest := s.Register(t, "alice"), guest(t, s)
	const (
		both = `[{"type":"m.livekit","url":"wss://rtc.example.com"},{"livekit_service_url":"https://example.com/_matrix/livekit/jwt","type":"livekit"}]`
		want = `{"rtc_transports":` + both + `,"transports":` + both + `}`
	)
	for _, path := range transportPaths {
		if r := alice.Do(http.MethodGet, path, nil, nil); r.Status != 200 || string(r.Body) != want {
			t.Errorf("%s: %d %s", path, r.Status, r.Body)
		}
		if r, err := guest.Do(t.Context(), http.MethodGet, path, nil, nil); err != nil || r.Status != 200 {
			t.Errorf("a guest at %s: %d %s %v", path, r.Status, r.Body, err)
		}
		wants(t, visitor(t, s, http.MethodGet, path, nil), 401, "M_MISSING_TOKEN")
		stranger := s.Client()
		stranger.Token = "unknown"
		if r, err := stranger.Do(t.Context(), http.MethodGet, path, nil, nil); err != nil || r.ErrCode() != "M_UNKNOWN_TOKEN" {
			t.Errorf("an unknown token: %d %s %v", r.Status, r.Body, err)
		}
		t.Run("8.4 other methods", func(t *testing.T) {
			wants(t, alice.Do(http.MethodPost, path, nil, nil), 405, "M_UNRECOGNIZED")
			preflight(t, s, path)
		})
	}
	if !visitor(t, s, http.MethodGet, "/_matrix/client/versions", nil).JSON.Get(`unstable_features.org\.matrix\.msc4143`).Bool() {
		t.Errorf("the flag is missing: %s", flags(t, s))
	}
	testWellKnown(t, s)
}

// preflight sends the preflight of a browser.
func preflight(t *testing.T, s *rig.Server, path string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodOptions, s.URL+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Access-Control-Request-Method", "GET")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != 200 || res.Header.Get("Access-Control-Allow-Origin") != "*" {
		t.Errorf("OPTIONS %s: %d %v", path, res.StatusCode, res.Header)
	}
}

func testWellKnown(t *testing.T, s *rig.Server) {
	const want = `{"m.homeserver":{"base_url":"https://example.com"},` +
		`"org.example":{"a":1},` +
		`"org.matrix.msc3575.proxy":{"url":"https://proxy.example.com"},` +
		`"org.matrix.msc4143.rtc_foci":[{"livekit_service_url":"https://example.com/_matrix/livekit/jwt","type":"livekit"}]}`
	r := visitor(t, s, http.MethodGet, wellKnown, nil)
	if string(r.Body) != want || r.Header.Get("Access-Control-Allow-Origin") != "*" || r.Header.Get("Content-Type") != "application/json" {
		t.Errorf("%s says %s, %v", wellKnown, r.Body, r.Header)
	}
}

// testWithoutFederation: an external authorisation service must still be able to ask who a user is.
func testWithoutFederation(t *testing.T) {
	t.Parallel()
	s := rig.New(t, rig.Config{Set: map[string]any{
		"global.disable_federation":           true,
		"global.well_known_client_name":       baseURL,
		"future_server.matrix_rtc.transports": []any{map[string]any{"type": "livekit", "livekit_service_url": "https://rtc.example.com/jwt"}},
	}})
	alice := s.Register(t, "alice")
	if r := alice.Do(http.MethodGet, transportsPath, nil, nil); len(r.JSON.Get("rtc_transports").Array()) != 1 {
		t.Errorf("%d %s", r.Status, r.Body)
	}
	if r := visitor(t, s, http.MethodGet, wellKnown, nil); !r.JSON.Get(`org\.matrix\.msc4143\.rtc_foci.0`).Exists() {
		t.Errorf("%s says %s", wellKnown, r.Body)
	}
	token := openID(t, alice)["access_token"].(string)
	r := visitor(t, s, http.MethodGet, "/_matrix/federation/v1/openid/userinfo?access_token="+token, nil)
	if r.JSON.Get("sub").String() != alice.ID {
		t.Errorf("userinfo: %d %s", r.Status, r.Body)
	}
	wants(t, visitor(t, s, http.MethodGet, "/_matrix/federation/v1/version", nil), 404, "M_UNRECOGNIZED")
}
