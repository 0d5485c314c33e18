package storagetest

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
	"github.com/matrix-org/dendrite/futures/futureserver/storage"
)

// Few values, so that they collide; odd ones, because clients send anything.
var (
	users  = []string{"@alice:example.org", "@\x00bob\xff:example.org"}
	rooms  = []string{"!a:example.org", "!b\x00:example.org"}
	keys   = []string{"", "@alice:example.org", "\xed\xa0\x80\x00'\\"}
	groups = []string{"", "call", "\x00\xfe"}
)

// tb is what we need of testing.T and rapid.T.
type tb interface {
	Helper()
	Context() context.Context
	Fatal(...any)
	Fatalf(string, ...any)
}

// random applies random batches to the database and to the model, reopens the database now and then, and compares.
func random(t *testing.T, create Source) {
	rapid.Check(t, func(rt *rapid.T) {
		opts := create(t)
		db := open(rt, opts)
		defer func() { db.Close() }()
		m, d := model{}, drawer{T: rt}
		for range rapid.IntRange(1, 12).Draw(rt, "batches") {
			b := d.batch()
			for range rapid.IntRange(1, 2).Draw(rt, "times") {
				want := m.commit(b)
				if got, err := db.Commit(t.Context(), b); err != nil {
					rt.Fatal(err)
				} else if !reflect.DeepEqual(got, want) {
					rt.Fatalf("the batch's result is %+v, want %+v", got, want)
				}
			}
			if rapid.IntRange(0, 3).Draw(rt, "reopen") == 0 {
				db.Close()
				db = open(rt, opts)
				compare(rt, db, m, d.drawn)
			}
			compareTimers(rt, db, m)
		}
		compare(rt, db, m, d.drawn)
	})
}

// drawer draws batches about futures that are, were, will be or never were stored.
type drawer struct {
	*rapid.T
	drawn []*api.Future // drawn[i] has the NID i+1
}

func (d *drawer) batch() *storage.Batch {
	b := &storage.Batch{}
	known := len(d.drawn)
	for _, i := range rapid.SliceOfNDistinct(rapid.IntRange(0, known+3), 0, 5, rapid.ID).Draw(d.T, "inserts") {
		if i < known {
			b.Inserts = append(b.Inserts, d.drawn[i]) // once more
		} else {
			f := d.future(api.NID(len(d.drawn) + 1))
			d.drawn = append(d.drawn, f)
			b.Inserts = append(b.Inserts, f)
		}
	}
	for range d.int(0, 4, "extends") {
		b.Extends = append(b.Extends, storage.Extend{NID: d.nid(), Deadline: d.time(), Exact: rapid.Bool().Draw(d.T, "exact")})
	}
	for range d.int(0, 3, "claims") {
		c := storage.Claim{NID: d.nid(), At: d.time()}
		id := fmt.Sprintf("$%d-%d", c.NID, d.int(0, 1, "event"))
		c.Event = &api.Event{ID: id, PDU: []byte(`{"id":"` + id + "\x00" + `"}`)}
		for range d.int(0, 2, "discards") {
			c.Discards = append(c.Discards, d.nid())
		}
		b.Claims = append(b.Claims, c)
	}
	for range d.int(0, 3, "ends") {
		e := storage.End{NID: d.nid(), At: d.time(), State: api.State(d.int(int(api.Sent), int(api.Discarded), "state"))}
		if e.State == api.Failed {
			e.Failure = &api.Refusal{Kind: api.Forbidden, Message: "not you,\x00 \xff"}
		}
		b.Ends = append(b.Ends, e)
	}
	if n := d.int(0, 3*len(b.Inserts), "undo"); n > 0 && n <= len(b.Inserts) {
		nid := b.Inserts[n-1].NID
		b.Undos = append(b.Undos, nid)
	}
	if rapid.Bool().Draw(d.T, "forget") {
		b.ForgetBefore = d.time()
	}
	return b
}

func (d *drawer) future(nid api.NID) *api.Future {
	f := sample(nid)
	f.UserID = rapid.SampledFrom(users).Draw(d.T, "user")
	f.RoomID = rapid.SampledFrom(rooms).Draw(d.T, "room")
	if g := rapid.SampledFrom(groups).Draw(d.T, "group"); g != "" {
		f.GroupID = g
	}
	if rapid.Bool().Draw(d.T, "message") {
		f.StateKey, f.Base = nil, ""
	} else {
		key := rapid.SampledFrom(keys).Draw(d.T, "state key")
		f.StateKey = &key
	}
	if n := d.int(0, 5, "transaction"); n > 0 {
		f.Secret = api.Secret{0, byte(n), 0xff}
	}
	if rapid.Bool().Draw(d.T, "action") {
		f.Timeout, f.Deadline = 0, 0
	} else {
		f.Deadline = d.time()
	}
	return f
}

func (d *drawer) nid() api.NID { return api.NID(d.int(1, len(d.drawn)+1, "nid")) }

func (d *drawer) time() int64 { return int64(d.int(1, 100, "ms")) }

func (d *drawer) int(lo, hi int, label string) int { return rapid.IntRange(lo, hi).Draw(d.T, label) }

// sample is a timeout future for a piece of state, with different values in all fields.
func sample(nid api.NID) *api.Future {
	stateKey := fmt.Sprintf("key %d", nid)
	f := &api.Future{
		NID: nid, Secret: api.Secret{byte(nid), byte(nid >> 8), byte(nid >> 16), 0, 0xff}, State: api.Scheduled, Policy: api.CancelOnNewerState,
		UserID: users[0], RoomID: rooms[0], Type: fmt.Sprintf("type %d", nid), StateKey: &stateKey,
		Content: []byte(fmt.Sprintf(`{"n":%d}`, nid)),
		Timeout: time.Duration(nid) * time.Second, Deadline: 1e12 + int64(nid)*1000, Created: 1e12,
		Base: fmt.Sprintf("$base %d", nid), DeviceID: "DEVICE\x00", SessionID: 1<<62 + int64(nid), TxnID: fmt.Sprintf("txn \xff%d", nid),
	}
	f.GroupID = f.Token(api.GroupToken).String()
	return f
}

// compare compares everything in all ways.
func compare(t tb, db storage.Database, m model, drawn []*api.Future) {
	t.Helper()
	compareTimers(t, db, m)
	for _, f := range drawn {
		got, err := db.Load(t.Context(), f.NID)
		check(t, "Load", got, err, m[f.NID])
		got, err = db.LoadEnded(t.Context(), f.Secret)
		want := m.ended(f.Secret) // several here, because this test does not make sure that only one is live at a time
		if i := slices.IndexFunc(want, func(f *api.Future) bool { return got != nil && f.NID == got.NID }); i >= 0 {
			want = want[i:]
		}
		check(t, "LoadEnded", got, err, first(want))
		used, err := db.GroupUsed(t.Context(), f.UserID, f.GroupID)
		check(t, "GroupUsed", used, err, m.groupUsed(f.UserID, f.GroupID))
		compareBase(t, db, m, f.NID)
	}
	for _, f := range filters {
		got, err := db.Select(t.Context(), f)
		check(t, fmt.Sprintf("Select(%+v)", f), got, err, m.selected(f))
	}
	compareAll(t, db, m, drawn)
}

// filters are some filters of administrators.
var filters = []api.Filter{
	{}, {Limit: 2}, {RoomID: rooms[1]}, {RoomID: rooms[1], Limit: 1}, {After: 3}, {After: 5, Backwards: true, Limit: 2},
	{States: api.Finished}, {States: api.Live | api.Finished}, {States: 1<<api.Sent | 1<<api.Scheduled, UserID: users[0]},
	{States: 1 << api.Failed, Backwards: true}, {States: api.Finished, Kind: api.DelayedKind}, {Kind: api.OneOfGroup}, {NID: 4},
	{States: api.Live | api.Finished, NID: 2}, {States: api.Finished, From: 20}, {States: api.Live | api.Finished, From: 5, Until: 30},
}

func first(futures []*api.Future) *api.Future {
	if len(futures) == 0 {
		return nil
	}
	return futures[0]
}

// compareAll queries all drawn futures, and one that was never drawn, from the last on.
func compareAll(t tb, db storage.Database, m model, drawn []*api.Future) {
	t.Helper()
	nids := []api.NID{1 << 40}
	var want []*api.Future
	for _, f := range drawn {
		nids = append(nids, f.NID)
		if m[f.NID] != nil {
			want = append(want, m[f.NID])
		}
	}
	slices.Reverse(nids)
	slices.SortFunc(want, func(a, b *api.Future) int { return cmp.Compare(a.NID, b.NID) })
	got, err := db.LoadAll(t.Context(), nids)
	check(t, "LoadAll", got, err, want)
}

func compareBase(t tb, db storage.Database, m model, nid api.NID) {
	t.Helper()
	var want storage.Base
	isState := false
	if f := m[nid]; f != nil {
		if want.StateKeyTuple, isState = f.Tuple(); isState {
			want.EventID, want.UserID, want.Policy = f.Base, f.UserID, f.Policy
		}
	}
	got, ok, err := db.LoadBase(t.Context(), nid)
	check(t, "LoadBase", got, err, want)
	check(t, "LoadBase", ok, nil, isState)
}

// compareTimers compares the narrow table, which is all that a restart reads.
func compareTimers(t tb, db storage.Database, m model) {
	t.Helper()
	var got, want []storage.Timer
	highest, err := db.Scan(t.Context(), func(timer *storage.Timer) error {
		c := *timer
		c.UserID, c.RoomID, c.GroupID = slices.Clone(c.UserID), slices.Clone(c.RoomID), append([]byte{}, c.GroupID...)
		got = append(got, c)
		return nil
	})
	for _, f := range m.selected(api.Filter{}) {
		w := storage.Timer{NID: f.NID, State: f.State, Policy: f.Policy, Secret: f.Secret, Deadline: f.Deadline, Timeout: f.Timeout,
			UserID: []byte(f.UserID), RoomID: []byte(f.RoomID), GroupID: []byte(f.GroupID)}
		if tuple, ok := f.Tuple(); ok {
			w.KeyHash = storage.KeyHash(tuple.Type, tuple.StateKey)
		}
		if f.GroupID == f.Token(api.GroupToken).String() {
			w.GroupID = []byte{}
		}
		want = append(want, w)
	}
	for i := range got {
		got[i].Refreshed = false // tested elsewhere
	}
	check(t, "Scan", got, err, want)
	check(t, "Scan: the highest NID", highest, nil, slices.Max(append(slices.Collect(maps.Keys(m)), 0)))
}

func check(t tb, what string, got any, err error, want any) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("%s returned\n%+v, want\n%+v", what, got, want)
	}
}
