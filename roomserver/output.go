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

// What a message of the roomserver's output means for futures.

const (
	commitWait  = time.Second           // no longer, because other messages wait
	commitPause = 50 * time.Millisecond // the longest pause between two looks
	// commitTries is how often a message is redelivered because its event has not been committed. With the pauses this
	// takes longer than 5 min 10 s. After that time Dendrite processes an event again that it had begun before a crash,
	// and publishes it again.
	commitTries = 15

	lookupMax = 64 // events whose tuples are looked up; with more of them the whole room is compared
)

var errNotCommitted = errors.New("the roomserver has not committed the event")

// apply tells the futureserver what the message means. A message without a meaning for futures costs no I/O.
func (c *Consumer) apply(ctx context.Context, msg *nats.Msg, tries uint64) error {
	roomID := msg.Header.Get(jetstream.RoomID)
	switch rsapi.OutputType(msg.Header.Get(jetstream.RoomEventType)) {
	case rsapi.OutputTypePurgeRoom:
		return c.futures.PerformRoomPurge(ctx, roomID)
	case rsapi.OutputTypeNewRoomEvent:
	default:
		return nil // invites, peeks, redactions and old events change no current state
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
		return c.futures.PerformStateChange(ctx, roomID, nil) // an unreadable message may mean anything
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

// newEvent is the part of a rsapi.OutputNewRoomEvent that is about state.
type newEvent struct {
	id             string
	key            []api.StateKeyTuple // one, or none if the event is no state event
	rewrites       bool
	added, removed []string // other events
}

// readNewEvent decodes only the needed fields, which costs a fifth of decoding a whole event. It returns false if the
// message is not as expected.
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

// mayBeMembership reports whether somebody may have joined or left. read says whether the event could be read.
func (e *newEvent) mayBeMembership(read bool) bool {
	return !read || e.rewrites || len(e.added) > 0 || len(e.removed) > len(e.key) ||
		len(e.key) > 0 && e.key[0].Type == spec.MRoomMember
}

// changes returns which pieces of state the event may have changed; nil stands for all.
func (c *Consumer) changes(ctx context.Context, roomID string, e newEvent) ([]api.StateKeyTuple, error) {
	if e.rewrites {
		return nil, nil
	}
	// The event's own piece is included even if another event has won: comparing too often does no harm.
	changed := append([]api.StateKeyTuple{}, e.key...)
	if len(e.added) == 0 && len(e.removed) <= len(changed) {
		return changed, nil // the usual case: a message, or one event that replaces another
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

// committed waits until the event shows in the room's current state. Dendrite publishes an event before it commits the
// transaction that makes it current. An event that is not stored at all has been purged meanwhile.
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
