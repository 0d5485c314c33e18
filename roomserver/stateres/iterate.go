package stateres

// pass checks the events in order against the partial state. Each event that is allowed is added to that state.
func (r *resolution) pass(list []int32) {
	authorising := make(map[Key]*Event, 8)
	for _, i := range list {
		e := r.events[i]
		if e.Rejected && !r.opts.AdmitRejected {
			continue
		}
		clear(authorising)
		for _, k := range r.rules.needed(e) {
			if by := r.authorising(i, k); by != nil {
				authorising[k] = by
			}
		}
		if r.rules.Allowed(e, authorising) == nil {
			r.state[e.Key()] = i
			r.admitted = append(r.admitted, i)
		}
	}
}

// authorising returns the event for a key against which event i is checked: that of the partial state, or else the one
// that event i cites. A cited event is not checked again and does not become part of the state.
func (r *resolution) authorising(i int32, k Key) *Event {
	if k == createKey && r.rules.Creators == CreatorsAboveAll {
		return r.create
	}
	if s, ok := r.state[k]; ok {
		if e := r.events[s]; e != nil && (!e.Rejected || r.opts.AdmitRejected) {
			return e
		}
	}
	for _, a := range r.auth(i) {
		if e := r.events[a]; e != nil && !e.Rejected && e.Key() == k {
			return e
		}
	}
	return nil
}
