// Package storagetest is the contract of storage.Database as a suite of tests, which both databases pass: by examples,
// and with random batches against a model.
package storagetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/setup/config"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
	"github.com/matrix-org/dendrite/futures/futureserver/storage"
)

// Run runs the suite. Each test creates a database of its own.
func Run(t *testing.T, create Source) {
	for name, test := range map[string]func(*testing.T, Source){
		"Empty":       empty,
		"WholeLife":   wholeLife,
		"Extend":      extend,
		"Claim":       claim,
		"Duplicate":   duplicate,
		"Repeat":      repeat,
		"Group":       group,
		"Poison":      poison,
		"Forget":      forget,
		"Restart":     restart,
		"Undo":        undo,
		"Large":       large,
		"Cancel":      cancelled,
		"Exclusive":   exclusive,
		"Random":      random,
		"ReadBeside":  readBeside,
		"Sent":        sent,
		"Delegations": delegations,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, create)
		})
	}
}

func open(t tb, opts *config.DatabaseOptions) storage.Database {
	t.Helper()
	db, err := Open(opts)
	if err != nil {
		t.Fatal(err)
	}
	return db
}

func commit(t testing.TB, db storage.Database, b *storage.Batch) storage.Result {
	t.Helper()
	r, err := db.Commit(t.Context(), b)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func load(t testing.TB, db storage.Database, nid api.NID) *api.Future {
	t.Helper()
	f, err := db.Load(t.Context(), nid)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func samples(nids ...api.NID) (futures []*api.Future) {
	for _, nid := range nids {
		futures = append(futures, sample(nid))
	}
	return futures
}

func event(id string) *api.Event { return &api.Event{ID: id, PDU: []byte(`{"id":"` + id + `"}`)} }

func empty(t *testing.T, create Source) {
	db := MustOpen(t, create(t))
	compare(t, db, model{}, samples(0, 1))
	r := commit(t, db, &storage.Batch{})
	if len(r.Duplicate)+len(r.Lost)+r.Forgotten != 0 {
		t.Errorf("an empty batch did %+v", r)
	}
}

// wholeLife puts one future's life into one batch, and then into five with restarts in between.
func wholeLife(t *testing.T, create Source) {
	batches := []*storage.Batch{
		{Inserts: samples(7, 8)},
		{Extends: []storage.Extend{{NID: 7, Deadline: 2e12}}},
		{Claims: []storage.Claim{{NID: 7, Event: event("$seven"), At: 5, Discards: []api.NID{8}}}},
		{Ends: []storage.End{{NID: 7, State: api.Sent, At: 6}}},
	}
	together := &storage.Batch{}
	m, opts := model{}, create(t)
	for _, b := range batches {
		together.Inserts = append(together.Inserts, b.Inserts...)
		together.Extends = append(together.Extends, b.Extends...)
		together.Claims = append(together.Claims, b.Claims...)
		together.Ends = append(together.Ends, b.Ends...)
		m.commit(b)
		db := MustOpen(t, opts)
		commit(t, db, b)
		compare(t, db, m, samples(7, 8))
		db.Close()
	}
	db := MustOpen(t, create(t))
	commit(t, db, together)
	compare(t, db, m, samples(7, 8))
	if f := load(t, db, 7); f.State != api.Sent || f.Finished != 6 || f.Event.ID != "$seven" || f.Secret != sample(7).Secret {
		t.Errorf("after its life the future is %+v", f)
	}
}

func extend(t *testing.T, create Source) {
	db := MustOpen(t, create(t))
	commit(t, db, &storage.Batch{Inserts: samples(1, 2, 3)})
	commit(t, db, &storage.Batch{Claims: []storage.Claim{{NID: 3, Event: event("$3")}}})
	was := sample(1).Deadline
	for _, c := range []struct {
		name    string
		extends []storage.Extend
		want    int64
	}{
		{"raise", []storage.Extend{{NID: 1, Deadline: was + 10}}, was + 10},
		{"never lower", []storage.Extend{{NID: 1, Deadline: was}}, was + 10},
		{"lower exactly", []storage.Extend{{NID: 1, Deadline: was - 1, Exact: true}}, was - 1},
		{"the highest counts", []storage.Extend{{NID: 1, Deadline: was + 2}, {NID: 1, Deadline: was + 3}, {NID: 1, Deadline: was + 1}}, was + 3},
		{"exact, then higher", []storage.Extend{{NID: 1, Deadline: was + 9}, {NID: 1, Deadline: was, Exact: true}, {NID: 1, Deadline: was + 1}}, was + 1},
		{"unknown", []storage.Extend{{NID: 99, Deadline: was + 9}}, was + 1},
	} {
		commit(t, db, &storage.Batch{Extends: c.extends})
		if got := load(t, db, 1).Deadline; got != c.want {
			t.Errorf("%s: the deadline is %d, want %d", c.name, got, c.want)
		}
	}
	commit(t, db, &storage.Batch{Extends: []storage.Extend{{NID: 3, Deadline: 3e12}, {NID: 3, Deadline: 1, Exact: true}}})
	if load(t, db, 2).Deadline != sample(2).Deadline || load(t, db, 3).Deadline != sample(3).Deadline {
		t.Error("an extension touched another future, or one that is being sent")
	}
}

func claim(t *testing.T, create Source) {
	db := MustOpen(t, create(t))
	m := model{}
	do := func(b *storage.Batch, wantLost ...bool) {
		t.Helper()
		m.commit(b)
		if r := commit(t, db, b); !slices.Equal(r.Lost, wantLost) {
			t.Errorf("lost: %v, want %v", r.Lost, wantLost)
		}
		compare(t, db, m, samples(1, 2, 3, 4, 5))
	}
	do(&storage.Batch{Inserts: samples(1, 2, 3, 4, 5)})
	// The second future is discarded by the first, so its claim must discard nothing.
	do(&storage.Batch{Claims: []storage.Claim{
		{NID: 1, Event: event("$1"), At: 10, Discards: []api.NID{2, 99}},
		{NID: 2, Event: event("$2"), At: 11, Discards: []api.NID{3}},
		{NID: 3, Event: event("$3"), At: 12},
	}}, false, true, false)
	// Another event for the same future, and for one that has ended or never existed.
	do(&storage.Batch{Claims: []storage.Claim{
		{NID: 1, Event: event("$other"), Discards: []api.NID{4}},
		{NID: 2, Event: event("$2"), Discards: []api.NID{4}},
		{NID: 99, Event: event("$99"), Discards: []api.NID{4}},
		{NID: 4, Event: event("$4")},
		{NID: 4, Event: event("$4b"), Discards: []api.NID{5}},
	}}, true, true, true, false, true)
	if f := load(t, db, 1); f.Event.ID != "$1" || f.State != api.Sending {
		t.Errorf("the claimed future is %+v", f)
	}
	if f := load(t, db, 5); f.State != api.Scheduled {
		t.Errorf("a lost claim discarded a future: %+v", f)
	}
}

func duplicate(t *testing.T, create Source) {
	opts := create(t)
	db := MustOpen(t, opts)
	m := model{}
	do := func(b *storage.Batch, want ...bool) {
		t.Helper()
		m.commit(b)
		for range 2 { // the second time as if the first was unknown
			if r := commit(t, db, b); !slices.Equal(r.Duplicate, want) {
				t.Errorf("duplicate: %v, want %v", r.Duplicate, want)
			}
		}
	}
	do(&storage.Batch{Inserts: samples(1, 2)}, false, false)
	do(&storage.Batch{Ends: []storage.End{{NID: 1, State: api.Cancelled, At: 1}}})
	again := samples(3, 4)
	again[0].Secret, again[1].Secret = sample(1).Secret, sample(3).Secret
	do(&storage.Batch{Inserts: again}, true, false)
	compare(t, db, m, samples(1, 2, 3, 4))

	key := db.Key()
	db.Close()
	if db = MustOpen(t, opts); len(key) != 32 || !slices.Equal(db.Key(), key) {
		t.Error("the key has changed")
	}
	if other := MustOpen(t, create(t)); slices.Equal(other.Key(), key) {
		t.Error("two databases have one key")
	}
	do(&storage.Batch{ForgetBefore: 2})
	do(&storage.Batch{Inserts: again[:1]}, false)
	compare(t, db, m, samples(1, 2, 3, 4))
}

// repeat commits batches twice, as after a commit whose result is unknown.
func repeat(t *testing.T, create Source) {
	db := MustOpen(t, create(t))
	m := model{}
	for _, b := range []*storage.Batch{
		{Inserts: samples(1, 2, 3, 4)},
		{Claims: []storage.Claim{{NID: 1, Event: event("$1"), At: 5, Discards: []api.NID{2}}}},
		{Extends: []storage.Extend{{NID: 3, Deadline: 1, Exact: true}}, Ends: []storage.End{{NID: 4, State: api.Cancelled, At: 5}}},
	} {
		m.commit(b)
		r := commit(t, db, b)
		if again := commit(t, db, b); slices.Contains(again.Duplicate, true) || slices.Contains(again.Lost, true) {
			t.Errorf("the batch's result is %+v, and %+v when repeated", r, again)
		}
		compare(t, db, m, samples(1, 2, 3, 4))
	}
}

func group(t *testing.T, create Source) {
	db := MustOpen(t, create(t))
	named := sample(1)
	named.GroupID = "call\x00"
	commit(t, db, &storage.Batch{Inserts: []*api.Future{named, sample(2), sample(3)}})
	commit(t, db, &storage.Batch{Ends: []storage.End{{NID: 1, State: api.Sent, At: 10}, {NID: 2, State: api.Discarded, At: 20}}})
	for _, c := range []struct {
		user, group string
		want        bool
	}{
		{users[0], named.GroupID, true},
		{users[0], sample(2).GroupID, true},
		{users[0], sample(3).GroupID, false}, // it is live, so memory knows it
		{users[0], "call", false},
		{users[1], named.GroupID, false},
	} {
		if used, err := db.GroupUsed(t.Context(), c.user, c.group); err != nil || used != c.want {
			t.Errorf("GroupUsed(%q, %q) = %v, %v", c.user, c.group, used, err)
		}
	}
	commit(t, db, &storage.Batch{ForgetBefore: 11})
	if used, err := db.GroupUsed(t.Context(), users[0], named.GroupID); err != nil || used {
		t.Errorf("GroupUsed of a forgotten group = %v, %v", used, err)
	}
}

// poison makes a batch fail in the middle: none of it may stay, and the next one must work.
func poison(t *testing.T, create Source) {
	db := MustOpen(t, create(t))
	commit(t, db, &storage.Batch{Inserts: samples(1)})
	thief := sample(1)
	thief.Secret = api.NewSecret()
	_, err := db.Commit(t.Context(), &storage.Batch{
		Inserts: []*api.Future{sample(2), thief, sample(3)},
		Ends:    []storage.End{{NID: 1, State: api.Cancelled, At: 1}},
	})
	if err == nil {
		t.Fatal("two futures share a number")
	}
	m := model{}
	m.commit(&storage.Batch{Inserts: samples(1)})
	compare(t, db, m, samples(1, 2, 3))
	commit(t, db, &storage.Batch{Inserts: samples(2)})
	m.commit(&storage.Batch{Inserts: samples(2)})
	compare(t, db, m, samples(1, 2, 3))
}

func forget(t *testing.T, create Source) {
	db := MustOpen(t, create(t))
	b := &storage.Batch{}
	for nid := api.NID(1); nid <= 1500; nid++ {
		b.Inserts = append(b.Inserts, sample(nid))
		b.Ends = append(b.Ends, storage.End{NID: nid, State: api.Sent, At: int64(nid)})
	}
	b.Ends[9].NID = 9 // the tenth is live, and 9 has already ended
	commit(t, db, b)
	for _, c := range []struct {
		before int64
		want   int
	}{{1500, 1000}, {1500, 498}, {1500, 0}, {1501, 1}} {
		if r := commit(t, db, &storage.Batch{ForgetBefore: c.before}); r.Forgotten != c.want {
			t.Errorf("%d futures that finished before %d were forgotten, want %d", r.Forgotten, c.before, c.want)
		}
	}
	m := model{}
	m.commit(&storage.Batch{Inserts: samples(10)})
	compare(t, db, m, samples(9, 10, 1500))
}

// large stores the largest possible event, many times.
func large(t *testing.T, create Source) {
	db := MustOpen(t, create(t))
	m, b := model{}, &storage.Batch{}
	for nid := api.NID(1); nid <= 40; nid++ {
		f := sample(nid)
		f.Content = slices.Repeat([]byte{'x', byte(nid), 0, 0xff}, 1<<14)
		b.Inserts = append(b.Inserts, f)
	}
	m.commit(b)
	commit(t, db, b)
	compare(t, db, m, b.Inserts)
}

// cancelled: a caller gives up. Nothing is applied, the error says so, and the next batch works.
func cancelled(t *testing.T, create Source) {
	db := MustOpen(t, create(t))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := db.Commit(ctx, &storage.Batch{Inserts: samples(1)}); !errors.Is(err, context.Canceled) {
		t.Errorf("Commit returned %v", err)
	}
	if _, err := db.Load(ctx, 1); !errors.Is(err, context.Canceled) {
		t.Errorf("Load returned %v", err)
	}
	compare(t, db, model{}, samples(1))
	commit(t, db, &storage.Batch{Inserts: samples(1)})
	stop := errors.New("enough")
	if _, err := db.Scan(t.Context(), func(*storage.Timer) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("Scan returned %v, not what each returned", err)
	}
}

// exclusive: a second server starts while the first one runs, and after it.
func exclusive(t *testing.T, create Source) {
	opts := create(t)
	first := MustOpen(t, opts)
	started := time.Now()
	if second, err := Open(opts); !errors.Is(err, storage.ErrLocked) {
		if err == nil {
			second.Close()
		}
		t.Fatalf("a second server opened the database: %v", err)
	}
	if d := time.Since(started); d > 10*time.Second {
		t.Errorf("it took %v to see that the database is in use", d)
	}
	commit(t, first, &storage.Batch{Inserts: samples(1)})
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	started = time.Now()
	if load(t, MustOpen(t, opts), 1) == nil {
		t.Error("the second server does not find the first one's future")
	}
	if d := time.Since(started); d > 2*time.Second {
		t.Errorf("opening took %v though the first server was gone", d)
	}
}

// readBeside reads during writes, and writes during reads.
func readBeside(t *testing.T, create Source) {
	db := MustOpen(t, create(t))
	commit(t, db, &storage.Batch{Inserts: samples(1, 2, 3)})
	done := make(chan error, 1)
	go func() {
		var err error
		for range 100 {
			if err == nil {
				_, err = db.Load(context.Background(), 1)
			}
		}
		done <- err
	}()
	_, err := db.Scan(t.Context(), func(timer *storage.Timer) error {
		b := &storage.Batch{Extends: []storage.Extend{{NID: timer.NID, Deadline: 3e12}}}
		if _, err := db.Commit(t.Context(), b); err != nil {
			return err
		}
		_, _, err := db.LoadBase(t.Context(), timer.NID)
		return err
	})
	if err = errors.Join(err, <-done); err != nil {
		t.Fatal(err)
	}
}

// delegations are stored, replaced and deleted in order, and survive a restart and a repeated commit.
func delegations(t *testing.T, create Source) {
	opts := create(t)
	db := MustOpen(t, opts)
	check := func(want ...string) {
		t.Helper()
		var got []string
		err := db.SelectDelegations(t.Context(), func(d storage.Delegation) error {
			got = append(got, fmt.Sprint(d.NID, string(d.Body)))
			return nil
		})
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%v %v, want %v", got, err, want)
		}
	}
	check()
	first := &storage.Batch{Inserts: samples(1, 2), Delegations: []storage.Delegation{
		{NID: 2, Body: []byte("a")}, {NID: 1, Body: []byte("b")}, {NID: 2}, {NID: 2, Body: []byte("c")}, {NID: 3},
	}}
	for range 2 {
		commit(t, db, first)
		check("1b", "2c")
	}
	db.Close()
	db = open(t, opts)
	defer db.Close()
	check("1b", "2c")
	commit(t, db, &storage.Batch{
		Ends:        []storage.End{{NID: 1, State: api.Cancelled, At: 5}},
		Delegations: []storage.Delegation{{NID: 1}, {NID: 2, Body: []byte("d")}},
	})
	check("2d")
}
