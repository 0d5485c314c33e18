package rtc_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"github.com/matrix-org/dendrite/futures/test/rig"
)

const (
	realKey    = "realkey"
	realSecret = "a secret that is long enough for LiveKit"
)

// livekit returns the folder with LiveKit's programs (test/livekit/livekit.sh), or skips the test.
func livekit(t *testing.T) string {
	t.Helper()
	dir := os.Getenv("FUTURES_LIVEKIT")
	switch {
	case dir != "":
	case os.Getenv("FUTURES_TEST_LIVEKIT") == "required":
		t.Fatal("LiveKit is required, but FUTURES_LIVEKIT is not set; test/livekit/livekit.sh prints what to set it to")
	default:
		t.Skip("there is no LiveKit: FUTURES_LIVEKIT is not set (docs/testing.md)")
	}
	return dir
}

// startLiveKit starts a real SFU on loopback, which sends its webhooks to the URL, and returns its address without a scheme.
func startLiveKit(t *testing.T, dir, webhooks string) string {
	t.Helper()
	port, tcp, udp := freePort(t), freePort(t), freePort(t)
	config := fmt.Sprintf(`
port: %d
bind_addresses: [127.0.0.1]
rtc: {tcp_port: %d, udp_port: %d, use_external_ip: false, node_ip: 127.0.0.1}
room: {auto_create: false}
keys: {%[4]s: %[5]s}
webhook: {api_key: %[4]s, urls: ["%[6]s"]}
logging: {level: warn}
`, port, tcp, udp, realKey, realSecret, webhooks)
	path := filepath.Join(t.TempDir(), "livekit.yaml")
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	cmd := exec.Command(filepath.Join(dir, "livekit-server"), "--config", path)
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill() //nolint:errcheck // it may be gone already
		cmd.Wait()         //nolint:errcheck // killed
		if t.Failed() {
			t.Logf("log of LiveKit:\n%s", log.String())
		}
	})
	address := fmt.Sprintf("127.0.0.1:%d", port)
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		if res, err := http.Get("http://" + address); err == nil {
			res.Body.Close()
			return address
		}
		if time.Now().After(deadline) {
			t.Fatal("LiveKit did not come up in a minute")
		}
	}
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// TestRealLiveKit: a real SFU accepts our tokens and our calls, and creates no room for anybody else.
func TestRealLiveKit(t *testing.T) {
	t.Parallel()
	dir := livekit(t)
	news := new(messenger)
	hooks := httptest.NewServer(news)
	t.Cleanup(hooks.Close)
	address := startLiveKit(t, dir, hooks.URL)
	s := rig.New(t, rig.Config{Set: map[string]any{
		"global.well_known_client_name": baseURL,
		"future_server.matrix_rtc.livekit": []any{
			map[string]any{"url": "ws://" + address, "api_key": realKey, "api_secret": realSecret},
		},
	}})
	news.passTo(s.URL + legacyPath + "/sfu_webhook")
	alice, bob := s.Register(t, "alice"), s.Register(t, "bob")
	room := alice.CreateRoom(nil)
	bob.Join(room)
	asks := object{"url": "ws://" + address, "room_id": room, "slot_id": slot, "member_id": "m1"}
	token := wants(t, bob.Do(http.MethodPost, getToken, nil, asks), 200, "").JSON.Get("jwt").String()
	out, err := exec.Command(filepath.Join(dir, "livekit"), "verify", realSecret, token).CombinedOutput()
	if read := gjson.ParseBytes(out); err != nil || read.Get("key").Str != realKey || read.Get("identity").Str != hash(bob.ID, "m1") ||
		read.Get("video.room").Str != hash(room, slot) || !read.Get("video.roomJoin").Bool() || read.Get("video.roomCreate").Bool() ||
		!read.Get("video.canPublish").Bool() || !read.Get("video.canSubscribe").Bool() || read.Get("video.canUpdateOwnMetadata").Bool() {
		t.Errorf("LiveKit reads %s %v", out, err)
	}
	if out, err := exec.Command(filepath.Join(dir, "livekit"), "verify", "another secret", token).CombinedOutput(); err == nil {
		t.Errorf("LiveKit takes a token of another key: %s", out)
	}

	participant := exec.Command(filepath.Join(dir, "livekit"), "join", "ws://"+address, token)
	participant.Stderr = os.Stderr
	lines, err := participant.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := participant.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		participant.Process.Kill() //nolint:errcheck // it may be gone already
		participant.Wait()         //nolint:errcheck // killed
	})
	said := bufio.NewReader(lines)
	next(t, said, "joined "+hash(room, slot)+" "+hash(bob.ID, "m1"))
	bob.Leave(room)
	next(t, said, "left")
	news.wait(t, "room_started", http.StatusOK)
}

// A messenger forwards LiveKit's webhooks to the homeserver, and records the answers.
type messenger struct {
	mu      sync.Mutex
	to      string
	answers map[string]int // by event
}

func (m *messenger) passTo(url string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.to, m.answers = url, map[string]int{}
}

func (m *messenger) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, _ := io.ReadAll(req.Body)
	m.mu.Lock()
	to := m.to
	m.mu.Unlock()
	out, err := http.NewRequestWithContext(req.Context(), req.Method, to, bytes.NewReader(body))
	if err != nil {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	out.Header = req.Header.Clone()
	res, err := http.DefaultClient.Do(out)
	if err != nil {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	res.Body.Close()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.answers[gjson.GetBytes(body, "event").Str] = res.StatusCode
}

// wait waits until the event has been answered.
func (m *messenger) wait(t *testing.T, event string, status int) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		m.mu.Lock()
		got := m.answers[event]
		m.mu.Unlock()
		if got == status {
			return
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	t.Fatalf("no %s was answered %d in a minute, but %v", event, status, m.answers)
}

// next reads a line of the participant.
func next(t *testing.T, from *bufio.Reader, want string) {
	t.Helper()
	lines := make(chan string, 1)
	go func() {
		line, err := from.ReadString('\n')
		if err != nil && err != io.EOF {
			line = err.Error()
		}
		lines <- strings.TrimSpace(line)
	}()
	select {
	case got := <-lines:
		if got != want {
			t.Fatalf("the participant says %q, want %q", got, want)
		}
	case <-time.After(time.Minute):
		t.Fatalf("the participant does not say %q in a minute", want)
	}
}
