package storagetest

import (
	"maps"
	"slices"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
	"github.com/matrix-org/dendrite/futures/futureserver/storage"
)

// model is storage.Database in short: what a batch does to futures, one after the other.
type model map[api.NID]*api.Future

func (m model) commit(b *storage.Batch) storage.Result {
	r := storage.Result{Duplicate: make([]bool, len(b.Inserts)), Lost: make([]bool, len(b.Claims))}
	for i, f := range b.Inserts {
		r.Duplicate[i] = m.insert(f)
	}
	for _, e := range b.Extends {
		if f := m[e.NID]; f != nil && f.State == api.Scheduled && (e.Exact || e.Deadline > f.Deadline) {
			f.Deadline = e.Deadline
		}
	}
	for i, c := range b.Claims {
		r.Lost[i] = !m.claim(c)
	}
	for _, e := range b.Ends {
		m.end(e)
	}
	for _, nid := range b.Undos {
		delete(m, nid)
	}
	for nid, f := range m {
		if !f.State.Live() && f.Finished < b.ForgetBefore {
			delete(m, nid)
			r.Forgotten++
		}
	}
	return r
}

func (m model) insert(f *api.Future) (duplicate bool) {
	if m[f.NID] != nil {
		return false
	}
	if len(m.ended(f.Secret)) > 0 {
		return true
	}
	stored := *f
	m[f.NID] = &stored
	return false
}

func (m model) claim(c storage.Claim) (won bool) {
	f := m[c.NID]
	if f == nil || !f.State.Live() || f.Event != nil && f.Event.ID != c.Event.ID {
		return false
	}
	f.State, f.Event = api.Sending, c.Event
	for _, nid := range c.Discards {
		m.end(storage.End{NID: nid, State: api.Discarded, At: c.At})
	}
	return true
}

func (m model) end(e storage.End) {
	if f := m[e.NID]; f != nil && f.State.Live() {
		f.State, f.Finished, f.Failure, f.Deadline = e.State, e.At, e.Failure, 0
	}
}

// ended returns the finished futures with that secret.
func (m model) ended(secret api.Secret) (futures []*api.Future) {
	for _, f := range m {
		if f.Secret == secret && !f.State.Live() {
			futures = append(futures, f)
		}
	}
	return futures
}

func (m model) groupUsed(userID, groupID string) bool {
	for _, f := range m {
		if f.UserID == userID && f.GroupID == groupID && !f.State.Live() {
			return true
		}
	}
	return false
}

// selected returns the futures that the filter selects, in its order. For live futures the storage does not check state
// and deadline.
func (m model) selected(filter api.Filter) (futures []*api.Future) {
	nids := slices.Sorted(maps.Keys(m))
	if filter.Backwards {
		slices.Reverse(nids)
	}
	for _, nid := range nids {
		f, of := m[nid], filter
		if of.States = of.Wanted(); f.State.Live() {
			of.From, of.Until = 0, 0
			if of.States&api.Live != 0 {
				of.States |= api.Live
			}
		}
		behind := filter.After == 0 || !filter.Backwards && nid > filter.After || filter.Backwards && nid < filter.After
		if behind && of.Matches(f) && (filter.Limit == 0 || len(futures) < filter.Limit) {
			futures = append(futures, f)
		}
	}
	return futures
}
