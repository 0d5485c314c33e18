package internal

import (
	"slices"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
)

// groups are those with more than one future, or with a name that the client chose. They are rare.
type groups struct {
	byKey  map[string]*group
	bySlot map[uint32]*group
}

type group struct {
	key   string // groupKey(user, group ID)
	slots []uint32
}

func groupKey(userID, groupID string) string { return userID + "\x00" + groupID }

// openGroup finds the group that a user knows by that ID, nil if there is none. A future that is alone under
// its own group token becomes a group of one by being found.
func (t *table) openGroup(userID, groupID string) *group {
	if g := t.groups.byKey[groupKey(userID, groupID)]; g != nil {
		return g
	}
	token, ok := api.ParseToken(groupID)
	if !ok {
		return nil
	}
	for _, slot := range t.slotsOf(t.hash(userID)) { // at most as many as one user may have
		r := t.at(slot)
		if r.flags&(grouped|managed) == 0 && r.secret.Token(api.GroupToken) == token {
			return t.joinGroup(slot, r, userID, groupID)
		}
	}
	return nil
}

// joinGroup puts a record into the group of that ID, which it makes if need be.
func (t *table) joinGroup(slot uint32, r *record, userID, groupID string) *group {
	key := groupKey(userID, groupID)
	g := t.groups.byKey[key]
	if g == nil {
		g = &group{key: key}
		t.groups.byKey[key] = g
	}
	g.slots = append(g.slots, slot)
	t.groups.bySlot[slot] = g
	r.flags |= grouped
	return g
}

// groupOf returns a record's group, nil if it is alone under its own group token.
func (t *table) groupOf(slot uint32, r *record) *group {
	if r.flags&grouped == 0 {
		return nil
	}
	return t.groups.bySlot[slot]
}

func (t *table) leaveGroup(slot uint32, r *record) {
	g := t.groupOf(slot, r)
	if g == nil {
		return
	}
	g.slots = without(g.slots, slot)
	if len(g.slots) == 0 {
		delete(t.groups.byKey, g.key)
	}
	delete(t.groups.bySlot, slot)
	r.flags &^= grouped
}

// siblings returns the other futures of a record's group that are not being sent.
func (t *table) siblings(slot uint32, r *record) []uint32 {
	g := t.groupOf(slot, r)
	if g == nil {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(g.slots), func(other uint32) bool {
		return other == slot || t.at(other).flags&sending != 0
	})
}
