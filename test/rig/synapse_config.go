package rig

import (
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"

	"gopkg.in/yaml.v3"
)

// writeConfig writes homeserver.yaml, the signing key and the certificate.
func (s *Synapse) writeConfig(port, tlsPort int) {
	s.t.Helper()
	seed := make([]byte, 32)
	rand.Read(seed) //nolint:errcheck // it never fails
	key := fmt.Sprintf("ed25519 a_rig %s\n", base64.RawStdEncoding.EncodeToString(seed))
	if err := os.WriteFile(filepath.Join(s.Dir, "signing.key"), []byte(key), 0o600); err != nil {
		s.t.Fatal(err)
	}
	data, err := yaml.Marshal(s.settings(port, tlsPort))
	if err != nil {
		s.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(s.Dir, "homeserver.yaml"), data, 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// settings are Synapse's defaults with these exceptions: no other machine is contacted, loopback is allowed, there are
// no rate limits, and a server that was away is retried at once.
func (s *Synapse) settings(port, tlsPort int) map[string]any {
	cert, key := writeCertificate(s.t, s.Dir)
	listener := func(port int, tls bool) map[string]any {
		return map[string]any{
			"port": port, "tls": tls, "type": "http", "bind_addresses": []string{"127.0.0.1"},
			"resources": []any{map[string]any{"names": []string{"client", "federation"}}},
		}
	}
	settings := map[string]any{
		"server_name":          s.Name,
		"public_baseurl":       s.URL,
		"pid_file":             filepath.Join(s.Dir, "synapse.pid"),
		"media_store_path":     filepath.Join(s.Dir, "media"),
		"signing_key_path":     filepath.Join(s.Dir, "signing.key"),
		"listeners":            []any{listener(port, false), listener(tlsPort, true)},
		"tls_certificate_path": cert,
		"tls_private_key_path": key,
		"database": map[string]any{
			"name": "sqlite3", "args": map[string]any{"database": filepath.Join(s.Dir, "synapse.db")},
		},
		"registration_shared_secret": Secret,
		"macaroon_secret_key":        "of a test",
		"form_secret":                "of a test",
		"bcrypt_rounds":              4,
		"report_stats":               false,
		"presence":                   map[string]any{"enabled": false},
		"user_directory":             map[string]any{"enabled": false},
		"max_event_delay_duration":   "24h",
		"experimental_features":      map[string]any{"msc4140_max_delayed_events_per_user": 1000},

		"trusted_key_servers":            []any{},
		"suppress_key_server_warning":    true,
		"federation_verify_certificates": false,
		"ip_range_blacklist":             []any{},
		"federation_ip_range_blacklist":  []any{},
		"federation": map[string]any{ // milliseconds
			"max_short_retries": 1, "max_short_retry_delay": 100,
			// A failed transaction is retried each second for a minute.
			"max_long_retries": 60, "max_long_retry_delay": "1s",
			"destination_min_retry_interval": 1, "destination_retry_multiplier": 1,
			"destination_max_retry_interval": 1,
		},
		"federation_rr_transactions_per_room_per_second": 100_000,
		"rc_federation": map[string]any{"sleep_limit": 100_000, "reject_limit": 100_000, "concurrent": 100},
	}
	unlimited := map[string]any{"per_second": 100_000, "burst_count": 100_000}
	for _, name := range []string{
		"message", "registration", "registration_token_validity", "admin_redaction", "joins_per_room", "key_requests",
		"3pid_validation", "third_party_invite", "media_create", "delayed_event_mgmt", "room_creation", "user_directory",
	} {
		settings["rc_"+name] = unlimited
	}
	for name, parts := range map[string][]string{
		"login": {"address", "account", "failed_attempts"}, "joins": {"local", "remote"},
		"invites": {"per_room", "per_user", "per_issuer"}, "presence": {"per_user"},
	} {
		limits := map[string]any{}
		for _, part := range parts {
			limits[part] = unlimited
		}
		settings["rc_"+name] = limits
	}
	return settings
}
