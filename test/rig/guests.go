package rig

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// BridgeToken is the access token of the application service of Guests and BridgeRegistration.
const BridgeToken = "the token of the bridge"

// Guests returns the settings of a server that lets guests in and has an application service.
func Guests(t testing.TB) map[string]any {
	return map[string]any{
		"app_service_api.config_files": []any{BridgeRegistration(t, "")},
		// Dendrite lets guests in only if registration is open, and requires a captcha for open registration.
		"client_api.registration_disabled":       false,
		"client_api.guests_disabled":             false,
		"client_api.enable_registration_captcha": true,
		"client_api.recaptcha_public_key":        "x",
		"client_api.recaptcha_private_key":       "x",
	}
}

// BridgeRegistration writes the registration of an application service for the users @bridged_…, which listens at url,
// or nowhere if url is empty. It returns the file's path.
func BridgeRegistration(t testing.TB, url string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "bridge.yaml")
	registration := fmt.Sprintf(`{id: bridge, url: %q, as_token: %q, hs_token: x, sender_localpart: bridge,
  namespaces: {users: [{exclusive: false, regex: "@bridged_.*"}], rooms: [], aliases: []}}`, url, BridgeToken)
	if err := os.WriteFile(path, []byte(registration), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
