package internal

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
)

// The sender of a delayed event must recognise the event that was sent. The disk knows the IDs of all senders. Memory
// knows for certain which users have none, so their requests cost no I/O, and caches the IDs of the others.

const (
	senderBits    = 1 << 20 // 128 KiB, enough for a hundred thousand senders
	mostPerSender = 10_000
	mostDelayIDs  = 100_000 // of all senders, about 20 MB
)

// delayIDs maps sent events to the IDs of their delayed events. It is safe for concurrent use.
type delayIDs struct {
	senders [senderBits / 64]atomic.Uint64 // a Bloom filter by hash: no false negatives

	mu    sync.Mutex
	cache map[string]*senderIDs // by user ID; never older than the disk
	held  int                   // weight of the cached entries
}

// senderIDs are the IDs of one user; nil while they are being read.
type senderIDs struct{ byEvent map[string]string }

func (ids *senderIDs) weight() int { return 1 + len(ids.byEvent) }

func newDelayIDs() *delayIDs { return &delayIDs{cache: make(map[string]*senderIDs)} }

// addSender records that the user has, or will soon have, a sent delayed event.
func (d *delayIDs) addSender(userID string) {
	bit := fnv(userID) % senderBits
	d.senders[bit/64].Or(1 << (bit % 64))
}

func (d *delayIDs) isSender(userID string) bool {
	bit := fnv(userID) % senderBits
	return d.senders[bit/64].Load()&(1<<(bit%64)) != 0
}

// submit is called after the claim is on disk and before anybody can see the event.
func (d *delayIDs) submit(f *api.Future) {
	if !f.Policy.Has(api.Managed) {
		return
	}
	d.addSender(f.UserID)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.drop(f.UserID)
}

// drop removes the user's IDs from the cache. The result of a query in progress will not be kept. The caller must hold
// the lock.
func (d *delayIDs) drop(userID string) {
	if ids := d.cache[userID]; ids != nil && ids.byEvent != nil {
		d.held -= ids.weight()
	}
	delete(d.cache, userID)
}

// begin returns the user's IDs. If they are not cached, ids is nil and place is to be passed to keep.
func (d *delayIDs) begin(userID string) (place *senderIDs, ids map[string]string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	place = d.cache[userID]
	if place == nil {
		place = new(senderIDs)
		d.cache[userID] = place
	}
	return place, place.byEvent
}

// keep caches what was read unless the entry was dropped meanwhile. ids is nil after an error.
func (d *delayIDs) keep(userID string, place *senderIDs, ids map[string]string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.cache[userID] != place || place.byEvent != nil {
		return
	}
	if ids == nil {
		delete(d.cache, userID)
		return
	}
	place.byEvent = ids
	if d.held += place.weight(); d.held > mostDelayIDs {
		clear(d.cache)
		d.cache[userID], d.held = place, place.weight()
	}
}

// QueryDelayIDs implements api.FutureInternalAPI.
func (s *Server) QueryDelayIDs(ctx context.Context, userID string) (map[string]string, error) {
	if !s.delayIDs.isSender(userID) {
		return nil, nil
	}
	place, ids := s.delayIDs.begin(userID)
	if ids != nil {
		return ids, nil
	}
	ids, err := s.readDelayIDs(ctx, userID)
	s.delayIDs.keep(userID, place, ids)
	return ids, err
}

// readDelayIDs reads the IDs from disk: first those of events that are being sent, then those of sent events.
func (s *Server) readDelayIDs(ctx context.Context, userID string) (map[string]string, error) {
	underWay, err := s.db.LoadAll(ctx, s.underWay(userID))
	if err != nil {
		return nil, err
	}
	ids := make(map[string]string)
	for _, f := range underWay {
		if f.Event != nil && f.Policy.Has(api.Managed) && (f.State == api.Sending || f.State == api.Sent) {
			ids[f.Event.ID] = f.GroupID
		}
	}
	err = s.db.SelectSent(ctx, userID, mostPerSender, func(eventID, groupID string) { ids[eventID] = groupID })
	if err != nil {
		return nil, err
	}
	return ids, nil
}

// underWay lists the user's futures that are claimed, or were until a moment ago.
func (s *Server) underWay(userID string) []api.NID {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ledger.UnderWay(userID)
}
