package sqlite3

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
	"github.com/matrix-org/dendrite/futures/futureserver/storage"
)

// flooded is a database in which futures come, end and are forgotten.
type flooded struct {
	*testing.T
	storage.Database
	path string
	next api.NID
	age  int64
}

func flood(t *testing.T, path string) *flooded {
	db, err := Open(t.Context(), optionsFor(path))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return &flooded{T: t, Database: db, path: path, next: 1}
}

// come has n futures of some 2 KB end at the current age.
func (f *flooded) come(n int) {
	const atOnce = 1000
	content := []byte(`{"body":"` + strings.Repeat("x", 2000) + `"}`)
	f.age++
	for range n / atOnce {
		var b storage.Batch
		for range atOnce {
			x := future()
			x.NID, x.Secret, x.Content = f.next, api.NewSecret(), content
			b.Inserts = append(b.Inserts, x)
			b.Ends = append(b.Ends, storage.End{NID: f.next, State: api.Cancelled, At: 1, Age: f.age})
			f.next++
		}
		f.commit(&b)
	}
}

// forget has all that has ended so far forgotten, as the core does it: in batches.
func (f *flooded) forget() {
	f.age++
	for f.commit(&storage.Batch{ForgetBefore: f.age}).Forgotten > 0 {
	}
}

func (f *flooded) commit(b *storage.Batch) storage.Result {
	f.Helper()
	r, err := f.Commit(f.Context(), b)
	if err != nil {
		f.Fatal(err)
	}
	return r
}

// size closes the database, so that the log is empty, and opens it again.
func (f *flooded) size() int64 {
	f.Helper()
	if err := f.Close(); err != nil {
		f.Fatal(err)
	}
	info, err := os.Stat(f.path)
	if err != nil {
		f.Fatal(err)
	}
	if f.Database, err = Open(f.Context(), optionsFor(f.path)); err != nil {
		f.Fatal(err)
	}
	return info.Size()
}

const mb = 1 << 20

// TestSpaceIsUsedAgain: a file does not grow with the futures that come and go, but with those that there are at a time.
func TestSpaceIsUsedAgain(t *testing.T) {
	f := flood(t, filepath.Join(t.TempDir(), "futureserver.db"))
	const many = 8000
	f.come(many)
	first := f.size()
	for range 5 {
		f.forget()
		f.come(many)
	}
	if last := f.size(); last > first+first/5 {
		t.Errorf("after five times as many futures %d MB have become %d MB", first/mb, last/mb)
	}
}

// TestSpaceIsGivenBack: after a flood the file shrinks, in steps that nobody notices, although what is left is at its end.
func TestSpaceIsGivenBack(t *testing.T) {
	f := flood(t, filepath.Join(t.TempDir(), "futureserver.db"))
	f.come(12_000)
	f.forget()
	f.come(1000)
	most := f.size()
	const steps = 20
	var took []time.Duration
	for range steps {
		f.age++
		start := time.Now()
		f.commit(&storage.Batch{Age: f.age})
		took = append(took, time.Since(start))
	}
	least := f.size()
	slices.Sort(took)
	t.Logf("%d MB become %d MB in %d steps, the longest %s, the median %s", most/mb, least/mb, steps, took[steps-1], took[steps/2])
	if least > most/2 || least < mb {
		t.Errorf("%d MB become %d MB", most/mb, least/mb)
	}
	rows, err := f.Select(f.Context(), api.Filter{States: api.Finished})
	if err != nil || len(rows) != 1000 {
		t.Errorf("%d futures are left (%v)", len(rows), err)
	}
}
