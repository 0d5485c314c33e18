// Package call makes calls as people do: Element Call in Chromium, a real LiveKit, and this server, which announces the SFU,
// issues the tokens and ends the memberships of those who are gone (docs/calls.md).
package call

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/tidwall/gjson"

	"github.com/matrix-org/dendrite/futures/test/browser"
	"github.com/matrix-org/dendrite/futures/test/rig"
)

func TestMain(m *testing.M) { rig.Main(m) }

const memberType = "org.matrix.msc3401.call.member"

// TestElementCall: whoever is in the call stays in it, and whoever is gone does not. LiveKit alone would notice after 20
// seconds that a browser is gone.
func TestElementCall(t *testing.T) {
	server, sfu := newServer(t)
	alice, bob := server.Register(t, "alice"), server.Register(t, "bob")
	c := &call{T: t, pages: site(t), watcher: alice, room: newRoom(alice)}
	bob.Join(c.room)
	a := c.enter(alice)
	b := c.enter(bob)
	a.sees(2)
	b.sees(2)
	if asked := a.state().Get("asked.0").Str; asked != "delay 3600000" {
		t.Errorf("Element Call has not seen that leaves can be delegated: %s", asked)
	}

	b.browser.Freeze(5 * time.Second)
	c.stay(2, 3*time.Second)
	b.sees(2)

	server.Kill()
	time.Sleep(3 * time.Second) // the outage
	server.Start()
	c.stay(2, 3*time.Second)
	a.sees(2)
	b.sees(2)

	start := time.Now()
	b.browser.Kill()
	c.become(1, 15*time.Second)
	t.Logf("out of the room's state %v after the browser's end", time.Since(start))
	a.sees(1)
	t.Logf("out of sight after %v", time.Since(start))

	b = c.enter(bob)
	a.sees(2)
	sfu.Kill()
	b.browser.Kill()
	sfu.Start(server.URL + rig.LiveKitPath + "/sfu_webhook")
	c.become(1, 2*time.Minute)
	a.sees(1)
	c.stay(1, 3*time.Second)
}

// TestElementCallOfTwoServers: each with its own SFU, which the users of the other enter by an OpenID token. The media is
// encrypted with a key that both know.
func TestElementCallOfTwoServers(t *testing.T) {
	first, _ := newServer(t)
	second, _ := newServer(t)
	alice, bob := first.Register(t, "alice"), second.Register(t, "bob")
	c := &call{T: t, pages: site(t), watcher: alice, room: newRoom(alice)}
	c.parameters = map[string]string{"password": "a key that the SFUs do not know"}
	bob.Join(c.room, first.Name)
	a := c.enter(alice)
	b := c.enter(bob)
	a.sees(2)
	b.sees(2)
	if faults := strings.Join(a.tab.Faults(), "\n"); strings.Contains(faults, "e2ee not configured") {
		t.Error("the media is not encrypted")
	}
	b.browser.Kill()
	c.become(1, 15*time.Second)
	a.sees(1)
}

// A call is a room with a call in it.
type call struct {
	*testing.T
	pages, room string
	watcher     *rig.User
	parameters  map[string]string // of Element Call
}

// newServer starts a homeserver with a LiveKit behind it.
func newServer(t *testing.T) (*rig.Server, *rig.LiveKit) {
	t.Helper()
	l := rig.NewLiveKit(t)
	l.Behind = true
	s := rig.New(t, rig.Config{Federation: true, LiveKit: []*rig.LiveKit{l}})
	l.Start(s.URL + rig.LiveKitPath + "/sfu_webhook")
	return s, l
}

func newRoom(u *rig.User) string {
	return u.CreateRoom(map[string]any{"preset": "public_chat"})
}

// members returns how many are in the call, as the room's state says.
func (c *call) members() (n int) {
	r := c.watcher.Do(http.MethodGet, rig.Path("rooms", c.room, "state"), nil, nil)
	for _, e := range r.JSON.Array() {
		if e.Get("type").Str == memberType && e.Get("content.application").Exists() {
			n++
		}
	}
	return n
}

// become waits until so many are in the call.
func (c *call) become(n int, within time.Duration) {
	c.Helper()
	for end := time.Now().Add(within); c.members() != n; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			c.Fatalf("after %v %d are in the call, want %d", within, c.members(), n)
		}
	}
}

// stay fails if it is not so many for that time.
func (c *call) stay(n int, d time.Duration) {
	c.Helper()
	for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		if got := c.members(); got != n {
			c.Fatalf("%d are in the call, want %d", got, n)
		}
	}
}

// A participant is somebody with a browser of their own.
type participant struct {
	*rig.User
	call    *call
	browser *browser.Browser
	tab     *browser.Tab
}

// enter opens a browser and joins the call.
func (c *call) enter(u *rig.User) *participant {
	c.Helper()
	p := &participant{User: u, call: c}
	p.browser = browser.Start(c.T, browser.Calls()...)
	p.tab = p.browser.Tab(c.T)
	who, err := json.Marshal(map[string]any{"url": u.URL, "id": u.ID, "device": u.DeviceID, "token": u.Token, "room": c.room, "parameters": c.parameters})
	if err != nil {
		c.Fatal(err)
	}
	p.tab.Do(chromedp.Navigate(c.pages + "/host.html"))
	p.tab.Await("window.enter !== undefined")
	p.tab.Do(chromedp.Evaluate[chromedp.Void]("enter(" + string(who) + ")"))
	return p
}

// state is what the page has noted.
func (p *participant) state() gjson.Result {
	p.call.Helper()
	return gjson.Parse(browser.Get(p.tab, chromedp.Evaluate[string]("JSON.stringify({...state, ...seen()})")))
}

// sees waits until the page shows so many participants, with their videos playing.
func (p *participant) sees(n int) {
	p.call.Helper()
	for deadline := time.Now().Add(3 * time.Minute); time.Now().Before(deadline); time.Sleep(200 * time.Millisecond) {
		if s := p.state(); s.Get("people").Int() == int64(n) {
			return
		}
	}
	p.call.Fatalf("%s does not see %d participants: %s\nfaults: %q", p.ID, n, p.state(), p.tab.Faults())
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
