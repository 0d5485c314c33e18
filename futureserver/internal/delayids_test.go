package internal

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
	"github.com/matrix-org/dendrite/futures/futureserver/storage"
)

// watchedRooms calls submitting just before an event becomes visible.
type watchedRooms struct {
	*fakeRooms
	submitting func(*api.Future)
}

func (r watchedRooms) Submit(ctx context.Context, fs []*api.Future) error {
	for _, f := range fs {
		r.submitting(f)
	}
	return r.fakeRooms.Submit(ctx, fs)
}

func managedFuture(delay time.Duration) *api.Future {
	f := message(delay)
	f.Policy = api.Managed
	return f
}

func (b *bench) delayIDsOf(userID string) map[string]string {
	b.Helper()
	ids, err := b.QueryDelayIDs(b.Context(), userID)
	if err != nil {
		b.Fatal(err)
	}
	return ids
}

// sent creates a delayed event, waits until it is sent, and returns the IDs that must be known then.
func (b *bench) sent() map[string]string {
	b.Helper()
	f := b.create(managedFuture(time.Second))
	events := len(b.rooms.all())
	b.after(time.Second, events+1)
	return map[string]string{b.rooms.all()[events].id: f.GroupID}
}

func TestDelayIDsOfWhatWasSent(t *testing.T) {
	inBubble(t, func(b *bench) {
		want := map[string]string{}
		check := func() {
			b.Helper()
			if got := b.delayIDsOf("@alice:test"); !maps.Equal(got, want) {
				b.Errorf("the delay IDs are %v, want %v", got, want)
			}
			if got := b.delayIDsOf("@bob:test"); len(got) != 0 {
				b.Errorf("somebody else's are %v", got)
			}
		}
		check()
		maps.Copy(want, b.sent())
		check()
		check() // from memory
		maps.Copy(want, b.sent())
		check()
		b.create(message(time.Second)) // futures of generation 0 have no such ID
		cancelled := b.create(managedFuture(time.Second))
		if err := b.PerformDelayedEventAction(b.Context(), cancelled.GroupID, "", api.Cancel); err != nil {
			b.Fatal(err)
		}
		b.create(managedFuture(time.Hour))
		b.after(time.Second, 3)
		check()
		if err := b.Stop(b.Context()); err != nil {
			b.Fatal(err)
		}
		b.start(testConfig())
		check()
	})
}

// A client that waits for new events must find the ID the first time it sees the event.
func TestDelayIDIsKnownBeforeTheEventIs(t *testing.T) {
	inBubble(t, func(b *bench) {
		known := 0
		b.Server.room = watchedRooms{b.rooms, func(f *api.Future) {
			if b.delayIDsOf(f.UserID)[f.Event.ID] != f.GroupID {
				b.Errorf("event %s is unknown when it is submitted", f.Event.ID)
			}
			known++
		}}
		b.sent()
		b.sent() // now the cache has an entry that could be outdated
		if known != 2 {
			b.Errorf("%d events were submitted", known)
		}
	})
}

// After a crash the event may be in the room although the server does not know that yet.
func TestDelayIDAfterACrash(t *testing.T) {
	for _, step := range []string{"claimed", "submitted", "proved"} {
		inBubble(t, func(b *bench) {
			freezer := newFreezer()
			b.hooks.Step = freezer.step
			freezer.arm(step)
			f := b.create(managedFuture(time.Second))
			<-freezer.frozen
			b.rooms.setMode(down) // so that the new server cannot go on
			b.crash(freezer)
			b.start(testConfig())
			ids := b.delayIDsOf("@alice:test")
			if len(ids) != 1 {
				b.Errorf("%s: the delay IDs are %v", step, ids)
			}
			for event, id := range ids {
				if events := b.rooms.all(); id != f.GroupID || step != "claimed" && events[0].id != event {
					b.Errorf("%s: %s is %s", step, event, id)
				}
			}
			b.rooms.setMode(working)
			b.after(time.Minute, 1)
		})
	}
}

// brokenReads is a database whose reads can be overtaken or fail.
type brokenReads struct {
	storage.Database
	reads  int
	before func() error
	after  func()
}

func (d *brokenReads) SelectSent(ctx context.Context, userID string, limit int, each func(eventID, groupID string)) error {
	d.reads++
	if d.before != nil {
		if err := d.before(); err != nil {
			return err
		}
	}
	err := d.Database.SelectSent(ctx, userID, limit, each)
	if d.after != nil {
		d.after()
	}
	return err
}

func TestDelayIDsAreReadOnce(t *testing.T) {
	inBubble(t, func(b *bench) {
		db := &brokenReads{Database: b.Server.db}
		b.Server.db = db
		b.delayIDsOf("@alice:test")
		b.create(message(time.Second))
		b.after(time.Second, 1)
		b.delayIDsOf("@alice:test")
		if db.reads != 0 {
			b.Error("for a user without delayed events the database was asked")
		}
		first := b.sent()
		trouble := errors.New("trouble")
		db.before = func() error { return trouble }
		if _, err := b.QueryDelayIDs(b.Context(), "@alice:test"); !errors.Is(err, trouble) {
			b.Error(err)
		}
		db.before = nil
		// An event is sent while the read is in progress, so the result is outdated.
		var second map[string]string
		db.after = func() { db.after = nil; second = b.sent() }
		if got := b.delayIDsOf("@alice:test"); !maps.Equal(got, first) {
			b.Errorf("the delay IDs are %v, want %v", got, first)
		}
		maps.Copy(first, second)
		db.reads = 0
		for range 3 {
			if got := b.delayIDsOf("@alice:test"); !maps.Equal(got, first) {
				b.Errorf("the delay IDs are %v, want %v", got, first)
			}
		}
		if db.reads != 1 {
			b.Errorf("%d reads", db.reads)
		}
		if held := b.Server.delayIDs.held; held != 1+len(first) {
			b.Errorf("%d are counted", held)
		}
	})
}

// Invariant 8: the cache is bounded, in all and for one user.
func TestDelayIDsAreBounded(t *testing.T) {
	d := newDelayIDs()
	ids := make(map[string]string, mostPerSender)
	for i := range mostPerSender {
		ids[fmt.Sprint(i)] = ""
	}
	for i := range 5 * mostDelayIDs / mostPerSender {
		user := fmt.Sprint(i)
		place, _ := d.begin(user)
		d.keep(user, place, ids)
		if _, kept := d.begin(user); kept == nil {
			t.Fatal("the newest were not kept")
		}
		if n := len(d.cache) * mostPerSender; n > mostDelayIDs || d.held > mostDelayIDs {
			t.Fatalf("%d IDs are in memory, %d counted", n, d.held)
		}
	}
	for i := range 3 * mostDelayIDs {
		user := fmt.Sprint(i)
		place, _ := d.begin(user)
		d.keep(user, place, map[string]string{})
	}
	if len(d.cache) > mostDelayIDs {
		t.Fatalf("%d users without any are in memory", len(d.cache))
	}
	for user := range maps.Clone(d.cache) {
		d.drop(user)
	}
	if d.held != 0 {
		t.Errorf("%d are counted of none", d.held)
	}
}

func TestDelayIDsAtOnce(t *testing.T) {
	inBubble(t, func(b *bench) {
		var work sync.WaitGroup
		for range 8 {
			work.Go(func() {
				for range 20 {
					if _, err := b.QueryDelayIDs(b.Context(), "@alice:test"); err != nil {
						b.Error(err)
					}
					time.Sleep(50 * time.Millisecond)
				}
			})
		}
		want := map[string]string{}
		for range 5 {
			maps.Copy(want, b.sent())
		}
		work.Wait()
		synctest.Wait()
		if got := b.delayIDsOf("@alice:test"); !maps.Equal(got, want) {
			b.Errorf("the delay IDs are %v, want %v", got, want)
		}
	})
}

func BenchmarkNoDelayIDs(b *testing.B) {
	s := &Server{delayIDs: newDelayIDs()}
	for b.Loop() {
		s.QueryDelayIDs(b.Context(), "@alice:test") //nolint:errcheck // it reads nothing
	}
}
