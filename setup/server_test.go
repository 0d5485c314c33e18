package setup

import (
	"context"
	"crypto/tls"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/matrix-org/dendrite/setup/config"
	"github.com/matrix-org/dendrite/test"
	"github.com/sirupsen/logrus"

	fconfig "github.com/matrix-org/dendrite/futures/setup/config"
)

func options(t *testing.T, dir string) Options {
	t.Helper()
	_, cfg, futures := quickStart(t, dir)
	cfg.Global.JetStream.NoLog = true
	return Options{
		Dendrite: cfg, Futures: futures, Networks: fconfig.Networks{Deny: fconfig.PrivateNetworks()},
		HTTP: config.ServerAddress{Address: "127.0.0.1:0", Scheme: "http"},
	}
}

func start(t *testing.T, o Options) *Server {
	t.Helper()
	// Each server has a log hook for ending consumers, and would block those of a later server.
	logger := logrus.StandardLogger()
	hooks := logger.ReplaceHooks(make(logrus.LevelHooks))
	t.Cleanup(func() { logger.ReplaceHooks(hooks) })
	s, err := Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Stop(context.Background()) })
	return s
}

func TestServerStartsStopsAndStartsAgain(t *testing.T) {
	dir := t.TempDir()
	for range 2 {
		s := start(t, options(t, dir))
		if a := ask(t, "GET", "http://"+s.Addr().String()+"/_matrix/client/versions", ""); a.status != http.StatusOK {
			t.Errorf("%v", a)
		}
		if s.TLSAddr() != nil || s.Err() != nil {
			t.Error(s.TLSAddr(), s.Err())
		}
		if err := s.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
		<-s.Done()
		if s.Err() != nil {
			t.Error(s.Err())
		}
	}
	if mode := journalMode(t, filepath.Join(dir, "roomserver.db")); mode != "wal" {
		t.Errorf("sqlite_wal is on, but the mode is %s", mode)
	}
}

// Two servers on the same files: the second one reports an error and does not disturb the first.
func TestSecondServerIsRefused(t *testing.T) {
	dir := t.TempDir()
	first := start(t, options(t, dir))
	if _, err := Start(t.Context(), options(t, dir)); err == nil || !strings.Contains(err.Error(), "another server") {
		t.Errorf("got %v", err)
	}
	o := options(t, dir) // the same futures, everything else is its own
	o.Dendrite = options(t, t.TempDir()).Dendrite
	if s, err := Start(t.Context(), o); err == nil {
		s.Stop(t.Context())
		t.Error("two servers share the futures' database")
	} else if !strings.Contains(err.Error(), "futureserver") {
		t.Errorf("got %v", err)
	}
	if a := ask(t, "GET", "http://"+first.Addr().String()+"/_matrix/client/versions", ""); a.status != http.StatusOK {
		t.Errorf("%v", a)
	}
}

func TestFailedStartLeavesNothingBehind(t *testing.T) {
	dir := t.TempDir()
	broken := options(t, dir)
	broken.Futures.Database.ConnectionString = "file:/nowhere/futures.db"
	if _, err := Start(t.Context(), broken); err == nil {
		t.Fatal("no error")
	}
	start(t, options(t, dir))
}

func TestConfigurationIsVerified(t *testing.T) {
	o := options(t, t.TempDir())
	o.Dendrite.Global.ServerName = ""
	o.Dendrite.MediaAPI.BasePath = ""
	if _, err := Start(t.Context(), o); err == nil || !strings.Contains(err.Error(), "server_name") || !strings.Contains(err.Error(), "base_path") {
		t.Errorf("got %v", err)
	}
}

// If futures are switched off, their routes refuse requests, their file is not created, and JetStream keeps nothing for
// them.
func TestDisabledFutures(t *testing.T) {
	dir := t.TempDir()
	o := options(t, dir)
	o.Futures.Enabled = false
	s := start(t, o)
	url := "http://" + s.Addr().String() + "/_matrix/client/v3/futures/AAAAAAAAAAAAAAAAAAAAAA"
	if a := ask(t, "POST", url, ""); a.status != http.StatusGone {
		t.Errorf("%v", a)
	}
	for name := range s.components.js.ConsumerNames("DendriteOutputRoomEvent") {
		if strings.Contains(name, "Future") {
			t.Errorf("the consumer %s keeps messages", name)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "futureserver.db")); err == nil {
		t.Error("there is a database for nothing")
	}
	if err := s.Stop(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestListenerFailureEndsTheServer(t *testing.T) {
	s := start(t, options(t, t.TempDir()))
	s.front.http.Close()
	<-s.Done()
	if s.Err() == nil {
		t.Error("no reason given")
	}
}

func TestHTTPS(t *testing.T) {
	dir := t.TempDir()
	o := options(t, dir)
	o.HTTPS = config.ServerAddress{Address: "127.0.0.1:0", Scheme: "https"}
	o.CertFile, o.KeyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	if err := test.NewTLSKey(o.KeyFile, o.CertFile, 2048); err != nil {
		t.Fatal(err)
	}
	s := start(t, o)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: true}}
	defer client.CloseIdleConnections()
	resp, err := client.Get("https://" + s.TLSAddr().String() + "/_matrix/client/versions")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK || resp.ProtoMajor != 2 {
		t.Errorf("%s %s", resp.Proto, resp.Status)
	}
}
