package ledger

import (
	"encoding/base64"
	"hash/maphash"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
)

// groups are those with more than one future, or with a name that the client chose. They are rare.
type groups struct {
	byName map[name]*group
	bySlot map[uint32]*group
}

// name is a group's: the hashes of a user and of what the user calls it.
type name struct{ user, id uint64 }

// shard is a part of all names.
func (n name) shard() uint8 { return uint8(n.id) }

// group is a set of futures of which at most one reaches its room; settle keeps that so.
type group struct {
	name    name
	slots   []uint32
	founded bool // a future of it was stored: from then on it can be over
	over    bool
}

func (t *table) newName(user uint64, groupID string) name {
	return name{user, maphash.String(t.seed, groupID)}
}

// nameOf returns the name of a record's group; named is false for a delayed event, whose group has none.
func (t *table) nameOf(slot uint32, r *record) (n name, named bool) {
	switch {
	case r.flags&grouped != 0:
		return t.groups.bySlot[slot].name, true
	case r.flags&managed != 0:
		return name{}, false
	}
	return t.ownName(r), true
}

// ownName is the name of the group that a future has for itself.
func (t *table) ownName(r *record) name {
	token := r.secret.Token(api.GroupToken)
	var text [22]byte // as the wire has it
	base64.RawURLEncoding.Encode(text[:], token[:])
	return name{r.user, maphash.Bytes(t.seed, text[:])}
}

// openGroup finds the group that a user knows by that ID, nil if there is none. A future that is alone under its own
// group token becomes a group of one by being found.
func (t *table) openGroup(user uint64, groupID string) *group {
	if g := t.groups.byName[t.newName(user, groupID)]; g != nil {
		return g
	}
	token, ok := api.ParseToken(groupID)
	if !ok {
		return nil
	}
	for _, slot := range t.slotsOf(user) { // at most as many as one user may have
		r := t.at(slot)
		if r.flags&(grouped|managed) == 0 && r.secret.Token(api.GroupToken) == token {
			g := t.joinGroup(slot, r, t.newName(user, groupID))
			g.founded = r.flags&creating == 0
			return g
		}
	}
	return nil
}

// adoptFounders has the futures of a user that were alone under their own group token join the groups of that name.
func (t *table) adoptFounders(user uint64) {
	for _, slot := range t.slotsOf(user) {
		r := t.at(slot)
		if r.flags&(grouped|managed) != 0 {
			continue
		}
		if n := t.ownName(r); t.groups.byName[n] != nil {
			t.joinGroup(slot, r, n)
		}
	}
}

// list returns all groups.
func (gs *groups) list() (all []*group) {
	for _, g := range gs.byName {
		all = append(all, g)
	}
	return all
}

// joinGroup puts a record into the group of that name, which it makes if need be.
func (t *table) joinGroup(slot uint32, r *record, n name) *group {
	g := t.groups.byName[n]
	if g == nil {
		g = &group{name: n}
		t.groups.byName[n] = g
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
		delete(t.groups.byName, g.name)
	}
	delete(t.groups.bySlot, slot)
	r.flags &^= grouped
}
