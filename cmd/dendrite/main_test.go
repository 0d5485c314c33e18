package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha1"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/setup/config"

	"github.com/matrix-org/dendrite/futures/setup"
)

const asMain = "DENDRITE_TEST_MAIN"

// TestMain lets the test binary be the program, so that tests can stop it and see its exit code.
func TestMain(m *testing.M) {
	if os.Getenv(asMain) != "" {
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// A program is a running dendrite.
type program struct {
	t      *testing.T
	cmd    *exec.Cmd
	url    string
	output bytes.Buffer // standard error and output
	ended  chan error
}

func run(t *testing.T, args ...string) *program {
	t.Helper()
	p := &program{t: t, ended: make(chan error, 1)}
	p.cmd = exec.CommandContext(t.Context(), os.Args[0], args...)
	p.cmd.Dir = t.TempDir()
	p.cmd.Env = append(os.Environ(), asMain+"=1")
	p.cmd.Stdout, p.cmd.Stderr = &p.output, &p.output
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { p.ended <- p.cmd.Wait() }()
	return p
}

// serve runs a quick start and waits until it answers.
func serve(t *testing.T, dir string, args ...string) *program {
	t.Helper()
	cheapPasswords(t, dir)
	address := freeAddress(t)
	p := run(t, append(args, "-quickstart", dir, "-http-bind-address", address)...)
	p.url = "http://" + address
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		resp, err := http.Get(p.url + "/_matrix/client/versions")
		if err == nil {
			resp.Body.Close()
			return p
		}
		select {
		case err := <-p.ended:
			t.Fatalf("%v\n%s", err, &p.output)
		default:
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// cheapPasswords sets up the folder so that creating an account takes no second.
func cheapPasswords(t *testing.T, dir string) {
	t.Helper()
	path, created, err := setup.QuickStart(dir)
	if err != nil {
		t.Fatal(err)
	}
	if !created {
		return
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	text = bytes.Replace(text, []byte("user_api:\n"), []byte("user_api:\n  bcrypt_cost: 4\n"), 1)
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
}

// code waits for the end and returns the exit code.
func (p *program) code() int {
	p.t.Helper()
	select {
	case err := <-p.ended:
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) {
			p.t.Fatal(err)
		}
	case <-time.After(time.Minute):
		p.t.Fatal("the program does not end")
	}
	return p.cmd.ProcessState.ExitCode()
}

func (p *program) call(token, method, path string, body, result any) (int, error) {
	data, err := json.Marshal(body)
	if err != nil {
		return 0, err
	}
	req, err := http.NewRequest(method, p.url+path, bytes.NewReader(data))
	if err != nil {
		return 0, err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	if result == nil {
		_, err = io.Copy(io.Discard, resp.Body)
		return resp.StatusCode, err
	}
	return resp.StatusCode, json.NewDecoder(resp.Body).Decode(result)
}

func (p *program) mustCall(token, method, path string, body, result any) {
	p.t.Helper()
	if status, err := p.call(token, method, path, body, result); err != nil || status != http.StatusOK {
		p.t.Fatalf("%s %s: %d, %v\n%s", method, path, status, err, &p.output)
	}
}

// register creates an account, as create-account does, and returns its access token.
func (p *program) register(dir, name string) string {
	p.t.Helper()
	cfg, err := config.Load(filepath.Join(dir, "dendrite.yaml"))
	if err != nil {
		p.t.Fatal(err)
	}
	const path = "/_synapse/admin/v1/register"
	var nonce struct{ Nonce string }
	p.mustCall("", "GET", path, nil, &nonce)
	mac := hmac.New(sha1.New, []byte(cfg.ClientAPI.RegistrationSharedSecret))
	fmt.Fprintf(mac, "%s\x00%s\x00password\x00notadmin", nonce.Nonce, name)
	var account struct {
		AccessToken string `json:"access_token"`
	}
	p.mustCall("", "POST", path, map[string]any{
		"username": name, "password": "password", "nonce": nonce.Nonce, "mac": hex.EncodeToString(mac.Sum(nil)), "admin": false,
	}, &account)
	return account.AccessToken
}

// The signal arrives while events, futures and long polls are in flight.
func TestSIGTERMUnderLoad(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	for round := range 4 {
		p := serve(t, dir)
		var senders sync.WaitGroup
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		warm := make(chan struct{}, 100)
		tokens, rooms := make([]string, 6), make([]struct {
			ID string `json:"room_id"`
		}, 6)
		for i := range rooms {
			tokens[i] = p.register(dir, fmt.Sprintf("user%d-%d", round, i))
			p.mustCall(tokens[i], "POST", "/_matrix/client/v3/createRoom", map[string]any{}, &rooms[i])
		}
		for i, room := range rooms {
			token := tokens[i]
			senders.Go(func() {
				var sync struct {
					Next string `json:"next_batch"`
				}
				for ctx.Err() == nil {
					if _, err := p.call(token, "GET", "/_matrix/client/v3/sync?timeout=30000&since="+sync.Next, nil, &sync); err != nil {
						return
					}
				}
			})
			senders.Go(func() {
				for n := 0; ctx.Err() == nil; n++ {
					event := map[string]any{"msgtype": "m.text", "body": "load"}
					path := fmt.Sprintf("/_matrix/client/v3/rooms/%s/send/m.room.message/%d", room.ID, n)
					if n%5 == 4 {
						path = fmt.Sprintf("/_matrix/client/v3/rooms/%s/send_future/m.room.message/%d?future_timeout=%d", room.ID, n, n*10)
					}
					if _, err := p.call(token, "PUT", path, event, nil); err != nil {
						return // the server no longer accepts connections
					}
					select {
					case warm <- struct{}{}:
					default:
					}
				}
			})
		}
		for range 60 {
			<-warm
		}
		start := time.Now()
		if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		code := p.code()
		cancel()
		senders.Wait()
		if files, err := os.ReadDir(p.cmd.Dir); err != nil || len(files) > 0 {
			t.Errorf("the working directory is not left alone: %v, %v", files, err)
		}
		if took := time.Since(start); code != 0 || took > 15*time.Second || strings.Contains(p.output.String(), "panic") {
			t.Fatalf("round %d: exit code %d after %s\n%s", round, code, took, &p.output)
		}
	}
}

func TestSecondSignalEndsAtOnce(t *testing.T) {
	p := serve(t, t.TempDir())
	c, err := net.Dial("tcp", strings.TrimPrefix(p.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	// A request whose body does not arrive delays the first stop. Once the server has asked for the body, it waits for
	// it.
	fmt.Fprint(c, "POST /_matrix/client/v3/login HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n")
	if line, err := bufio.NewReader(c).ReadString('\n'); !strings.Contains(line, "100 Continue") {
		t.Fatalf("%q, %v", line, err)
	}
	for range 2 {
		if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		time.Sleep(200 * time.Millisecond) // two signals of one kind may become one
	}
	if code := p.code(); code != 1 {
		t.Errorf("exit code %d\n%s", code, &p.output)
	}
}

func TestVersionNamesBoth(t *testing.T) {
	p := run(t, "-version")
	if code, out := p.code(), p.output.String(); code != 0 || !strings.Contains(out, "futures 0.1.0") || !strings.Contains(out, "Dendrite 0.13.8, patched") {
		t.Errorf("%d: %s", code, out) // a commit behind Dendrite's version would be ours
	}
}

// A new server logs no warning.
func TestQuickStartIsQuiet(t *testing.T) {
	p := serve(t, t.TempDir())
	p.cmd.Process.Signal(syscall.SIGTERM)
	if code, out := p.code(), p.output.String(); code != 0 || strings.Contains(out, "level=") {
		t.Errorf("%d: %s", code, out)
	}
}

// What a container engine runs to learn whether the server can do its work.
func TestHealthcheck(t *testing.T) {
	p := serve(t, t.TempDir())
	address := strings.TrimPrefix(p.url, "http://")
	if check := run(t, "-healthcheck", "-http-bind-address", address); check.code() != 0 || check.output.Len() > 0 {
		t.Errorf("%d: %s", check.code(), &check.output)
	}
	p.cmd.Process.Signal(syscall.SIGTERM) //nolint:errcheck // the next line tells
	p.code()
	if check := run(t, "-healthcheck", "-http-bind-address", address); check.code() != 1 || !strings.Contains(check.output.String(), "refused") {
		t.Errorf("%d: %s", check.code(), &check.output)
	}
}

func TestHalfACertificateStopsTheStart(t *testing.T) {
	dir := t.TempDir()
	for flag, want := range map[string]string{"-tls-cert": "-tls-cert needs -tls-key", "-tls-key": "-tls-key needs -tls-cert"} {
		p := run(t, "-quickstart", dir, "-http-bind-address", "127.0.0.1:0", flag, "absent.pem")
		if code, out := p.code(), p.output.String(); code != 1 || !strings.Contains(out, want) {
			t.Errorf("%s: exit code %d\n%s", flag, code, out)
		}
	}
}

func writeCertificate(t *testing.T, certFile, keyFile, name string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{name}, NotAfter: time.Now().Add(time.Hour)}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	key, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	for path, block := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: cert}, keyFile: {Type: "PRIVATE KEY", Bytes: key}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// SIGHUP used to end the process. Now it reloads, and new connections get the new certificate.
func TestHangupReloads(t *testing.T) {
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	writeCertificate(t, cert, key, "one.test")
	https := freeAddress(t)
	p := serve(t, dir, "-tls-cert", cert, "-tls-key", key, "-https-bind-address", https)
	served := func(name string) bool {
		conn, err := tls.Dial("tcp", https, &tls.Config{InsecureSkipVerify: true})
		if err != nil {
			return false
		}
		defer conn.Close()
		return conn.ConnectionState().PeerCertificates[0].VerifyHostname(name) == nil
	}
	becomes := func(name string) {
		t.Helper()
		p.cmd.Process.Signal(syscall.SIGHUP)
		for deadline := time.Now().Add(time.Minute); !served(name); time.Sleep(20 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("the certificate is not that of %s", name)
			}
		}
	}
	becomes("one.test")
	writeCertificate(t, cert, key, "two.test")
	becomes("two.test")
	if err := os.WriteFile(cert, []byte("nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	becomes("two.test")
	p.mustCall("", "GET", "/_matrix/client/versions", nil, nil)
	p.cmd.Process.Signal(syscall.SIGTERM)
	if code, out := p.code(), p.output.String(); code != 0 || !strings.Contains(out, "Reloaded the certificate") {
		t.Errorf("exit code %d\n%s", code, out)
	}
}

func TestMistakesStopTheStart(t *testing.T) {
	dir := t.TempDir()
	p := serve(t, dir)
	p.cmd.Process.Signal(syscall.SIGTERM)
	p.code()
	path := filepath.Join(dir, "dendrite.yaml")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	text = bytes.Replace(text, []byte("max_timeout:"), []byte("max_timeot:"), 1)
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"-config", path}, {"-quickstart", dir}, {"-quickstart", dir, "-config", path}, {"-config", "absent.yaml"}} {
		p := run(t, args...)
		if code := p.code(); code != 1 {
			t.Errorf("%v: exit code %d\n%s", args, code, &p.output)
		}
		if out := p.output.String(); args[len(args)-1] == dir && !strings.Contains(out, "future_server.max_timeot") {
			t.Errorf("%v: %s", args, out)
		}
	}
}

// Scripts that start Dendrite also start this program.
func TestFlagsAreDendrites(t *testing.T) {
	p := run(t, "-help")
	p.code()
	for _, name := range []string{
		"config", "http-bind-address", "https-bind-address", "tls-cert", "tls-key", "unix-socket",
		"unix-socket-permission", "really-enable-open-registration", "version", "skip-db-sanity",
	} {
		if !strings.Contains(p.output.String(), "  -"+name) {
			t.Errorf("no flag -%s", name)
		}
	}
}
