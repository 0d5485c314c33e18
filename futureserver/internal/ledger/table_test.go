package ledger

import (
	"maps"
	"slices"
	"testing"
	"unsafe"

	"pgregory.net/rapid"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
)

// Compares the table with maps, and checks that nothing is left when all futures are dropped. All names have the same
// address in the index, so only the full hashes distinguish them.
func TestTableAgainstMaps(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		table := newTable()
		name := rapid.Custom(func(t *rapid.T) uint64 { return rapid.Uint64Range(1, 6).Draw(t, "name") << 16 })
		want := map[uint32]future{}
		t.Repeat(map[string]func(*rapid.T){
			"": func(t *rapid.T) { compareTable(t, &table, want) },
			"put": func(t *rapid.T) {
				f := future{record{nid: api.NID(len(want) + 1), user: name.Draw(t, "user")}, name.Draw(t, "room")}
				if rapid.Bool().Draw(t, "watched") {
					f.flags = watched
				}
				slot, r := table.put(f.record, f.room)
				if _, taken := want[slot]; taken || slot == 0 || table.at(slot) != r {
					t.Fatalf("slot %d was given to a second future", slot)
				}
				want[slot] = f
			},
			"drop": func(t *rapid.T) {
				if len(want) > 0 {
					slot := rapid.SampledFrom(slices.Sorted(maps.Keys(want))).Draw(t, "slot")
					table.drop(slot)
					delete(want, slot)
				}
			},
		})
		for slot := range want {
			table.drop(slot)
		}
		if table.scheduled+table.users.len+table.users.index.len()+table.rooms.index.len()+table.rooms.places.len()+table.users.lists.len() != 0 {
			t.Fatalf("the table is not empty, although all futures were dropped")
		}
	})
}

type future struct {
	record
	room uint64
}

func compareTable(t *rapid.T, table *table, want map[uint32]future) {
	users, rooms, watchers := map[uint64][]uint32{}, map[uint64]bool{}, map[uint64][]uint32{}
	for slot, f := range want {
		users[f.user] = append(users[f.user], slot)
		rooms[f.room] = true
		if f.flags&watched != 0 {
			watchers[f.room] = append(watchers[f.room], slot)
		}
		if r := table.at(slot); r.nid != f.nid || r.user != f.user || table.rooms.places.at(r.room).hash != f.room {
			t.Fatalf("slot %d holds %+v, want %+v", slot, r, f)
		}
	}
	for n := range uint64(8) {
		name := n << 16
		if got := slices.Sorted(slices.Values(table.slotsOf(name))); !slices.Equal(got, slices.Sorted(slices.Values(users[name]))) {
			t.Fatalf("user %d has the slots %v, want %v", n, got, users[name])
		}
		got := []uint32{}
		for slot := range table.watchedIn(name) {
			got = append(got, slot)
		}
		if slices.Sort(got); !slices.Equal(got, slices.Sorted(slices.Values(watchers[name]))) {
			t.Fatalf("in room %d %v are watched, want %v", n, got, watchers[name])
		}
	}
	if table.users.len != len(users) || table.rooms.places.len() != len(rooms) || table.scheduled != len(want) {
		t.Fatalf("%d futures, %d users, %d rooms; want %d, %d, %d",
			table.scheduled, table.users.len, table.rooms.places.len(), len(want), len(users), len(rooms))
	}
	lone := 0
	for _, slots := range users {
		if len(slots) == 1 {
			lone++
		}
	}
	if lists := table.users.lists.len(); lists != len(users)-lone {
		t.Fatalf("%d users have a list, %d have several futures", lists, len(users)-lone)
	}
}

// One more byte in a record would cost eight because of alignment. The goal for a future in all is 96 bytes.
func TestSizes(t *testing.T) {
	if record, entry := unsafe.Sizeof(record{}), unsafe.Sizeof(entry{}); record != 56 || entry != 6 {
		t.Errorf("a record takes %d bytes and an entry of the index %d", record, entry)
	}
}
