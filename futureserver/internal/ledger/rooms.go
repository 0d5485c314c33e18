package ledger

// rooms holds the rooms with live futures.
type rooms struct {
	index  index      // finds the number of a room by its hash
	places slab[room] // by number
}

// room is a room with live futures.
type room struct {
	hash    uint64 // of the room ID
	live    uint32 // number of live futures in it
	watched uint32 // slot of its first watched future; record.next links to the others
}

func (rs *rooms) find(hash uint64) (number uint32, ok bool) {
	return rs.index.find(addressOf(hash), func(n uint32) bool { return rs.places.at(n).hash == hash })
}

// number returns the number of a room. A room that is new gets one.
func (rs *rooms) number(hash uint64) uint32 {
	if n, ok := rs.find(hash); ok {
		return n
	}
	n := rs.places.add(room{hash: hash})
	rs.index.add(addressOf(hash), n)
	return n
}

// forget drops a room that has no live future.
func (rs *rooms) forget(n uint32) {
	p := rs.places.at(n)
	if p.live == 0 {
		rs.index.remove(addressOf(p.hash), n)
		rs.places.drop(n)
	}
}

// roomOf returns the hash of a record's room.
func (t *table) roomOf(r *record) uint64 { return t.rooms.places.at(r.room).hash }

func (t *table) enterRoom(slot uint32, r *record) {
	p := t.rooms.places.at(r.room)
	p.live++
	if r.flags&watched != 0 {
		r.next, p.watched = p.watched, slot
	}
}

func (t *table) leaveRoom(slot uint32, r *record) {
	p := t.rooms.places.at(r.room)
	p.live--
	if r.flags&watched != 0 {
		link := &p.watched
		for *link != slot {
			link = &t.at(*link).next
		}
		*link = r.next
	}
	t.rooms.forget(r.room)
}

// watchedIn yields the watched futures of a room.
func (t *table) watchedIn(room uint64) func(yield func(uint32, *record) bool) {
	return func(yield func(uint32, *record) bool) {
		n, ok := t.rooms.find(room)
		if !ok {
			return
		}
		for slot := t.rooms.places.at(n).watched; slot != 0; slot = t.at(slot).next {
			if !yield(slot, t.at(slot)) {
				return
			}
		}
	}
}
