package internal

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
)

// A delayed event that has become an event in a room is to be recognised there by its sender. The disk knows
// which they are. Memory knows for certain who has none, so that their requests cost nothing, and keeps what it
// has read of the others.

const (
	senderBits    = 1 << 20 // 128 KiB, enough to tell a hundred thousand senders from everybody else
	mostPerSender = 10_000
	mostDelayIDs  = 100_000 // of all senders, about 20 MB
)

// delayIDs finds the IDs of delayed events by their event. It is safe for concurrent use.
type delayIDs struct {
	senders [senderBits / 64]atomic.Uint64 // by hash: nobody is missing, and some may be in it by chance

	mu    sync.Mutex
	cache map[string]*senderIDs // by user ID; never behind the disk
	held  int                   // the weight of what is in it
}

// senderIDs are one user's; nil while they are being read.
type senderIDs struct{ byEvent map[string]string }

func (ids *senderIDs) weight() int { return 1 + len(ids.byEvent) }

func newDelayIDs() *delayIDs { return &delayIDs{cache: make(map[string]*senderIDs)} }

// addSender notes that the user has, or will soon have, a delayed event in a room.
func (d *delayIDs) addSender(userID string) {
	bit := fnv(userID) % senderBits
	d.senders[bit/64].Or(1 << (bit % 64))
}

func (d *delayIDs) isSender(userID string) bool {
	bit := fnv(userID) % senderBits
	return d.senders[bit/64].Load()&(1<<(bit%64)) != 0
}

// submit is called before the claimed event can be seen by anybody, and after the claim is on disk.
func (d *delayIDs) submit(f *api.Future) {
	if !f.Policy.Has(api.Managed) {
		return
	}
	d.addSender(f.UserID)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.drop(f.UserID)
}

// drop has the user's IDs read anew; a reading that is under way is not kept. Under the lock.
func (d *delayIDs) drop(userID string) {
	if ids := d.cache[userID]; ids != nil && ids.byEvent != nil {
		d.held -= ids.weight()
	}
	delete(d.cache, userID)
}

// begin returns the user's IDs, or, with nil in it, where keep is to put them.
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

// keep remembers what was read, if it was not overtaken; nil after an error.
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

// readDelayIDs asks the disk: first for what is on its way, then for what has arrived.
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

// underWay lists those of a user's futures that are claimed, or were until a moment ago.
func (s *Server) underWay(userID string) []api.NID {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ledger.UnderWay(userID)
}
