package rtc_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
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

// startLiveKit starts a real SFU on loopback and returns its address without a scheme.
func startLiveKit(t *testing.T, dir string) string {
	t.Helper()
	port, tcp, udp := freePort(t), freePort(t), freePort(t)
	config := fmt.Sprintf(`
port: %d
bind_addresses: [127.0.0.1]
rtc: {tcp_port: %d, udp_port: %d, use_external_ip: false, node_ip: 127.0.0.1}
room: {auto_create: false}
keys: {%s: %s}
logging: {level: warn}
`, port, tcp, udp, realKey, realSecret)
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

// TestRealLiveKit: a real SFU takes our tokens and our calls, and makes no room for anybody else.
func TestRealLiveKit(t *testing.T) {
	t.Parallel()
	dir := livekit(t)
	address := startLiveKit(t, dir)
	s := rig.New(t, rig.Config{Set: map[string]any{
		"global.well_known_client_name": baseURL,
		"future_server.matrix_rtc.livekit": []any{
			map[string]any{"url": "ws://" + address, "api_key": realKey, "api_secret": realSecret},
		},
	}})
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
