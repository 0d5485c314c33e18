package ledger

import "slices"

// users finds the futures of a user. Most users have one future, which is an entry in the index. A user with several has
// a list.
type users struct {
	index index // holds slots, and numbers of lists with the bit several
	lists slab[[]uint32]
	len   int
}

// several marks a number in the index as the number of a list.
const several = 1 << 31

// findUser returns the user's entry in the index: a slot or the number of a list.
func (t *table) findUser(user uint64) (number uint32, ok bool) {
	return t.users.index.find(addressOf(user), func(n uint32) bool {
		if n&several != 0 {
			n = (*t.users.lists.at(n &^ several))[0]
		}
		return t.at(n).user == user
	})
}

// slotsOf returns the slots of a user's futures. The caller must not change the slice, and it changes with the table.
func (t *table) slotsOf(user uint64) []uint32 {
	n, ok := t.findUser(user)
	switch {
	case !ok:
		return nil
	case n&several == 0:
		return []uint32{n}
	}
	return *t.users.lists.at(n &^ several)
}

// enterUser adds the slot to the user's futures.
func (t *table) enterUser(slot uint32, r *record) {
	n, ok := t.findUser(r.user)
	switch {
	case !ok:
		t.users.index.add(addressOf(r.user), slot)
		t.users.len++
	case n&several == 0:
		t.users.index.replace(addressOf(r.user), n, several|t.users.lists.add([]uint32{n, slot}))
	default:
		list := t.users.lists.at(n &^ several)
		*list = append(*list, slot)
	}
}

func (t *table) leaveUser(slot uint32, r *record) {
	n, _ := t.findUser(r.user)
	if n&several == 0 {
		t.users.index.remove(addressOf(r.user), n)
		t.users.len--
		return
	}
	list := t.users.lists.at(n &^ several)
	if *list = without(*list, slot); len(*list) == 1 {
		t.users.index.replace(addressOf(r.user), n, (*list)[0])
		t.users.lists.drop(n &^ several)
	}
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
