package ledger

import (
	"encoding/base64"
	"hash/maphash"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
)

// groups holds the groups that have more than one future or a name that the client chose. They are rare.
type groups struct {
	byName map[name]*group
	bySlot map[uint32]*group
}

// name identifies a group: the hashes of a user ID and of the user's group ID.
type name struct{ user, id uint64 }

// shard is the index of Ledger.looks for the name.
func (n name) shard() uint8 { return uint8(n.id) }

// group is a set of futures of which at most one reaches its room; settle ensures this.
type group struct {
	name    name
	slots   []uint32
	founded bool // one of its futures has been stored; before that it cannot be over
	over    bool
}

func (t *table) newName(user uint64, groupID string) name {
	return name{user, maphash.String(t.seed, groupID)}
}

// nameOf returns the name of a record's group. named is false for a delayed event, whose group has no name.
func (t *table) nameOf(slot uint32, r *record) (n name, named bool) {
	switch {
	case r.flags&grouped != 0:
		return t.groups.bySlot[slot].name, true
	case r.flags&managed != 0:
		return name{}, false
	}
	return t.ownName(r), true
}

// ownName is the name of the group of a future that was created without a group ID.
func (t *table) ownName(r *record) name {
	token := r.secret.Token(api.GroupToken)
	var text [22]byte // the token's wire form
	base64.RawURLEncoding.Encode(text[:], token[:])
	return name{r.user, maphash.Bytes(t.seed, text[:])}
}

// openGroup finds the user's group with that ID, nil if there is none. If the ID is the group token of a future that is
// alone, openGroup makes a group with that future in it.
func (t *table) openGroup(user uint64, groupID string) *group {
	if g := t.groups.byName[t.newName(user, groupID)]; g != nil {
		return g
	}
	token, ok := api.ParseToken(groupID)
	if !ok {
		return nil
	}
	for _, slot := range t.slotsOf(user) { // the limit per user bounds this search
		r := t.at(slot)
		if r.flags&(grouped|managed) == 0 && r.secret.Token(api.GroupToken) == token {
			g := t.joinGroup(slot, r, t.newName(user, groupID))
			g.founded = r.flags&creating == 0
			return g
		}
	}
	return nil
}

// adoptFounders puts futures of the user into the groups that are named after their group tokens.
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

// joinGroup puts a record into the group with that name. It makes the group if there is none.
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

// groupOf returns a record's group, nil if the future is alone and was created without a group ID.
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
