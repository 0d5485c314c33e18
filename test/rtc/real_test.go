package rtc_test

import (
	"bufio"
	"bytes"
	"io"
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

// TestRealLiveKit: a real SFU accepts our tokens and our calls, and creates no room for anybody else.
func TestRealLiveKit(t *testing.T) {
	t.Parallel()
	sfu := rig.NewLiveKit(t)
	s := rig.New(t, rig.Config{LiveKit: []*rig.LiveKit{sfu}})
	news := &messenger{to: s.URL + legacyPath + "/sfu_webhook", answers: map[string]int{}}
	hooks := httptest.NewServer(news)
	t.Cleanup(hooks.Close)
	sfu.Start(hooks.URL)
	dir := sfu.Tools
	alice, bob := s.Register(t, "alice"), s.Register(t, "bob")
	room := alice.CreateRoom(nil)
	bob.Join(room)
	asks := object{"url": sfu.URL, "room_id": room, "slot_id": slot, "member_id": "m1"}
	token := wants(t, bob.Do(http.MethodPost, getToken, nil, asks), 200, "").JSON.Get("jwt").String()
	out, err := exec.Command(filepath.Join(dir, "livekit"), "verify", sfu.Secret, token).CombinedOutput()
	if read := gjson.ParseBytes(out); err != nil || read.Get("key").Str != sfu.Key || read.Get("identity").Str != hash(bob.ID, "m1") ||
		read.Get("video.room").Str != hash(room, slot) || !read.Get("video.roomJoin").Bool() || read.Get("video.roomCreate").Bool() ||
		!read.Get("video.canPublish").Bool() || !read.Get("video.canSubscribe").Bool() || read.Get("video.canUpdateOwnMetadata").Bool() {
		t.Errorf("LiveKit reads %s %v", out, err)
	}
	if out, err := exec.Command(filepath.Join(dir, "livekit"), "verify", "another secret", token).CombinedOutput(); err == nil {
		t.Errorf("LiveKit takes a token of another key: %s", out)
	}

	participant := exec.Command(filepath.Join(dir, "livekit"), "join", sfu.URL, token)
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
