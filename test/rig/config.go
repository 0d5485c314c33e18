package rig

import (
	"cmp"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"database/sql"
	"encoding/pem"
	"fmt"
	"maps"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	_ "github.com/lib/pq" // the PostgreSQL driver
	"gopkg.in/yaml.v3"

	"github.com/matrix-org/dendrite/futures/setup"
)

const (
	// Secret is the registration shared secret of every server of the kit.
	Secret = "the shared secret of a test"

	// Password is that of every user.
	Password = "a long password"
)

// writeConfig lets the quick start write its dendrite.yaml, and changes it for the test. It returns the file's path.
func (s *Server) writeConfig(cfg Config) string {
	s.t.Helper()
	path, _, err := setup.QuickStart(s.Dir)
	if err != nil {
		s.t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		s.t.Fatal(err)
	}
	root := map[string]any{}
	if err := yaml.Unmarshal(data, &root); err != nil {
		s.t.Fatal(err)
	}
	for key, value := range s.settings(cfg) {
		set(root, strings.Split(key, "."), value)
	}
	switch {
	case cfg.Database != "":
		usePostgres(root, cfg.Database)
	case cfg.Postgres:
		usePostgres(root, createDatabase(s.t))
	}
	if data, err = yaml.Marshal(root); err != nil {
		s.t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		s.t.Fatal(err)
	}
	return path
}

// settings returns the settings for every test, overridden by those of this test: no rate limits, cheap passwords, no
// key servers.
func (s *Server) settings(cfg Config) map[string]any {
	unlimited := map[string]any{"per_second": 0}
	settings := map[string]any{
		"global.server_name":                      s.Name,
		"client_api.registration_shared_secret":   Secret,
		"client_api.rate_limiting.enabled":        false,
		"user_api.bcrypt_cost":                    4,
		"federation_api.disable_tls_validation":   cfg.Federation,
		"federation_api.key_perspectives":         []any{},
		"federation_api.allow_networks":           []any{"127.0.0.0/8", "::1/128"},
		"future_server.rate_limits.create":        unlimited,
		"future_server.rate_limits.token":         unlimited,
		"future_server.rate_limits.invalid_token": unlimited,
		"future_server.rate_limits.call_token":    unlimited,
		"future_server.max_futures_per_user":      100_000,
	}
	if len(cfg.LiveKit) > 0 {
		var sfus []any
		for _, l := range cfg.LiveKit {
			sfus = append(sfus, l.Settings())
		}
		settings["global.well_known_client_name"] = s.URL
		settings["future_server.matrix_rtc.livekit"] = sfus
	}
	maps.Copy(settings, cfg.Set)
	return settings
}

func set(m map[string]any, path []string, value any) {
	if len(path) == 1 {
		m[path[0]] = value
		return
	}
	child, ok := m[path[0]].(map[string]any)
	if !ok {
		child = map[string]any{}
		m[path[0]] = child
	}
	set(child, path[1:], value)
}

// usePostgres moves all components to one database: it removes their own connection strings and sets the global one.
func usePostgres(root map[string]any, connection string) {
	for _, section := range root {
		drop(section)
	}
	set(root, []string{"global", "database", "connection_string"}, connection)
}

func drop(node any) {
	m, ok := node.(map[string]any)
	if !ok {
		return
	}
	delete(m, "connection_string")
	for _, child := range m {
		drop(child)
	}
}

// HasPostgres reports whether there is a PostgreSQL server for tests. It is named by the environment variables that
// Dendrite's own tests use: POSTGRES_HOST, POSTGRES_USER, POSTGRES_PASSWORD, POSTGRES_DB, PGPORT.
func HasPostgres() bool { return os.Getenv("POSTGRES_HOST") != "" }

// createDatabase creates an empty database, which is removed when the test ends, and returns its connection string.
func createDatabase(t testing.TB) string {
	t.Helper()
	if !HasPostgres() {
		t.Skip("there is no PostgreSQL: POSTGRES_HOST is not set")
	}
	name := fmt.Sprintf("rig_%d_%d", os.Getpid(), time.Now().UnixNano())
	admin, err := sql.Open("postgres", connection(cmp.Or(os.Getenv("POSTGRES_DB"), "postgres")))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := admin.Exec("CREATE DATABASE " + name); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := admin.Exec("DROP DATABASE " + name + " WITH (FORCE)"); err != nil {
			t.Error(err)
		}
		admin.Close()
	})
	return connection(name)
}

func connection(database string) string {
	s := fmt.Sprintf("host=%s user=%s dbname=%s sslmode=disable",
		os.Getenv("POSTGRES_HOST"), cmp.Or(os.Getenv("POSTGRES_USER"), "postgres"), database)
	for key, variable := range map[string]string{"password": "POSTGRES_PASSWORD", "port": "PGPORT"} {
		if value := os.Getenv(variable); value != "" {
			s += fmt.Sprintf(" %s=%s", key, value)
		}
	}
	return s
}

// writeCertificate creates a certificate for this machine and returns the paths of certificate and key.
func writeCertificate(t testing.TB, dir string) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: "localhost"},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(24 * time.Hour),
		DNSNames:     []string{"localhost"},
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	write := func(name, kind string, der []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	return write("tls.crt", "CERTIFICATE", der), write("tls.key", "PRIVATE KEY", keyDER)
}
