package guard_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/matrix-org/dendrite/futures/setup/guard"
)

// streamFolder returns the folder of the stream.
func (b *bench) streamFolder() string {
	return filepath.Join(b.dir, "jetstream", "$G", "streams", stream)
}

// loseMessages makes the stream forget its position.
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

// A consumer with truncated files gets the messages that only it has not read.
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

// After a repair the next start finds nothing to repair.
func TestMendingTwice(t *testing.T) {
	b := newBench(t)
	b.consumer("C")
	b.stop()
	meta := filepath.Join(b.streamFolder(), "obs", "C", "meta.inf")
	if err := os.Truncate(meta, 3); err != nil {
		t.Fatal(err)
	}
	b.mend()
	b.start()
	b.stop() // nobody has created the consumer again
	streamMeta := filepath.Join(b.streamFolder(), "meta.inf")
	before, err := os.Stat(streamMeta)
	if err != nil {
		t.Fatal(err)
	}
	b.mend()
	if after, err := os.Stat(streamMeta); err != nil || !os.SameFile(before, after) {
		t.Errorf("the stream was taken apart again: %v", err)
	}
	b.start()
}
