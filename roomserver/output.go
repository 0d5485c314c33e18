package roomserver

import (
	"context"
	"errors"
	"time"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
	rsapi "github.com/matrix-org/dendrite/roomserver/api"
	"github.com/matrix-org/dendrite/setup/jetstream"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/nats-io/nats.go"
	"github.com/tidwall/gjson"
)

// This file says what a message of the roomserver's output means for futures.

const (
	commitWait  = time.Second           // as long as it holds up others
	commitPause = 50 * time.Millisecond // the longest between two looks
	// commitTries is how often a message is put back because its event has not been committed. With the
	// delays between them that is longer than the 5 min 10 s after which Dendrite processes an event again
	// that it had begun before a crash; and then it publishes it again.
	commitTries = 15

	lookupMax = 64 // events whose tuples are looked up; beyond that the whole room is compared
)

var errNotCommitted = errors.New("the roomserver has not committed the event")

// apply tells the futureserver what the message means. Messages that mean nothing cost no I/O.
func (c *Consumer) apply(ctx context.Context, msg *nats.Msg, tries uint64) error {
	roomID := msg.Header.Get(jetstream.RoomID)
	switch rsapi.OutputType(msg.Header.Get(jetstream.RoomEventType)) {
	case rsapi.OutputTypePurgeRoom:
		return c.futures.PerformRoomPurge(ctx, roomID)
	case rsapi.OutputTypeNewRoomEvent:
	default:
		return nil // invites, peeks, redactions and old events change no room's current state
	}
	watched, inCall := c.futures.HasStateFutures(roomID), c.members != nil && c.members.InCall(roomID)
	if !watched && !inCall {
		return nil
	}
	event, ok := readNewEvent(msg.Data)
	if inCall && event.mayBeMembership(ok) {
		if ok && tries < commitTries {
			if err := c.committed(ctx, event.id); err != nil {
				return err
			}
		}
		c.members.MembersChanged(roomID)
	}
	if !watched {
		return nil
	}
	if !ok {
		return c.futures.PerformStateChange(ctx, roomID, nil) // it will never tell more than that
	}
	changed, err := c.changes(ctx, roomID, event)
	if err != nil || (changed != nil && len(changed) == 0) {
		return err
	}
	if tries < commitTries {
		if err := c.committed(ctx, event.id); err != nil {
			return err
		}
	}
	return c.futures.PerformStateChange(ctx, roomID, changed)
}

// newEvent is what a rsapi.OutputNewRoomEvent says about state.
type newEvent struct {
	id             string
	key            []api.StateKeyTuple // one, or none if the event is no state
	rewrites       bool
	added, removed []string // other events
}

// readNewEvent takes out only what is needed, for a fifth of what it costs to read an event whole. It reports false if
// the message is not as expected.
func readNewEvent(output []byte) (e newEvent, ok bool) {
	const event = "new_room_event."
	found := gjson.GetManyBytes(output, event+"event._event_id", event+"event.type", event+"event.state_key",
		event+"rewrites_state", event+"adds_state_event_ids", event+"removes_state_event_ids")
	id, kind, key := found[0], found[1], found[2]
	e.id = id.String()
	if key.Exists() {
		e.key = []api.StateKeyTuple{{Type: kind.String(), StateKey: key.String()}}
	}
	e.rewrites = found[3].Bool()
	for _, other := range found[4].Array() {
		if other.String() != e.id {
			e.added = append(e.added, other.String())
		}
	}
	for _, other := range found[5].Array() {
		e.removed = append(e.removed, other.String())
	}
	return e, id.Exists() && kind.Exists() && gjson.ValidBytes(output)
}

// mayBeMembership reports whether somebody may have come or gone; read says whether the event could be read.
func (e *newEvent) mayBeMembership(read bool) bool {
	return !read || e.rewrites || len(e.added) > 0 || len(e.removed) > len(e.key) ||
		len(e.key) > 0 && e.key[0].Type == spec.MRoomMember
}

// changes returns which pieces of state the event may have changed, nil for all of the room's.
func (c *Consumer) changes(ctx context.Context, roomID string, e newEvent) ([]api.StateKeyTuple, error) {
	if e.rewrites {
		return nil, nil
	}
	// The event's own, even if it has lost to another: comparing too often does no harm.
	changed := append([]api.StateKeyTuple{}, e.key...)
	if len(e.added) == 0 && len(e.removed) <= len(changed) {
		return changed, nil // the ordinary case: a message, or one event in another's place
	}
	ids := append(e.added, e.removed...)
	if len(ids) > lookupMax {
		return nil, nil
	}
	var res rsapi.QueryEventsByIDResponse
	err := c.room.rsAPI.QueryEventsByID(ctx, &rsapi.QueryEventsByIDRequest{RoomID: roomID, EventIDs: ids}, &res)
	if err != nil {
		return nil, err
	}
	if len(res.Events) < len(ids) {
		return nil, nil
	}
	for _, other := range res.Events {
		if key := other.StateKey(); key != nil {
			changed = append(changed, api.StateKeyTuple{Type: other.Type(), StateKey: *key})
		}
	}
	return changed, nil
}

// committed waits until the event shows in the room's current state. Dendrite publishes an event before it
// commits the transaction that makes it current. An event that is not stored at all has been purged since.
func (c *Consumer) committed(ctx context.Context, eventID string) error {
	wait, cancel := context.WithTimeout(ctx, commitWait)
	defer cancel()
	for pause := time.Millisecond; ; pause = min(2*pause, commitPause) {
		rows, err := c.room.rows(ctx, []string{eventID})
		if err != nil {
			return err
		}
		if row := rows[eventID]; row.sent || !row.stored {
			return nil
		}
		if !sleep(wait, pause) {
			return errNotCommitted
		}
	}
}
