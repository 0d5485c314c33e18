package rig

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// LiveKitPath is where a homeserver takes the webhooks of its SFUs.
const LiveKitPath = "/_matrix/livekit/jwt"

// LiveKit is a real LiveKit server, which keeps its port over restarts.
type LiveKit struct {
	URL         string // for clients
	Key, Secret string
	Tools       string // the folder of test/livekit/livekit.sh
	Behind      bool   // clients reach it through the homeserver

	t      testing.TB
	config string
	log    bytes.Buffer
	cmd    *exec.Cmd
}

// NewLiveKit prepares a LiveKit server that makes no rooms by itself. It skips the test where there is none, unless
// FUTURES_TEST_LIVEKIT says "required".
func NewLiveKit(t testing.TB) *LiveKit {
	t.Helper()
	l := &LiveKit{t: t, Tools: os.Getenv("FUTURES_LIVEKIT"), Key: "realkey", Secret: "a secret that is long enough for LiveKit"}
	switch {
	case l.Tools != "":
	case os.Getenv("FUTURES_TEST_LIVEKIT") == "required":
		t.Fatal("LiveKit is required, but FUTURES_LIVEKIT is not set; test/livekit/livekit.sh prints what to set it to")
	default:
		t.Skip("there is no LiveKit: FUTURES_LIVEKIT is not set (docs/testing.md)")
	}
	port := ReservePort(t)
	l.URL = fmt.Sprintf("ws://127.0.0.1:%d", port)
	l.config = fmt.Sprintf(`
port: %d
bind_addresses: [127.0.0.1]
rtc:
  tcp_port: %d
  udp_port: %d
  use_external_ip: false
  node_ip: 127.0.0.1
  enable_loopback_candidate: true
room: {auto_create: false}
keys: {%s: %s}
logging: {level: warn}
`, port, ReservePort(t), freeUDP(t), l.Key, l.Secret)
	t.Cleanup(func() {
		l.Kill()
		if t.Failed() {
			t.Logf("log of LiveKit:\n%s", l.log.String())
		}
	})
	return l
}

// freeUDP returns a port for media. ReservePort keeps the UDP ports of those that it gives.
func freeUDP(t testing.TB) int {
	t.Helper()
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	return c.LocalAddr().(*net.UDPAddr).Port
}

// Settings is the entry of future_server.matrix_rtc.livekit for this SFU.
func (l *LiveKit) Settings() map[string]any {
	settings := map[string]any{"url": l.URL, "api_key": l.Key, "api_secret": l.Secret}
	if l.Behind {
		delete(settings, "url")
		settings["api_url"] = "http" + l.URL[len("ws"):]
	}
	return settings
}

// Start starts it, and returns when it answers. It sends webhooks to that URL.
func (l *LiveKit) Start(webhooks string) {
	l.t.Helper()
	path := filepath.Join(l.t.TempDir(), "livekit.yaml")
	config := l.config + fmt.Sprintf("webhook: {api_key: %s, urls: [%q]}\n", l.Key, webhooks)
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		l.t.Fatal(err)
	}
	l.cmd = exec.Command(filepath.Join(l.Tools, "livekit-server"), "--config", path)
	l.cmd.Stdout, l.cmd.Stderr = &l.log, &l.log
	if err := l.cmd.Start(); err != nil {
		l.t.Fatal(err)
	}
	for deadline := time.Now().Add(startTime); ; time.Sleep(50 * time.Millisecond) {
		if res, err := http.Get("http" + l.URL[len("ws"):]); err == nil {
			res.Body.Close()
			return
		}
		if time.Now().After(deadline) {
			l.t.Fatalf("LiveKit did not come up in %v", startTime)
		}
	}
}

// Kill ends it at once, if it runs.
func (l *LiveKit) Kill() {
	if l.cmd == nil {
		return
	}
	l.cmd.Process.Kill() //nolint:errcheck // it may be gone already
	l.cmd.Wait()         //nolint:errcheck // killed
	l.cmd = nil
}
