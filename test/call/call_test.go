// Package call makes calls as people do: Element Call in Chromium, a real LiveKit, and this server, which announces the SFU,
// issues the tokens and ends the memberships of those who are gone (docs/calls.md).
package call

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/tidwall/gjson"

	"github.com/matrix-org/dendrite/futures/test/browser"
	"github.com/matrix-org/dendrite/futures/test/rig"
)

func TestMain(m *testing.M) { rig.Main(m) }

const memberType = "org.matrix.msc3401.call.member"

// TestElementCall: whoever is in the call stays in it, and whoever is gone does not.
func TestElementCall(t *testing.T) {
	server, sfu := newServer(t)
	pages := site(t)
	alice, bob := server.Register(t, "alice"), server.Register(t, "bob")
	room := alice.CreateRoom(map[string]any{
		"preset": "public_chat", "power_level_content_override": map[string]any{"events": map[string]any{memberType: 0}},
	})
	bob.Join(room)
	a := enter(t, pages, alice, room)
	b := enter(t, pages, bob, room)
	a.sees(2)
	b.sees(2)
	if asked := a.state().Get("asked.0").Str; asked != "delay 3600000" {
		t.Errorf("Element Call has not seen that leaves can be delegated: %s", asked)
	}
	stays := func(d time.Duration) {
		t.Helper()
		for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
			if n := members(alice, room); n != 2 {
				t.Fatalf("%d are in the call", n)
			}
		}
		a.sees(2)
	}

	b.browser.Freeze(5 * time.Second)
	stays(5 * time.Second)
	b.sees(2)

	server.Kill()
	time.Sleep(3 * time.Second) // an outage
	server.Start()
	stays(5 * time.Second)
	b.sees(2)

	start := time.Now()
	b.browser.Kill()
	for members(alice, room) == 2 && time.Since(start) < time.Minute {
		time.Sleep(20 * time.Millisecond)
	}
	t.Logf("out of the room's state after %v", time.Since(start))
	a.sees(1)
	t.Logf("out of sight after %v", time.Since(start))

	b = enter(t, pages, bob, room)
	a.sees(2)
	sfu.Kill()
	b.browser.Kill()
	sfu.Start(server.URL + rig.LiveKitPath + "/sfu_webhook")
	start = time.Now()
	for members(alice, room) == 2 && time.Since(start) < 3*time.Minute {
		time.Sleep(20 * time.Millisecond)
	}
	t.Logf("after %v %d are in the call; alice sees %s", time.Since(start), members(alice, room), a.state())
	time.Sleep(time.Minute)
	t.Logf("after %v %d are in the call; alice sees %s", time.Since(start), members(alice, room), a.state())
}

// members returns how many are in the call, as the room's state says.
func members(u *rig.User, room string) (n int) {
	r := u.Do(http.MethodGet, rig.Path("rooms", room, "state"), nil, nil)
	for _, e := range r.JSON.Array() {
		if e.Get("type").Str == memberType && e.Get("content.application").Exists() {
			n++
		}
	}
	return n
}

// newServer starts a LiveKit and a homeserver.
func newServer(t *testing.T) (*rig.Server, *rig.LiveKit) {
	t.Helper()
	l := rig.NewLiveKit(t)
	l.Behind = true
	s := rig.New(t, rig.Config{LiveKit: []*rig.LiveKit{l}})
	l.Start(s.URL + rig.LiveKitPath + "/sfu_webhook")
	return s, l
}

// A participant is somebody with a browser of their own.
type participant struct {
	t *testing.T
	*rig.User
	room    string
	browser *browser.Browser
	tab     *browser.Tab
}

// enter opens a browser and joins the call.
func enter(t *testing.T, pages string, u *rig.User, room string) *participant {
	t.Helper()
	p := &participant{t: t, User: u, room: room}
	p.browser = browser.Start(t,
		chromedp.Flag("use-fake-ui-for-media-stream", true), chromedp.Flag("use-fake-device-for-media-stream", true),
		chromedp.Flag("allow-loopback-in-peer-connection", true), chromedp.Flag("autoplay-policy", "no-user-gesture-required"),
		chromedp.Flag("disable-features", "WebRtcHideLocalIpsWithMdns"))
	p.tab = p.browser.Tab(t)
	who, err := json.Marshal(map[string]any{"url": u.URL, "id": u.ID, "device": u.DeviceID, "token": u.Token, "room": room})
	if err != nil {
		t.Fatal(err)
	}
	p.tab.Do(chromedp.Navigate(pages + "/host.html"))
	p.tab.Await("window.enter !== undefined")
	p.tab.Do(chromedp.Evaluate[chromedp.Void]("enter(" + string(who) + ")"))
	return p
}

// state is what the page has noted.
func (p *participant) state() gjson.Result {
	p.t.Helper()
	return gjson.Parse(browser.Get(p.tab, chromedp.Evaluate[string]("JSON.stringify({...state, ...seen()})")))
}

// sees waits until the page shows so many participants, with their videos playing.
func (p *participant) sees(n int) {
	p.t.Helper()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(200 * time.Millisecond) {
		if s := p.state(); s.Get("people").Int() == int64(n) {
			return
		}
	}
	p.t.Fatalf("%s does not see %d participants: %s\nfaults: %q", p.ID, n, p.state(), p.tab.Faults())
}

// site serves the page that shows Element Call.
func site(t *testing.T) string {
	t.Helper()
	if out, err := func() ([]byte, error) {
		npm := exec.Command("npm", "ci", "--ignore-scripts")
		npm.Dir = "js"
		return npm.CombinedOutput()
	}(); err != nil {
		t.Fatalf("npm ci: %v\n%s", err, out)
	}
	s := httptest.NewServer(http.FileServer(http.Dir("js")))
	t.Cleanup(s.Close)
	return s.URL
}
