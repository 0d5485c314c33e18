package internal

import (
	"math"
	"slices"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
)

// record is a live future in memory: all that a heartbeat, a timer and a newer state event need. A million
// of them are plain arrays without a pointer, so the garbage collector has nothing to follow; content,
// event type and state key stay on disk.
type record struct {
	nid      api.NID
	deadline int64 // the true deadline in ms; 0 for an action future
	secret   api.Secret
	timeout  uint32 // ms; 0 for an action future
	room     uint32 // number in table.rooms
	user     uint32 // number in table.users
	group    uint32 // number in table.groups; 0 if it is alone under its own group token
	key      uint32 // hash of (type, state key); 0 if newer state does not concern it
	spare    uint16 // the stored deadline minus the true one, in units of spareUnit, rounded down
	state    api.State
	flags    mark
}

type mark uint8

const (
	creating  mark = 1 << iota // its insert is not committed yet: no token works, no timer runs
	doomed                     // ended while it was being created
	lookAgain                  // its piece of state changed while it was being created
	dirty                      // its stored deadline is to be raised with the next batch
	managed                    // a delayed event: one ID instead of tokens
)

// spareUnit is in ms; 16 bits of it are 17 minutes, more than any slack.
const spareUnit = 16

// high returns the stored deadline, or up to spareUnit less: no deadline beyond it was ever acknowledged.
func (r *record) high() int64 { return r.deadline + int64(r.spare)*spareUnit }

// move sets the true deadline and leaves the stored one.
func (r *record) move(deadline int64) {
	high := r.high()
	r.deadline, r.spare = deadline, 0
	r.raise(high)
}

// raise sets the stored deadline if that is higher.
func (r *record) raise(high int64) {
	if high > r.high() {
		r.spare = uint16(min((high-r.deadline)/spareUnit, math.MaxUint16))
	}
}

// owner is a user with live futures.
type owner struct {
	id    string
	slots []uint32
}

// group is a group with more than one future, or with a name that the client chose.
type group struct {
	key   string // groupKey(user, group ID)
	slots []uint32
}

func groupKey(userID, groupID string) string { return userID + "\x00" + groupID }

// table holds the live futures. It is not safe for concurrent use: the server's lock guards it.
type table struct {
	chunks [][]record // of chunkSize; records never move
	free   []uint32
	last   uint32 // the highest slot handed out; slot 0 is never used

	tokens index
	users  interned[owner]
	rooms  interned[room]
	groups interned[group]

	scheduled, sending int
}

const chunkBits = 12

func newTable() *table {
	return &table{
		users:  newInterned[owner](),
		rooms:  newInterned[room](),
		groups: newInterned[group](),
	}
}

// at returns the record in a slot.
func (t *table) at(slot uint32) *record {
	return &t.chunks[slot>>chunkBits][slot&(1<<chunkBits-1)]
}

// live returns the record in a slot if it still is that future.
func (t *table) live(slot uint32, nid api.NID) *record {
	if r := t.at(slot); r.nid == nid && r.state.Live() {
		return r
	}
	return nil
}

func (t *table) secretOf(slot uint32) *api.Secret { return &t.at(slot).secret }

// put stores r for the user and room in a free slot. Its tokens do not work yet.
func (t *table) put(r record, userID, roomID string) (uint32, *record) {
	r.user = t.users.number(userID, func() *owner { return &owner{id: userID} })
	r.room = t.rooms.number(roomID, func() *room { return &room{id: roomID} })
	slot := t.slot()
	*t.at(slot) = r
	u, rm := t.users.at(r.user), t.rooms.at(r.room)
	u.slots = append(u.slots, slot)
	rm.live++
	if r.key != 0 {
		rm.watched = append(rm.watched, slot)
	}
	return slot, t.at(slot)
}

func (t *table) slot() uint32 {
	if n := len(t.free); n > 0 {
		slot := t.free[n-1]
		t.free = t.free[:n-1]
		return slot
	}
	t.last++
	if t.last > maxSlot {
		panic("futureserver: a thousand million live futures are more than the table can hold")
	}
	if int(t.last>>chunkBits) >= len(t.chunks) {
		t.chunks = append(t.chunks, make([]record, 1<<chunkBits))
	}
	return t.last
}

// drop forgets the record: its slot is free for another.
func (t *table) drop(slot uint32) {
	r := t.at(slot)
	t.leaveGroup(slot, r)
	u, rm := t.users.at(r.user), t.rooms.at(r.room)
	u.slots = without(u.slots, slot)
	if len(u.slots) == 0 {
		t.users.drop(r.user, u.id)
	}
	if r.key != 0 {
		rm.watched = without(rm.watched, slot)
	}
	rm.live--
	t.tidyRoom(rm)
	t.count(r.state, -1)
	*r = record{}
	t.free = append(t.free, slot)
}

// tidyRoom forgets a room that nothing needs any more.
func (t *table) tidyRoom(rm *room) {
	if rm.live == 0 && !rm.busy && rm.aside == 0 && len(rm.queue) == 0 {
		t.rooms.drop(t.rooms.numbers[rm.id], rm.id)
	}
}

// setState changes a record's state and the counts with it.
func (t *table) setState(r *record, s api.State) {
	t.count(r.state, -1)
	r.state = s
	t.count(s, 1)
}

func (t *table) count(s api.State, n int) {
	switch s {
	case api.Scheduled:
		t.scheduled += n
	case api.Sending:
		t.sending += n
	}
}

// kinds lists the tokens that a record has.
func (r *record) kinds() []api.TokenKind {
	switch {
	case r.flags&managed != 0:
		return []api.TokenKind{api.GroupToken}
	case r.timeout == 0:
		return []api.TokenKind{api.SendToken, api.CancelToken}
	}
	return []api.TokenKind{api.SendToken, api.CancelToken, api.RefreshToken}
}

func (t *table) addTokens(slot uint32, r *record) {
	for _, k := range r.kinds() {
		t.tokens.add(r.secret.Token(k), slot, k)
	}
}

func (t *table) removeTokens(slot uint32, r *record) {
	for _, k := range r.kinds() {
		t.tokens.remove(r.secret.Token(k), slot, k)
	}
}

// openGroup finds the group that a user knows by that ID, or 0. A future that is alone under its own group
// token becomes a group of one by being found.
func (t *table) openGroup(userID, groupID string) uint32 {
	key := groupKey(userID, groupID)
	if g, ok := t.groups.numbers[key]; ok {
		return g
	}
	token, ok := api.ParseToken(groupID)
	if !ok {
		return 0
	}
	u, ok := t.users.numbers[userID]
	if !ok {
		return 0
	}
	for _, slot := range t.users.at(u).slots { // at most as many as one user may have
		r := t.at(slot)
		if r.group == 0 && r.flags&managed == 0 && r.state == api.Scheduled && r.secret.Token(api.GroupToken) == token {
			return t.joinGroup(slot, r, userID, groupID)
		}
	}
	return 0
}

// joinGroup puts a record into the group of that ID, which it makes if need be.
func (t *table) joinGroup(slot uint32, r *record, userID, groupID string) uint32 {
	key := groupKey(userID, groupID)
	r.group = t.groups.number(key, func() *group { return &group{key: key} })
	g := t.groups.at(r.group)
	g.slots = append(g.slots, slot)
	return r.group
}

func (t *table) leaveGroup(slot uint32, r *record) {
	if r.group == 0 {
		return
	}
	g := t.groups.at(r.group)
	g.slots = without(g.slots, slot)
	if len(g.slots) == 0 {
		t.groups.drop(r.group, g.key)
	}
	r.group = 0
}

// siblings returns the other futures of a record's group.
func (t *table) siblings(slot uint32, r *record) []uint32 {
	if r.group == 0 {
		return nil
	}
	return without(slices.Clone(t.groups.at(r.group).slots), slot)
}

// without removes one slot; the order of the others does not matter.
func without(slots []uint32, slot uint32) []uint32 {
	i := slices.Index(slots, slot)
	if i < 0 {
		return slots
	}
	last := len(slots) - 1
	slots[i] = slots[last]
	return slots[:last]
}

// interned gives things with a name small numbers, from 1 on.
type interned[T any] struct {
	numbers map[string]uint32
	things  []*T
	free    []uint32
}

func newInterned[T any]() interned[T] {
	return interned[T]{numbers: map[string]uint32{}, things: []*T{nil}}
}

func (in *interned[T]) at(n uint32) *T { return in.things[n] }

// number returns the number of the thing with that name, which it makes if it is new.
func (in *interned[T]) number(name string, make func() *T) uint32 {
	if n, ok := in.numbers[name]; ok {
		return n
	}
	n := uint32(len(in.things))
	if last := len(in.free) - 1; last >= 0 {
		n, in.free = in.free[last], in.free[:last]
		in.things[n] = make()
	} else {
		in.things = append(in.things, make())
	}
	in.numbers[name] = n
	return n
}

func (in *interned[T]) drop(n uint32, name string) {
	delete(in.numbers, name)
	in.things[n] = nil
	in.free = append(in.free, n)
}
