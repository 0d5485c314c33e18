package guard_test

import (
	"cmp"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/matrix-org/dendrite/futures/test/rig"
)

var everyFile = flag.Bool("every-file", false, "tear each file of JetStream's folder in each way, not only one of each kind")

// damage is what a crash or a full disk can do to a file.
var damage = map[string]func(path string) error{
	"cut": func(path string) error {
		info, err := os.Stat(path)
		if err != nil {
			return err
		}
		return os.Truncate(path, max(0, info.Size()-3))
	},
	"emptied": func(path string) error { return os.Truncate(path, 0) },
	"removed": os.Remove,
	"zeroed": func(path string) error {
		info, err := os.Stat(path)
		if err != nil {
			return err
		}
		return os.WriteFile(path, make([]byte, info.Size()), 0o600)
	},
}

// ofEachKind matches one file of each kind, of the stream that all clients' events pass.
var ofEachKind = regexp.MustCompile(`OutputRoomEvent/(meta|msgs/|obs/DendriteSyncAPI.*Pull)|InputRoomEvent/obs/DendriteRoomInput.*/o.dat`)

// TestTornFolder damages files of JetStream's folder after a crash. The server starts, and everything that it had
// acknowledged is in /sync, unless the message itself was damaged.
func TestTornFolder(t *testing.T) {
	s := rig.New(t, rig.Config{})
	alice := s.Register(t, "alice")
	room := alice.CreateRoom(nil)
	s.Stop() // a clean stop, so that JetStream's index exists too
	for _, file := range jetStreamFiles(t, s) {
		for name, harm := range damage {
			torn := name == "cut" || name == "zeroed" && strings.HasSuffix(file, "o.dat")
			if !*everyFile && !(torn && ofEachKind.MatchString(file)) {
				continue
			}
			t.Run(name+" "+file, func(t *testing.T) {
				if !s.Running() {
					s.Start()
				}
				before := fmt.Sprintf("before %s %s", name, file)
				alice.Send(room, "m.room.message", rig.Text(before))
				if strings.Contains(file, "/msgs/") {
					s.Stop()
				} else {
					s.Kill()
				}
				if err := harm(newest(filepath.Join(s.Dir, file))); os.IsNotExist(err) {
					t.Skip("the file is not there this time")
				} else if err != nil {
					t.Fatal(err)
				}
				if err := s.TryStart(); err != nil {
					t.Fatal(err)
				}
				if !strings.Contains(file, "/msgs/") {
					alice.WaitFor(room, rig.HasBody(before), patience)
				}
				after := fmt.Sprintf("after %s %s", name, file)
				alice.Send(room, "m.room.message", rig.Text(after))
				alice.WaitFor(room, rig.HasBody(after), patience)
			})
		}
	}
}

// newest replaces any block of messages by the last one, because blocks come and go.
func newest(path string) string {
	blocks, err := filepath.Glob(filepath.Join(filepath.Dir(path), "*.blk"))
	if filepath.Ext(path) != ".blk" || err != nil || len(blocks) == 0 {
		return path
	}
	return slices.MaxFunc(blocks, func(a, b string) int { return cmp.Or(cmp.Compare(len(a), len(b)), cmp.Compare(a, b)) })
}

// jetStreamFiles returns the files, relative to the server's folder.
func jetStreamFiles(t *testing.T, s *rig.Server) (files []string) {
	err := filepath.WalkDir(filepath.Join(s.Dir, "jetstream"), func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			path, err = filepath.Rel(s.Dir, path)
			files = append(files, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}
