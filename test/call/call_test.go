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

// TestElementCall: two people in a call.
func TestElementCall(t *testing.T) {
	s, sfu := newServer(t)
	pages := site(t)
	alice, bob := s.Register(t, "alice"), s.Register(t, "bob")
	room := alice.CreateRoom(map[string]any{
		"preset": "public_chat", "power_level_content_override": map[string]any{"events": map[string]any{memberType: 0}},
	})
	bob.Join(room)
	_ = sfu
	a := enter(t, pages, alice, room)
	b := enter(t, pages, bob, room)
	a.sees(2)
	b.sees(2)
	t.Logf("%s", a.state())
}

// newServer starts a LiveKit and a homeserver.
func newServer(t *testing.T) (*rig.Server, *rig.LiveKit) {
	t.Helper()
	l := rig.NewLiveKit(t)
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
		if s := p.state(); s.Get("tiles").Int() == int64(n) && s.Get("playing").Int() == int64(n) {
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
