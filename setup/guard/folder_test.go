package guard_test

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"

	"github.com/matrix-org/dendrite/futures/setup/guard"
)

// streamFolder is where JetStream keeps a stream.
func (b *bench) streamFolder() string {
	return filepath.Join(b.dir, "jetstream", "$G", "streams", stream)
}

// loseMessages has the stream forget how far it was.
func (b *bench) loseMessages() {
	if err := os.RemoveAll(filepath.Join(b.streamFolder(), "msgs")); err != nil {
		b.Fatal(err)
	}
}

func (b *bench) mend() {
	b.Helper()
	if err := guard.MendFolder(b.dir); err != nil {
		b.Fatal(err)
	}
}

func TestWholeFolderStaysAsItIs(t *testing.T) {
	b := newBench(t)
	sub := b.consumer("C")
	b.publish("1", "2", "3")
	b.gets(sub, false, "1")
	b.gets(sub, true, "2")
	b.stop()
	before := os.DirFS(b.dir)
	copied := t.TempDir()
	if err := os.CopyFS(copied, before); err != nil {
		t.Fatal(err)
	}
	b.mend()
	for _, name := range []string{"meta.inf", "meta.sum", "obs/C/meta.inf", "obs/C/meta.sum", "obs/C/o.dat"} {
		path := filepath.Join("jetstream", "$G", "streams", stream, name)
		if !same(filepath.Join(b.dir, path), filepath.Join(copied, path)) {
			t.Errorf("%s has changed", path)
		}
	}
	b.start()
}

func same(a, b string) bool {
	x, err1 := os.ReadFile(a)
	y, err2 := os.ReadFile(b)
	return err1 == nil && err2 == nil && string(x) == string(y)
}

// A consumer whose files are torn gets what only it has not read, although others have.
func TestTornConsumer(t *testing.T) {
	for _, file := range []string{"meta.inf", "meta.sum", "o.dat"} {
		t.Run(file, func(t *testing.T) {
			b := newBench(t)
			slow, fast := b.consumer("slow"), b.consumer("fast")
			b.publish("1", "2", "3")
			b.gets(fast, true, "1", "2")
			b.gets(slow, true, "1")
			b.stop()
			path := filepath.Join(b.streamFolder(), "obs", "slow", file)
			info, err := os.Stat(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.Truncate(path, max(0, info.Size()-3)); err != nil {
				t.Fatal(err)
			}
			b.mend()
			b.start()
			release, err := guard.KeepMessages(b.js, b.cfg)
			if err != nil {
				t.Fatal(err)
			}
			b.align()
			b.gets(b.consumer("fast"), true, "3")
			slow = b.consumer("slow")
			release()
			b.gets(slow, true, "2", "3")
			b.has(0)
		})
	}
}

// Each part of a position that is not all of it is removed, and all of it is not.
func TestPositions(t *testing.T) {
	b := &bench{T: t, dir: t.TempDir()}
	for name, numbers := range map[string][]uint64{
		"nothing in hand":   {300, 4000, 301, 4001, 0, 0},
		"two in hand":       {300, 4000, 302, 4002, 2, 1 << 40, 1, 1, 0, 2, 2, 5, 0},
		"delivered again":   {300, 4000, 302, 4002, 1, 1 << 40, 2, 2, 5, 2, 1, 2, 2, 700},
		"nothing delivered": {0, 0, 0, 0, 0, 0},
	} {
		whole := []byte{22, 2}
		for _, n := range numbers {
			whole = binary.AppendUvarint(whole, n)
		}
		for size := range len(whole) + 1 {
			path := filepath.Join(b.streamFolder(), "obs", "C", "o.dat")
			if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, whole[:size], 0o600); err != nil {
				t.Fatal(err)
			}
			b.mend()
			_, err := os.Stat(path)
			if stays := err == nil; stays != (size == len(whole)) {
				t.Errorf("%s, %d of %d bytes: it stays: %v", name, size, len(whole), stays)
			}
		}
	}
}
