package guard_test

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/futures/test/rig"
)

var earlier = flag.Int("earlier", 40, "how many messages were sent before the disk was full")

// TestFullDisk fills the disk of JetStream's folder, kills the server and makes room. The first message that is sent
// then is answered and seen.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	disk := mountSmallDisk(t)
	s := rig.New(t, rig.Config{Set: map[string]any{"global.jetstream.storage_path": disk}})
	alice := s.Register(t, "alice")
	room := alice.CreateRoom(nil)
	for i := range *earlier {
		alice.Send(room, "m.room.message", rig.Text(fmt.Sprint("earlier ", i)))
	}
	filler := fill(t, disk)
	for range 3 {
		_ = trySend(t, alice, room, "while it is full", 2*time.Second) // answered or not
	}
	s.Kill()
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	s.Start()
	start := time.Now()
	if err := trySend(t, alice, room, "there is space", patience); err != nil {
		t.Fatal(err)
	}
	alice.WaitFor(room, rig.HasBody("there is space"), patience)
	t.Logf("sent and seen in %v", time.Since(start))
}

func trySend(t *testing.T, u *rig.User, room, body string, within time.Duration) error {
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	_, err := u.Client.Do(ctx, "PUT", rig.Path("rooms", room, "send", "m.room.message", u.NextTxn()), nil, rig.Text(body))
	return err
}

// mountSmallDisk needs the rights to mount.
func mountSmallDisk(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=8m"); err != nil {
		t.Skipf("a small disk cannot be mounted: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// fill writes a file until the disk is full.
func fill(t *testing.T, disk string) (path string) {
	t.Helper()
	path = filepath.Join(disk, "filler")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for block := make([]byte, 4096); err == nil; {
		_, err = f.Write(block)
	}
	return path
}
