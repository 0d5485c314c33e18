package guard_test

import (
	"context"
	"flag"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/futures/test/rig"
)

var earlier = flag.Int("earlier", 40, "how many messages were sent before the disk was full")

// TestFullDisk fills the disk, kills the server and frees space. The first message after that is answered and seen.
func TestFullDisk(t *testing.T) {
	t.Run("of JetStream", func(t *testing.T) {
		disk := mountSmallDisk(t)
		s := rig.New(t, rig.Config{Set: map[string]any{"global.jetstream.storage_path": disk}})
		endureFullDisk(t, s, disk, true)
	})
	for name, kill := range map[string]bool{"of all, and a crash": true, "of all": false} {
		t.Run(name, func(t *testing.T) {
			disk := mountSmallDisk(t)
			t.Setenv("TMPDIR", disk)
			endureFullDisk(t, rig.New(t, rig.Config{}), disk, kill)
		})
	}
}

func endureFullDisk(t *testing.T, s *rig.Server, disk string, kill bool) {
	alice := s.Register(t, "alice")
	room := alice.CreateRoom(nil)
	for i := range *earlier {
		alice.Send(room, "m.room.message", rig.Text(fmt.Sprint("earlier ", i)))
	}
	filler, answered := sendIntoFullDisk(t, s, disk, alice, room)
	if kill {
		s.Kill()
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	if kill {
		s.Start()
	}
	start := time.Now()
	sent := false
	for seen := false; !seen; {
		if time.Since(start) > 2*patience {
			t.Fatal("there is space, and nothing can be sent")
		}
		if !s.Running() { // one of Dendrite's components could not write
			restartEnded(t, s)
		}
		sent = sent || trySend(alice, room, "m.room.message", "there is space", soon) == nil
		seen = sent && sees(alice, room, "there is space", soon)
	}
	t.Logf("sent and seen in %v; %d were answered while the disk was full", time.Since(start), len(answered))
	timeline := alice.Timeline(room)
	for _, body := range answered {
		if !slices.ContainsFunc(timeline, rig.HasBody(body)) {
			t.Errorf("%q was answered and is not in the room", body)
		}
	}
}

// restartEnded restarts a server that has ended cleanly, as a service manager does.
func restartEnded(t *testing.T, s *rig.Server) {
	t.Helper()
	if s.Exit() != "exit status 1" {
		t.Fatalf("the server has ended: %s", s.Exit())
	}
	s.Start()
}

// sendIntoFullDisk sends until some messages have been refused, and returns the accepted ones.
func sendIntoFullDisk(t *testing.T, s *rig.Server, disk string, u *rig.User, room string) (filler string, answered []string) {
	refused := 0
	for i := 0; refused < 5 && i < 100 && s.Running(); i++ {
		filler = fill(t, disk) // also fills what the log has freed
		body := fmt.Sprint("while it is full ", i)
		if err := trySend(u, room, fmt.Sprint("com.example.full", i), body, time.Second); err == nil {
			answered = append(answered, body)
		} else {
			refused++
		}
	}
	if refused == 0 {
		t.Error("everything was answered: the disk was not full")
	}
	return filler, answered
}

func trySend(u *rig.User, room, eventType, body string, within time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	r, err := u.Client.Do(ctx, "PUT", rig.Path("rooms", room, "send", eventType, u.NextTxn()), nil, rig.Text(body))
	if err == nil && r.Status != http.StatusOK {
		err = fmt.Errorf("%d %s", r.Status, r.Body)
	}
	return err
}

func sees(u *rig.User, room, body string, within time.Duration) bool {
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	return u.Watch(ctx, room, rig.HasBody(body)) == nil
}

// mountSmallDisk needs the right to mount.
func mountSmallDisk(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "disk") // t.TempDir would put all folders of the test beside it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(dir) })
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=16m"); err != nil {
		t.Skipf("a small disk cannot be mounted: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// fill extends a file until the disk is full.
func fill(t *testing.T, disk string) (path string) {
	t.Helper()
	path = filepath.Join(disk, "filler")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for block := make([]byte, 4096); err == nil; {
		_, err = f.Write(block)
	}
	return path
}
