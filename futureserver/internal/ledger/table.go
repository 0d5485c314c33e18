package ledger

import (
	"hash/maphash"
	"math"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
)

// record is a live future in memory: what a heartbeat, a timer and newer state need. It has no pointer, so the garbage
// collector does not scan the records. The content, the event type, the state key and the names of user and room are on
// disk only.
type record struct {
	nid      api.NID // 0: the slot is free
	deadline int64   // the true deadline in ms; 0 for an action future
	user     uint64  // hash of the user ID
	secret   api.Secret
	timeout  uint32 // ms; 0 for an action future
	room     uint32 // number in table.rooms
	next     uint32 // slot of the next watched future of the room
	spare    uint16 // the stored deadline minus the true one, in units of spareUnit, rounded down
	key      uint8  // keyFilter of (type, state key), if it is watched
	flags    mark
}

type mark uint8

const (
	sending   mark = 1 << iota // claimed; otherwise scheduled
	creating                   // it is an arrival: its row is not on disk, no token works, no timer runs
	dirty                      // its stored deadline must be raised with the next changes
	raising                    // its true deadline exceeds the one on disk until the next changes are written
	refreshed                  // it has been refreshed
	managed                    // a delayed event: one ID instead of tokens
	watched                    // newer state can end it
	grouped                    // it is in a group of table.groups
)

// state returns the record's state, 0 if the slot is free.
func (r *record) state() api.State {
	switch {
	case r.nid == 0:
		return 0
	case r.flags&sending != 0:
		return api.Sending
	}
	return api.Scheduled
}

// keyFilter cuts a storage.KeyHash to 8 bits. One in 256 other keys collides and costs a lookup in vain.
func keyFilter(keyHash uint32) uint8 { return uint8(keyHash >> 24) }

// spareUnit is the unit of record.spare, in ms. 16 bits hold 17 minutes, which is more than any slack.
const spareUnit = 16

// high returns the stored deadline, or up to spareUnit less. No later deadline was ever acknowledged. If the record is
// raising, high returns the true deadline, which is not on disk yet.
func (r *record) high() int64 { return r.deadline + int64(r.spare)*spareUnit }

// move sets the true deadline and keeps the stored one.
func (r *record) move(deadline int64) {
	high := r.high()
	r.deadline, r.spare = deadline, 0
	r.setHigh(high)
}

// setHigh sets the stored deadline, unless it is higher already.
func (r *record) setHigh(high int64) {
	if high > r.high() {
		r.spare = uint16(min((high-r.deadline)/spareUnit, math.MaxUint16))
	}
}

// confirm notes that this deadline is on disk.
func (r *record) confirm(high int64) {
	if high >= r.deadline {
		r.flags &^= raising
		r.setHigh(high)
	}
}

// table holds the live futures and finds them by token, user, room and group.
type table struct {
	seed    maphash.Seed
	records slab[record] // the number of a record is its slot

	tokens index // finds refs by the token
	users  users
	rooms  rooms
	groups groups

	scheduled, sending int
}

func newTable() table {
	return table{
		seed:   maphash.MakeSeed(),
		groups: groups{byName: make(map[name]*group), bySlot: make(map[uint32]*group)},
	}
}

// addressOf returns the address of a name's hash.
func addressOf(hash uint64) address { return address{shard: uint8(hash >> 56), print: uint16(hash)} }

// at returns the record in a slot.
func (t *table) at(slot uint32) *record { return t.records.at(slot) }

// deadlineOf tells the wheel the deadline of a slot.
func (t *table) deadlineOf(slot uint32) int64 { return t.at(slot).deadline }

// live returns the record of a future, nil if the future has left memory.
func (t *table) live(ref Ref) *record {
	if ref.Slot == 0 || ref.Slot > t.records.last {
		return nil
	}
	if r := t.at(ref.Slot); r.nid == ref.NID {
		return r
	}
	return nil
}

// put stores r in a free slot; room is the hash of its room. It does not add its tokens.
func (t *table) put(r record, room uint64) (uint32, *record) {
	r.room = t.rooms.number(room)
	slot := t.records.add(r)
	if slot > maxSlot {
		panic("futureserver: the table cannot hold more than 1,073,741,823 live futures")
	}
	rec := t.at(slot)
	t.enterUser(slot, rec)
	t.enterRoom(slot, rec)
	t.count(rec.state(), 1)
	return slot, rec
}

// drop removes a record. Its slot will be reused.
func (t *table) drop(slot uint32) {
	r := t.at(slot)
	t.leaveGroup(slot, r)
	t.leaveUser(slot, r)
	t.leaveRoom(slot, r)
	t.count(r.state(), -1)
	t.records.drop(slot)
}

// claim changes a scheduled record to sending.
func (t *table) claim(r *record) {
	t.count(api.Scheduled, -1)
	r.flags |= sending
	t.count(api.Sending, 1)
}

func (t *table) count(s api.State, n int) {
	switch s {
	case api.Scheduled:
		t.scheduled += n
	case api.Sending:
		t.sending += n
	}
}
