package storagetest

import (
	"testing"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
	"github.com/matrix-org/dendrite/futures/futureserver/storage"
)

// restart: a row records, also over clean stops, whether its future has heartbeats, and which deadline was a restart's
// grace. The database records for how long servers have run on it.
func restart(t *testing.T, create Source) {
	opts := create(t)
	db := MustOpen(t, opts)
	expect := func(when string, want ...storage.Timer) {
		t.Helper()
		i := 0
		_, err := db.Scan(t.Context(), func(got *storage.Timer) error {
			if w := want[i]; got.Refreshed != w.Refreshed || got.Graced != w.Graced || got.Deadline != w.Deadline {
				t.Errorf("%s, future %d: refreshed %v, grace %d, deadline %d; want %v, %d, %d",
					when, got.NID, got.Refreshed, got.Graced, got.Deadline, w.Refreshed, w.Graced, w.Deadline)
			}
			i++
			return nil
		})
		if err != nil || i != len(want) {
			t.Fatalf("%s: %d timers, %v", when, i, err)
		}
	}
	fs := samples(1, 2)
	for _, f := range fs {
		f.Timeout, f.Deadline = 1, 1000
	}
	commit(t, db, &storage.Batch{Inserts: fs, Age: 70})
	commit(t, db, &storage.Batch{Extends: []storage.Extend{{NID: 1, Deadline: 2000}}})
	expect("after a heartbeat", storage.Timer{Deadline: 2000, Refreshed: true}, storage.Timer{Deadline: 1000})
	commit(t, db, &storage.Batch{Age: 50, Extends: []storage.Extend{{NID: 1, Deadline: 1500, Exact: true}, {NID: 2, Deadline: 900, Exact: true}}})
	expect("after a clean stop", storage.Timer{Deadline: 1500, Refreshed: true}, storage.Timer{Deadline: 900})
	db.Close()
	if db = MustOpen(t, opts); db.Age() != 70 {
		t.Errorf("the age is %d, want 70", db.Age())
	}
	commit(t, db, &storage.Batch{Extends: []storage.Extend{{NID: 1, Deadline: 3000, Exact: true, Grace: true}}})
	expect("after the grace", storage.Timer{Deadline: 3000, Graced: 3000, Refreshed: true}, storage.Timer{Deadline: 900})
	commit(t, db, &storage.Batch{Extends: []storage.Extend{{NID: 1, Deadline: 4000}}})
	expect("after another heartbeat", storage.Timer{Deadline: 4000, Graced: 3000, Refreshed: true}, storage.Timer{Deadline: 900})
	if err := db.Confirm(t.Context()); err != nil {
		t.Error(err)
	}
	rooms, err := db.SelectWatchedRooms(t.Context())
	if err != nil || len(rooms) == 0 {
		t.Errorf("%v, %v", rooms, err)
	}
}

// undo: a future that was taken back leaves no row, and its name and secret are free.
func undo(t *testing.T, create Source) {
	db := MustOpen(t, create(t))
	fs := samples(1, 2, 3)
	commit(t, db, &storage.Batch{Inserts: fs[:2], Undos: []api.NID{2}})
	commit(t, db, &storage.Batch{Inserts: fs[2:], Ends: []storage.End{{NID: 1, State: api.Cancelled, At: 5}}})
	commit(t, db, &storage.Batch{Undos: []api.NID{3}})
	for _, f := range fs[1:] {
		if x, err := db.Load(t.Context(), f.NID); x != nil || err != nil {
			t.Errorf("future %d left a row: %v", f.NID, err)
		}
		if used, err := db.GroupUsed(t.Context(), f.UserID, f.GroupID); used || err != nil {
			t.Errorf("future %d closed its name: %v", f.NID, err)
		}
	}
	n := 0
	if _, err := db.Scan(t.Context(), func(*storage.Timer) error { n++; return nil }); err != nil || n != 0 {
		t.Errorf("%d timers, %v", n, err)
	}
}
