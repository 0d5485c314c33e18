package ledger

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
	"github.com/matrix-org/dendrite/futures/futureserver/storage"
)

// crash ends the process and restores a new ledger from disk. The changes that were being written are on disk or are not;
// later ones are lost.
func (h *history) crash() error {
	h.note("crash")
	h.crashed = true
	for _, c := range h.calls {
		h.names[groupName(c.f)] = true // it may have been stored
		h.world.Unanswered(groupName(c.f))
	}
	for _, ws := range h.waits {
		for _, w := range ws {
			h.world.Unanswered(groupName(h.known[w.nid].f))
		}
	}
	if h.writing != nil && h.IntN(2) == 0 {
		h.note("changes %d were written", h.writing.Number)
		if _, err := h.disk.apply(&h.writing.Batch); err != nil {
			return err
		}
	}
	h.now += []int64{0, 10, 20_000}[h.IntN(3)]
	h.calls, h.jobs, h.writing = nil, nil, nil
	clear(h.waits)
	h.l = New(testConfig(), h.time())
	h.next = &Changes{Number: h.next.Number + 1}
	var last api.NID
	for _, nid := range slices.Sorted(maps.Keys(h.disk.rows)) {
		last = nid
		h.names[groupName(h.disk.rows[nid].f)] = true
		if h.known[nid] == nil {
			h.world.Unanswered(groupName(h.disk.rows[nid].f)) // it was stored, but its creation was not answered
		}
		if r := h.disk.rows[nid]; r.state.Live() {
			f := h.l.Find(r.timer(), h.time())
			h.l.Restore(&f)
		}
	}
	h.l.Restored(last, h.time(), h.next)
	h.world.Restarted(h.at(h.now))
	return h.submit()
}

// finish runs until every future has ended, and checks that nothing is left.
func (h *history) finish() error {
	for range 200 {
		for len(h.calls) > 0 && !slices.ContainsFunc(h.calls, func(c *call) bool { return c.inserted }) {
			if err := h.advanceCall(); err != nil {
				return err
			}
		}
		h.begin()
		if err := h.end(); err != nil {
			return err
		}
		h.now += 2000
		h.due()
		for range 2 * len(h.jobs) {
			if err := h.fire(); err != nil {
				return err
			}
		}
		if h.l.Counts() == (api.Counts{}) && h.next.Rows() == 0 && len(h.calls) == 0 {
			break
		}
	}
	if n := h.l.Counts(); n != (api.Counts{}) {
		return fmt.Errorf("something is left in memory: %+v", n)
	}
	if h.l.Tokens()+h.l.Unsettled()+len(h.l.closing)+len(h.l.arrivals)+h.l.ends+len(h.l.groups.byName)+len(h.l.groups.bySlot) != 0 {
		return fmt.Errorf("%d tokens, %d secrets, %d names, %d arrivals, %d ends, %d groups are left",
			h.l.Tokens(), h.l.Unsettled(), len(h.l.closing), len(h.l.arrivals), h.l.ends, len(h.l.groups.byName))
	}
	for nid, r := range h.disk.rows {
		if r.state.Live() {
			return fmt.Errorf("future %d stays %v on disk for ever", nid, r.state)
		}
		if h.known[nid] == nil && !h.crashed {
			return fmt.Errorf("future %d has a row, although its creation was undone", nid)
		}
	}
	h.now += 10 * time.Hour.Milliseconds()
	return h.world.Late(h.at(h.now))
}

// disk is a simple storage.Database in memory.
type disk struct{ rows map[api.NID]*row }

type row struct {
	f         *api.Future
	state     api.State
	deadline  int64
	refreshed bool
	graced    int64
	event     string
}

func (r *row) timer() *storage.Timer {
	t := &storage.Timer{
		NID: r.f.NID, State: r.state, Policy: r.f.Policy, Secret: r.f.Secret, Deadline: r.deadline, Timeout: r.f.Timeout,
		UserID: []byte(r.f.UserID), RoomID: []byte(r.f.RoomID), Refreshed: r.refreshed, Graced: r.graced,
	}
	if r.f.GroupID != r.f.Token(api.GroupToken).String() {
		t.GroupID = []byte(r.f.GroupID)
	}
	if tuple, ok := r.f.Tuple(); ok {
		t.KeyHash = storage.KeyHash(tuple.Type, tuple.StateKey)
	}
	return t
}

func (d *disk) groupUsed(userID, groupID string) bool {
	for _, r := range d.rows {
		if r.f.UserID == userID && r.f.GroupID == groupID && !r.state.Live() {
			return true
		}
	}
	return false
}

func (d *disk) ended(secret api.Secret) bool {
	for _, r := range d.rows {
		if r.f.Secret == secret && !r.state.Live() {
			return true
		}
	}
	return false
}

func (d *disk) apply(b *storage.Batch) (result storage.Result, err error) {
	result = storage.Result{Duplicate: make([]bool, len(b.Inserts)), Lost: make([]bool, len(b.Claims))}
	for i, f := range b.Inserts {
		if result.Duplicate[i] = d.ended(f.Secret); !result.Duplicate[i] {
			d.rows[f.NID] = &row{f: f, state: api.Scheduled, deadline: f.Deadline}
		}
	}
	for _, e := range b.Extends {
		r := d.rows[e.NID]
		if r == nil || r.state != api.Scheduled {
			continue
		}
		switch {
		case e.Exact:
			r.deadline = e.Deadline
			if e.Grace {
				r.graced = e.Deadline
			}
		case e.Deadline > r.deadline:
			r.deadline, r.refreshed = e.Deadline, true
		}
	}
	for _, c := range b.Claims {
		r := d.rows[c.NID]
		if r == nil || r.state != api.Scheduled {
			return result, fmt.Errorf("future %d is claimed, but is not scheduled on disk", c.NID)
		}
		r.state, r.event = api.Sending, c.Event.ID
	}
	for _, e := range b.Ends {
		if r := d.rows[e.NID]; r != nil && r.state.Live() {
			r.state = e.State
		}
	}
	for _, nid := range b.Undos {
		delete(d.rows, nid)
	}
	return result, nil
}
