// Package hostile tests the server with another homeserver that breaks the rules, or uses rare ones. The other
// homeserver is rig.Fake.
package hostile_test

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"github.com/matrix-org/dendrite/futures/test/rig"
)

func TestMain(m *testing.M) { rig.Main(m) }

const patience = 20 * time.Second

// A scene is a room of alice on our server, which bob of the fake server has joined.
type scene struct {
	*testing.T
	s     *rig.Server
	f     *rig.Fake
	alice *rig.User
	bob   string
	room  *rig.FakeRoom
	eyes  *rig.User // the user whose view of the room counts: alice, unless a test sets another
}

func newScene(t *testing.T, version string, opts map[string]any) *scene {
	t.Helper()
	return newSceneFor(t, version, func(*scene) map[string]any { return opts })
}

// newSceneFor creates the options of the room when the servers have names.
func newSceneFor(t *testing.T, version string, opts func(c *scene) map[string]any) *scene {
	t.Helper()
	c := &scene{T: t, s: rig.New(t, rig.Config{Federation: true}), f: rig.NewFake(t)}
	c.alice, c.bob = c.s.Register(t, "alice"), c.f.User("bob")
	c.eyes = c.alice
	c.room = c.newRoom(version, opts(c))
	return c
}

// newRoom creates another such room.
func (c *scene) newRoom(version string, opts map[string]any) *rig.FakeRoom {
	c.Helper()
	all := map[string]any{"preset": "public_chat", "room_version": version}
	for key, value := range opts {
		all[key] = value
	}
	return c.f.Join(c.s, c.alice.CreateRoom(all), c.bob, version)
}

// sees waits until alice sees the event.
func (c *scene) sees(what string, e rig.FakeEvent) {
	c.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if c.has(e.ID) {
			return
		}
	}
	c.Errorf("%s: %s does not see %s: %s", what, c.eyes.ID, e.ID, e.Raw)
}

func (c *scene) has(id string) bool {
	c.Helper()
	return slices.ContainsFunc(c.eyes.Timeline(c.room.ID), func(e gjson.Result) bool { return e.Get("event_id").Str == id })
}

// seesNot checks that no client can see the event.
func (c *scene) seesNot(what string, e rig.FakeEvent) {
	c.Helper()
	if c.has(e.ID) {
		c.Errorf("%s: alice sees the event: %s", what, e.Raw)
	}
	if r := c.eyes.Do(http.MethodGet, rig.Path("rooms", c.room.ID, "event", e.ID), nil, nil); r.Status == http.StatusOK {
		c.Errorf("%s: alice can get the event: %s", what, r.Body)
	}
}

// receive waits until the fake server gets the event, and appends it to the room.
func (c *scene) receive(pred func(pdu gjson.Result) bool) {
	c.Helper()
	c.room.Receive(c.f.WaitPDU(patience, func(pdu gjson.Result) bool {
		return pdu.Get("room_id").Str == c.room.ID && pred(pdu)
	}).Raw)
}

// works checks that the room goes on for both sides, and that the server has neither ended nor panicked.
func (c *scene) works() {
	c.Helper()
	e := c.room.Message(c.bob, "still here")
	c.f.MustSend(c.s, e)
	c.sees("a later event", e)
	id := c.alice.Send(c.room.ID, "m.room.message", rig.Text("me too"))
	c.f.WaitPDU(patience, func(pdu gjson.Result) bool { return rig.ReadEvent(c.room.Version, pdu.Raw).ID == id })
	noPanic(c, c.s)
}

// noPanic checks that no request has ended in a panic.
func noPanic(t testing.TB, s *rig.Server) {
	t.Helper()
	log := s.Log()
	for _, sign := range []string{"panicked", "panic serving", "panic: "} {
		if at := strings.Index(log, sign); at >= 0 {
			t.Errorf("the server has panicked: %s", log[max(0, at-200):min(len(log), at+1500)])
		}
	}
}
