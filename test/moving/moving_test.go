// Package moving moves a homeserver from stock Dendrite to ours, with its data and configuration, and back.
package moving

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/futures/test/rig"
)

func TestMain(m *testing.M) { rig.Main(m) }

// patience covers the time after which Dendrite retries a stranded input, on a busy machine.
const patience = 90 * time.Second

// stock builds Dendrite v0.13.8 without our patches.
func stock(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "dendrite")
	build := exec.Command("go", "build", "-o", path, "github.com/matrix-org/dendrite/cmd/dendrite")
	build.Env = append(os.Environ(), "GOWORK=off")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building stock Dendrite: %v\n%s", err, out)
	}
	return path
}

// TestThereAndBack: rooms of all versions that stock Dendrite knows work in ours, with futures, and go on in stock
// Dendrite afterwards with everything that happened meanwhile.
func TestThereAndBack(t *testing.T) {
	program := stock(t)
	for _, database := range []string{"sqlite", "postgres"} {
		t.Run(database, func(t *testing.T) {
			s := rig.New(t, rig.Config{Postgres: database == "postgres", Program: program})
			alice, bob := s.Register(t, "alice"), s.Register(t, "bob")
			rooms := map[string]string{}
			for version := 1; version <= 11; version++ {
				room := alice.CreateRoom(map[string]any{"preset": "public_chat", "room_version": fmt.Sprint(version)})
				bob.Join(room)
				rooms[fmt.Sprint(version)] = room
				bob.Send(room, "m.room.message", message("by stock Dendrite"))
			}
			s.Stop()

			s.Start()
			for version, room := range rooms {
				alice.SendState(room, "m.room.topic", "", map[string]any{"topic": "by ours, version " + version})
				alice.SendFuture(room, "m.room.message", message("a future"), rig.Params{Timeout: time.Millisecond})
			}
			for _, room := range rooms {
				bob.WaitFor(room, rig.HasBody("a future"), patience)
			}
			s.Stop()

			s.StartProgram(program)
			for version, room := range rooms {
				bob.WaitFor(room, rig.HasBody("a future"), patience)
				bob.Send(room, "m.room.message", message("by stock Dendrite again"))
				alice.WaitFor(room, rig.HasBody("by stock Dendrite again"), patience)
				if topic := bob.GetState(room, "m.room.topic", "").Get("topic").Str; topic != "by ours, version "+version {
					t.Errorf("version %s: the topic is %q", version, topic)
				}
			}
		})
	}
}

// TestBackWithVersion12: stock Dendrite does not know the version. It starts, and users who are in no such room are not
// affected; docs/operations.md says what happens to the others.
func TestBackWithVersion12(t *testing.T) {
	s := rig.New(t, rig.Config{})
	alice, bob := s.Register(t, "alice"), s.Register(t, "bob")
	old := alice.CreateRoom(map[string]any{"preset": "public_chat", "room_version": "10"})
	room := alice.CreateRoom(map[string]any{"preset": "public_chat", "room_version": "12"})
	bob.Join(old)
	bob.Join(room)
	bob.Leave(room)
	s.Stop()

	s.StartProgram(stock(t))
	bob.Send(old, "m.room.message", message("still here"))
	bob.WaitFor(old, rig.HasBody("still here"), patience)
	if r := alice.Do(http.MethodGet, rig.Path("rooms", old, "state"), nil, nil); r.Status != http.StatusOK {
		t.Errorf("the state of a room of version 10 of a user who is in one of version 12: %d %s", r.Status, r.Body)
	}
	if r := bob.Do(http.MethodGet, rig.Path("sync"), nil, nil); !r.JSON.Get("rooms.join." + gjsonKey(old)).Exists() {
		t.Errorf("the first sync of a user who has left the room of version 12: %s", r.Body)
	}
	first := alice.Do(http.MethodGet, rig.Path("sync"), nil, nil)
	if joined := first.JSON.Get("rooms.join"); len(joined.Map()) != 0 {
		t.Errorf("docs/operations.md says that her first sync is empty, but it has %s", joined.Raw)
	}
	s.Stop()

	s.Start() // and everything works again
	alice.WaitFor(old, rig.HasBody("still here"), patience)
	if joined := alice.Do(http.MethodGet, rig.Path("sync"), nil, nil).JSON.Get("rooms.join").Map(); len(joined) != 2 {
		t.Errorf("her first sync has %d rooms of 2", len(joined))
	}
}

// gjsonKey is a room ID as part of a path of gjson.
func gjsonKey(roomID string) string { return strings.ReplaceAll(roomID, ".", `\.`) }

func message(text string) map[string]any { return map[string]any{"msgtype": "m.text", "body": text} }
