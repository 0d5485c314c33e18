package gen2

import (
	"fmt"
	"testing"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
	"github.com/matrix-org/dendrite/futures/futureserver/storage"
	"github.com/matrix-org/dendrite/futures/test/storagetest"
)

// TestRetentionByCount: each user's newest ended events are kept, and all scheduled ones (7.1). A server counts only
// every few minutes, so this test reads the database.
func TestRetentionByCount(t *testing.T) {
	for name, source := range map[string]storagetest.Source{"SQLite": storagetest.SQLite, "PostgreSQL": storagetest.Postgres} {
		t.Run(name, func(t *testing.T) {
			db := storagetest.MustOpen(t, source(t))
			var batch storage.Batch
			var ids []string
			for i := range 7 { // the last of alice's stays scheduled, and bob has one too
				f := &api.Future{
					NID: api.NID(i + 1), Secret: api.NewSecret(), State: api.Scheduled, Policy: api.Managed, UserID: "@alice:test",
					RoomID: "!r:test", Type: "m.room.message", Content: []byte("{}"), Timeout: 1e9, Deadline: 1e12, Created: 1e12,
				}
				if i == 6 {
					f.UserID = "@bob:test"
				}
				f.GroupID = f.Token(api.GroupToken).String()
				ids = append(ids, f.GroupID)
				batch.Inserts = append(batch.Inserts, f)
				if i != 5 {
					batch.Ends = append(batch.Ends, storage.End{NID: f.NID, State: api.Cancelled, At: 1e12 + int64(i)})
				}
			}
			for _, b := range []*storage.Batch{&batch, {KeepPerUser: 3}} {
				if _, err := db.Commit(t.Context(), b); err != nil {
					t.Fatal(err)
				}
			}
			var kept []int
			for i, id := range ids {
				if f, err := db.LoadFinished(t.Context(), id); err != nil {
					t.Fatal(err)
				} else if f != nil {
					kept = append(kept, i)
				}
			}
			if fmt.Sprint(kept) != "[2 3 4 6]" {
				t.Errorf("%v are kept", kept)
			}
			if f, err := db.Load(t.Context(), 6); err != nil || f == nil {
				t.Errorf("the scheduled one is gone: %v", err)
			}
		})
	}
}
