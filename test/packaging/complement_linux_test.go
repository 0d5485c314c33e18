package packaging

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/futures/test/rig"
)

// What Complement demands of an image, with the files that it lays into the container. Complement saves containers as images
// and starts these, without having stopped the server in order.
func TestComplement(t *testing.T) {
	for _, database := range []string{"sqlite", "postgres"} {
		t.Run(database, func(t *testing.T) {
			c := newSystem(t)
			c.follow(packDir+"/complement/Complement.Dockerfile", os.Getenv(programs))
			c.image.config.Env = append(c.image.config.Env, "SERVER_NAME=hs1", "DATABASE="+database)
			authorities := c.authority("/complement/ca")
			c.write("/complement/appservice/bridge.yaml", bridge)
			c.start()
			c.healthy()
			answers(t, "http://127.0.0.1:8008/_matrix/client/versions", "", nil)
			answers(t, "https://127.0.0.1:8448/_matrix/key/v2/server", "hs1", authorities)

			if !strings.Contains(c.read("/etc/ssl/certs/ca-certificates.crt"), strings.TrimSpace(c.read("/complement/ca/ca.crt"))) {
				t.Error("the server does not trust Complement's authority, so it cannot talk to other servers")
			}
			alice := rig.Client{URL: "http://127.0.0.1:8008", HTTP: http.DefaultClient}
			if r, err := alice.Register(t.Context(), "complement", "alice", "correct horse", false); err != nil || r.Status != http.StatusOK {
				t.Fatalf("%d %s %v", r.Status, r.Body, err)
			}
			schedulesFast(t, rig.LoginAt(t, alice.URL, "alice", "correct horse"))

			service := rig.Client{URL: alice.URL, HTTP: http.DefaultClient, Token: "as-secret"}
			who, err := service.Do(t.Context(), "GET", rig.Path("account", "whoami"), url.Values{"user_id": {"@bridge-bot:hs1"}}, nil)
			if err != nil || who.JSON.Get("user_id").String() != "@bridge-bot:hs1" {
				t.Errorf("the application service is nobody: %d %s %v", who.Status, who.Body, err)
			}

			key := c.read("/dendrite/matrix_key.pem")
			c.kill()
			c.start()
			c.healthy()
			rig.LoginAt(t, alice.URL, "alice", "correct horse")
			if c.read("/dendrite/matrix_key.pem") != key {
				t.Error("the second start has another signing key")
			}
			c.kill()
		})
	}
}

const bridge = `id: bridge
url: null
as_token: as-secret
hs_token: hs-secret
sender_localpart: bridge-bot
rate_limited: false
namespaces:
  users: [{exclusive: false, regex: .*}]
  rooms: []
  aliases: []
`

// schedulesFast schedules more than the default settings allow.
func schedulesFast(t *testing.T, user *rig.User) {
	t.Helper()
	room := user.CreateRoom(nil)
	for range 120 {
		user.SendFuture(room, "m.room.message", map[string]any{"body": "later"}, rig.Params{Timeout: time.Hour})
	}
}

// authority makes a certificate authority in a folder, as Complement does, and returns its certificate.
func (c *container) authority(folder string) *x509.CertPool {
	c.t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	c.must(err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{Organization: []string{"Complement's"}},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	c.must(err)
	certificate, err := x509.ParseCertificate(der)
	c.must(err)
	c.write(folder+"/ca.crt", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	c.write(folder+"/ca.key", string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})))
	pool := x509.NewCertPool()
	pool.AddCert(certificate)
	return pool
}

func (c *container) write(name, text string) {
	c.t.Helper()
	c.must(os.MkdirAll(filepath.Dir(path(c.image.root, name)), 0o755))
	c.must(os.WriteFile(path(c.image.root, name), []byte(text), 0o644))
}

func (c *container) read(name string) string {
	c.t.Helper()
	return string(readFile(c.t, path(c.image.root, name)))
}
