package internal

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
	"github.com/matrix-org/dendrite/futures/futureserver/internal/ledger"
	"github.com/matrix-org/dendrite/futures/futureserver/storage"
)

// delegations holds the delegations in force. A delegation ends when its delayed event is no longer scheduled; the same
// transaction deletes its row.
type delegations struct {
	byNID map[api.NID]*delegation
	byKey map[string]api.NID
}

type delegation struct {
	api.Delegation
	timeout time.Duration
	done    chan struct{}
	written *batch // stores it, and is not written yet; nil if there is none
}

func newDelegations() delegations {
	return delegations{byNID: make(map[api.NID]*delegation), byKey: make(map[string]api.NID)}
}

func (d *delegation) public() *api.Delegated {
	return &api.Delegated{Delegation: d.Delegation, Timeout: d.timeout, Done: d.done}
}

func (ds *delegations) put(nid api.NID, d *delegation) {
	ds.byNID[nid], ds.byKey[d.Key] = d, nid
}

// remove returns the removed delegation, nil if there was none.
func (ds *delegations) remove(nid api.NID) *delegation {
	d := ds.byNID[nid]
	if d != nil {
		delete(ds.byNID, nid)
		delete(ds.byKey, d.Key)
	}
	return d
}

// PerformDelegation implements api.Delegations.
func (s *Server) PerformDelegation(ctx context.Context, wanted api.Delegation) (*api.Delegated, error) {
	ctx, cancel := patiently(ctx)
	defer cancel()
	d, b, err := s.delegate(wanted)
	if err != nil {
		return nil, err
	}
	if b != nil {
		if err := b.wait(ctx); err != nil {
			return nil, err
		}
	}
	return d, nil
}

// delegate returns the batch to wait for, nil if there is none.
func (s *Server) delegate(wanted api.Delegation) (*api.Delegated, *batch, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopping {
		return nil, nil, api.ErrStopping
	}
	v, ok := s.ledger.Delayed(wanted.DelayID)
	if !ok || v.Arriving || v.State != api.Scheduled || !s.ledger.IsUser(v, wanted.UserID) || !s.ledger.IsRoom(v, wanted.RoomID) {
		return nil, nil, api.ErrGone
	}
	if v.Timeout < api.ShortestDelay {
		return nil, nil, api.ErrShortDelay
	}
	if known := s.delegations.byNID[v.NID]; known != nil && known.Key == wanted.Key && bytes.Equal(known.Job, wanted.Job) {
		if known.Starts == 0 {
			return known.public(), known.written, nil
		}
		known.Starts = 0
		return known.public(), s.storeDelegation(v.NID, known), nil
	}
	if wanted.Starts > 0 { // a confirmation of a delegation that is over
		return nil, nil, api.ErrGone
	}
	s.undelegate(v.NID)
	if older, ok := s.delegations.byKey[wanted.Key]; ok {
		s.undelegate(older)
	}
	wanted.Starts = 0
	d := &delegation{Delegation: wanted, timeout: v.Timeout, done: make(chan struct{})}
	s.delegations.put(v.NID, d)
	return d.public(), s.storeDelegation(v.NID, d), nil
}

// storeDelegation adds it to the gathering batch. Under the lock.
func (s *Server) storeDelegation(nid api.NID, d *delegation) *batch {
	body, err := json.Marshal(d.Delegation)
	if err != nil {
		panic(fmt.Sprintf("a delegation that is no JSON: %v", err)) // its maker has checked Job
	}
	b := s.batch()
	b.Delegations = append(b.Delegations, storage.Delegation{NID: nid, Body: body})
	d.written = b
	b.stored = append(b.stored, d)
	return b
}

// undelegate ends a delegation and leaves its delayed event scheduled. Under the lock.
func (s *Server) undelegate(nid api.NID) {
	if d := s.delegations.remove(nid); d != nil {
		b := s.batch()
		b.Delegations = append(b.Delegations, storage.Delegation{NID: nid})
		close(d.done)
	}
}

// endDelegations ends the delegations of the delayed events that this batch claims or ends. Under the lock.
func (s *Server) endDelegations(b *batch) {
	if len(s.delegations.byNID) == 0 {
		return
	}
	end := func(nid api.NID) {
		if d := s.delegations.remove(nid); d != nil {
			b.Delegations = append(b.Delegations, storage.Delegation{NID: nid})
			b.over = append(b.over, d)
		}
	}
	for i := range b.Claims {
		end(b.Claims[i].NID)
	}
	for i := range b.Ends {
		end(b.Ends[i].NID)
	}
}

// QueryDelegations implements api.Delegations.
func (s *Server) QueryDelegations() []*api.Delegated {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]*api.Delegated, 0, len(s.delegations.byNID))
	for _, d := range s.delegations.byNID {
		all = append(all, d.public())
	}
	return all
}

// recoverDelegations reads the delegations and restarts the timers of their delayed events, before anything is sent.
// Under the lock.
func (s *Server) recoverDelegations(ctx context.Context) error {
	b := s.batch()
	return s.db.SelectDelegations(ctx, func(row storage.Delegation) error {
		d := &delegation{done: make(chan struct{})}
		if err := json.Unmarshal(row.Body, &d.Delegation); err != nil {
			return fmt.Errorf("delegation %d: %w", row.NID, err)
		}
		v, ok := s.ledger.Delayed(d.DelayID)
		if !ok || v.NID != row.NID || v.State != api.Scheduled {
			b.Delegations = append(b.Delegations, storage.Delegation{NID: row.NID})
			return nil
		}
		d.timeout = v.Timeout
		d.Starts++
		s.delegations.put(v.NID, d)
		s.storeDelegation(v.NID, d)
		if d.Starts <= api.MaxStarts {
			s.extendForWatcher(v.Ref)
		}
		return nil
	})
}

// extendForWatcher restarts a timer. If the new deadline must be on disk to count, it is in the first batch. Under the
// lock.
func (s *Server) extendForWatcher(ref ledger.Ref) {
	if s.ledger.Refresh(ref, true, s.clock.time(), &s.next.Changes) == ledger.Dirty {
		s.kickLater()
	}
}
