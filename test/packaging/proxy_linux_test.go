package packaging

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gopkg.in/yaml.v3"
)

// secret stands in each request where a credential does.
const secret = "s3cret-credential"

// withSecrets are requests that hold a credential: on all paths that have tokens or delay IDs, and in queries.
var withSecrets = [...]string{
	"/_matrix/client/v3/futures/" + secret,
	"/_matrix/client/v3/future/" + secret + "?x=1",
	"/_matrix/client/unstable/org.matrix.msc4140/futures/" + secret + "/futures/x",
	"/_matrix/client/v1/delayed_events/" + secret,
	"/_matrix/client/v1/delayed_events/" + secret + "/restart",
	"/_matrix/client/unstable/org.matrix.msc4140/delayed_events/" + secret + "/send?access_token=" + secret,
	"/_matrix/client/v3/sync?timeout=0&access_token=" + secret,
	"/_matrix/client/v3/sync?access_token=" + secret + "&x=/_matrix/client/v3/futures/y",
	"/_matrix/media/v3/download/example.org/abc?access_token=" + secret,
}

// A backend is what a proxy passes requests on to. It keeps what arrives.
type backend struct {
	*httptest.Server
	arrived chan *http.Request
}

func newBackend(t *testing.T) *backend {
	t.Helper()
	b := &backend{arrived: make(chan *http.Request, 100)}
	l, err := net.Listen("tcp", "127.0.0.1:8008")
	if err != nil {
		t.Fatal(err)
	}
	b.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { b.arrived <- r }))
	b.Listener.Close()
	b.Listener = l
	b.Start()
	t.Cleanup(b.Close)
	return b
}

// proxied sends the requests to the proxy: once while the server behind it answers and once while it is gone, because
// proxies log that elsewhere.
func proxied(t *testing.T, b *backend, host string) {
	t.Helper()
	client := http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true, ServerName: host}, DisableKeepAlives: true,
	}}
	ask := func(target string) int {
		t.Helper()
		var status int
		eventually(t, func() error { // the proxy may still be starting
			r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://127.0.0.1"+target, http.NoBody)
			if err != nil {
				t.Fatal(err)
			}
			r.Host = host
			r.Header.Set("Authorization", "Bearer "+secret)
			r.Header.Set("Referer", "https://client.example/?loginToken="+secret)
			res, err := client.Do(r)
			if err != nil {
				return err
			}
			status = res.StatusCode
			return res.Body.Close()
		})
		return status
	}
	for _, target := range append([]string{"/_matrix/client/v3/rooms/%21a%2Fb:example.org/send/m.room.message/1"}, withSecrets[:]...) {
		if status := ask(target); status != http.StatusOK {
			t.Errorf("%s: %d", target, status)
			continue
		}
		r := <-b.arrived
		if r.RequestURI != target || r.Header.Get("X-Forwarded-For") != "127.0.0.1" || r.Header.Get("Authorization") == "" {
			t.Errorf("%s arrived as %s with %v", target, r.RequestURI, r.Header)
		}
	}
	b.Close()
	for _, target := range withSecrets {
		if status := ask(target); status != http.StatusBadGateway {
			t.Errorf("%s: %d although nobody answers", target, status)
		}
	}
}

// checkLog fails if there is a secret in what the proxy has written, or if it has not logged the requests at all.
func checkLog(t *testing.T, log string) {
	t.Helper()
	for _, line := range strings.Split(log, "\n") {
		if strings.Contains(line, secret) {
			t.Errorf("a credential is in the log: %s", line)
		}
	}
	for _, want := range []string{"/_matrix/client/v3/futures/***", "delayed_events/***", "/_matrix/client/v3/sync?***", "send/m.room.message/1"} {
		if !strings.Contains(log, want) {
			t.Errorf("no %s in the log:\n%s", want, log)
		}
	}
}

func TestNginx(t *testing.T) {
	need(t, "nginx")
	c := newSystem(t)
	c.certificate("/etc/letsencrypt/live/matrix.example.com/fullchain.pem", "/etc/letsencrypt/live/matrix.example.com/privkey.pem")
	c.install(packDir+"/proxy/nginx.conf", "/etc/nginx/conf.d/matrix.conf", 0o644)
	c.must(os.RemoveAll(path(c.image.root, "/etc/nginx/sites-enabled")))
	c.must(os.MkdirAll(path(c.image.root, "/var/log/nginx"), 0o755))
	c.exec("nginx", "-t")
	b := newBackend(t)
	c.image.config.Cmd = []string{"nginx", "-g", "daemon off;"}
	c.start()
	proxied(t, b, "matrix.example.com")
	c.stop()
	checkLog(t, c.read("/var/log/nginx/matrix.log")+c.read("/var/log/nginx/matrix-error.log")+c.log.String())
}

func TestCaddy(t *testing.T) {
	need(t, "caddy")
	c := newSystem(t)
	c.install(packDir+"/proxy/Caddyfile", "/etc/caddy/Caddyfile", 0o644)
	// For localhost Caddy makes a certificate of its own.
	c.image.config.Env = append(c.image.config.Env, "HOME=/tmp", "MATRIX_HOST=localhost", "RTC_HOST=127.0.0.1")
	c.exec("caddy", "validate", "--config", "/etc/caddy/Caddyfile", "--adapter", "caddyfile")
	b := newBackend(t)
	c.image.config.Cmd = []string{"caddy", "run", "--config", "/etc/caddy/Caddyfile", "--adapter", "caddyfile"}
	c.start()
	proxied(t, b, "localhost")
	c.stop()
	checkLog(t, c.log.String())
}

// Traefik is in no package of Debian's, so this looks at what its documentation says of the fields.
func TestTraefikLogsNoPaths(t *testing.T) {
	var static struct {
		AccessLog struct {
			Format string
			Fields struct {
				Names   map[string]string
				Headers struct {
					DefaultMode string `yaml:"defaultMode"`
				}
			}
		} `yaml:"accessLog"`
	}
	var routes struct {
		HTTP struct{ Routers, Services map[string]any }
	}
	for name, into := range map[string]any{"traefik.yaml": &static, "traefik-routes.yaml": &routes} {
		if err := yaml.Unmarshal(readFile(t, filepath.Join(packDir, "proxy", name)), into); err != nil {
			t.Fatal(err)
		}
	}
	log := static.AccessLog
	if log.Format != "json" || log.Fields.Names["RequestPath"] != "drop" || log.Fields.Names["RequestLine"] != "drop" || log.Fields.Headers.DefaultMode != "drop" {
		t.Errorf("%+v", log)
	}
	if len(routes.HTTP.Routers) != 2 || len(routes.HTTP.Services) != 2 {
		t.Errorf("%+v", routes)
	}
}

// certificate makes a certificate that is nobody's.
func (c *container) certificate(certFile, keyFile string) {
	c.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	c.must(err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	c.must(err)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	c.must(err)
	c.write(certFile, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	c.write(keyFile, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})))
}
