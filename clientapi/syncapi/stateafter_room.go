package syncapi

import (
	"cmp"
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strings"

	rstypes "github.com/matrix-org/dendrite/roomserver/types"
	"github.com/matrix-org/dendrite/syncapi/synctypes"
	"github.com/matrix-org/dendrite/syncapi/types"
	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/tidwall/gjson"
)

// stateQuestion holds the parameters of one /sync request that concern each room.
type stateQuestion struct {
	db              syncDatabase
	userID          string
	since, next     types.StreamPosition // the range to report, including next
	filter          synctypes.StateFilter
	format          synctypes.ClientEventFormat
	userIDForSender spec.UserIDForSender
}

// stateEvent is a state event as clients see it.
type stateEvent struct {
	id, kind, key string
	json          json.RawMessage
	inState       bool // Dendrite lists it in the state section, not only in the timeline
}

// stateEvents returns the state events of a state or timeline section.
func stateEvents(section json.RawMessage) (events []stateEvent) {
	for _, e := range gjson.GetBytes(section, "events").Array() {
		if key := e.Get("state_key"); key.Exists() {
			events = append(events, stateEvent{
				id: e.Get("event_id").String(), kind: e.Get("type").String(), key: key.String(), json: json.RawMessage(e.Raw),
			})
		}
	}
	return events
}

// stateAfter returns the state_after of a room; room is the section of Dendrite's response.
//
// Dendrite's state section contains the journal between since and the timeline, filtered, and two kinds of events that
// are in no journal: members for lazy loading, and the state of a newly joined room. So the journal decides about all
// events that are in it. Of the other events, those that Dendrite lists are kept. They may be newer than next_batch;
// then the next sync contains them again.
func (q *stateQuestion) stateAfter(ctx context.Context, roomID string, room object, left bool) ([]json.RawMessage, error) {
	listed, timeline := stateEvents(room["state"]), stateEvents(room["timeline"])
	known := make(map[string]stateEvent, len(listed)+len(timeline))
	for _, e := range timeline {
		known[e.id] = e
	}
	for _, e := range listed {
		e.inState = true
		known[e.id] = e
	}
	from, err := q.start(ctx, timeline)
	if err != nil {
		return nil, err
	}
	changes, err := q.db.changes(ctx, roomID, from, q.next)
	if err != nil {
		return nil, err
	}
	journaled := mentioned(changes)
	switch {
	case left:
		if changes, err = q.untilLeave(ctx, changes, known); err != nil {
			return nil, err
		}
	case q.since < q.next && len(changes) > 0:
		if err := q.complete(ctx, roomID, changes, known); err != nil {
			return nil, err
		}
	}
	return q.merge(replay(changes), journaled, known), nil
}

// addUnlisted adds joined rooms that Dendrite leaves out although their state has changed. Dendrite compares the filter
// with the event that caused a change, which is not always the event that is now in the state, and on SQLite it does
// not understand * in a filter. In these cases the request waits for its whole timeout, but the change is not lost.
func (q *stateQuestion) addUnlisted(ctx context.Context, joined map[string]object, fields []string) error {
	if q.since >= q.next {
		return nil
	}
	changed, err := q.db.changedRooms(ctx, q.userID, q.since, q.next)
	for _, roomID := range changed {
		if joined[roomID] != nil {
			continue
		}
		events, err := q.stateAfter(ctx, roomID, nil, false)
		if err != nil {
			return err
		}
		if len(events) > 0 {
			joined[roomID] = object{}
			if err := putSection(joined[roomID], fields, events); err != nil {
				return err
			}
		}
	}
	return err
}

// start returns the position from which the journal is read: since, or the start of the timeline if that is earlier. In
// a newly joined room it is earlier.
func (q *stateQuestion) start(ctx context.Context, timeline []stateEvent) (types.StreamPosition, error) {
	ids := make([]string, len(timeline))
	for i, e := range timeline {
		ids[i] = e.id
	}
	oldest, err := q.db.oldest(ctx, ids)
	if err != nil || oldest == 0 {
		return q.since, err
	}
	return min(q.since, oldest-1), nil
}

// complete fetches the state events of a joined room that are not in Dendrite's response: those that a filter removed
// from the timeline, those that state resolution restored, and after a join perhaps the whole state.
func (q *stateQuestion) complete(ctx context.Context, roomID string, changes []stateChange, known map[string]stateEvent) error {
	own, err := q.db.ownMemberships(ctx, roomID, q.userID, q.since, q.next)
	if err != nil {
		return err
	}
	switch {
	case !slices.ContainsFunc(own, enters):
		return q.fetch(ctx, slices.Collect(maps.Keys(mentioned(changes))), known)
	case enters(own[len(own)-1]):
		return nil // Dendrite has seen the join and returned the whole state, with lazily loaded members
	}
	// The user changed their profile right after the join, so Dendrite did not recognise the room as newly joined.
	state, err := q.db.state(ctx, roomID, !q.filter.LazyLoadMembers)
	for _, e := range q.clientEvents(state) {
		if _, ok := known[e.id]; !ok {
			e.inState = true
			known[e.id] = e
		}
	}
	return err
}

// enters reports whether a membership event is a join by a user who was not joined before.
func enters(event *rstypes.HeaderedEvent) bool {
	return gjson.GetBytes(event.Content(), "membership").String() == spec.Join &&
		gjson.GetBytes(event.Unsigned(), "prev_content.membership").String() != spec.Join
}

// untilLeave removes the changes after the user left, which the user must not see. If the user was never in the room,
// it removes all changes.
func (q *stateQuestion) untilLeave(ctx context.Context, changes []stateChange, known map[string]stateEvent) ([]stateChange, error) {
	if err := q.fetch(ctx, slices.Collect(maps.Keys(mentioned(changes))), known); err != nil {
		return nil, err
	}
	end, last, seen, wasIn := len(changes), "", false, false
	for i, c := range changes {
		for _, id := range c.added {
			e := known[id]
			if e.kind != spec.MRoomMember || e.key != q.userID {
				continue
			}
			if !seen {
				seen, wasIn = true, gjson.GetBytes(e.json, "unsigned.prev_content.membership").String() == spec.Join
			}
			last = id
			if gjson.GetBytes(e.json, "content.membership").String() == spec.Join {
				end, wasIn = len(changes), true
			} else {
				end = min(end, i+1)
			}
		}
	}
	if wasIn {
		return changes[:end], nil
	}
	for id := range known {
		if id != last {
			delete(known, id)
		}
	}
	return []stateChange{{added: eventIDs{last}}}, nil
}

// fetch reads the unknown ones of these events from the database.
func (q *stateQuestion) fetch(ctx context.Context, ids []string, known map[string]stateEvent) error {
	missing := slices.DeleteFunc(ids, func(id string) bool { _, ok := known[id]; return ok })
	events, err := q.db.events(ctx, missing)
	for _, e := range q.clientEvents(events) {
		known[e.id] = e
	}
	return err
}

// clientEvents returns events in the form in which Dendrite shows them.
func (q *stateQuestion) clientEvents(events []*rstypes.HeaderedEvent) (shown []stateEvent) {
	for _, e := range synctypes.ToClientEvents(gomatrixserverlib.ToPDUs(events), q.format, q.userIDForSender) {
		if text, err := json.Marshal(e); err == nil && e.StateKey != nil {
			shown = append(shown, stateEvent{id: e.EventID, kind: e.Type, key: *e.StateKey, json: text})
		}
	}
	return shown
}

// mentioned returns the IDs of all events that were added or removed.
func mentioned(changes []stateChange) map[string]bool {
	all := make(map[string]bool)
	for _, c := range changes {
		for _, id := range slices.Concat(c.added, c.removed) {
			all[id] = true
		}
	}
	return all
}

// replay returns the IDs of the events that were added and not removed again, latest first.
func replay(changes []stateChange) []string {
	came := make(map[string]int)
	for i, c := range changes {
		if c.rewrites {
			clear(came)
		}
		for _, id := range c.removed {
			delete(came, id)
		}
		for _, id := range c.added {
			came[id] = i
		}
	}
	return slices.SortedFunc(maps.Keys(came), func(a, b string) int {
		return cmp.Or(came[b]-came[a], strings.Compare(a, b))
	})
}

// merge returns the events that stayed and the rest of the known state, filtered.
func (q *stateQuestion) merge(stayed []string, journaled map[string]bool, known map[string]stateEvent) []json.RawMessage {
	type tuple struct{ kind, key string }
	taken := make(map[tuple]bool)
	events := []json.RawMessage{} // not nil: no events are [], not null
	show := func(e stateEvent) {
		if at := (tuple{e.kind, e.key}); !taken[at] {
			taken[at] = true
			if q.shows(e) {
				events = append(events, e.json)
			}
		}
	}
	for _, id := range stayed {
		if e, ok := known[id]; ok {
			show(e)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(known)) {
		if e := known[id]; e.inState && !journaled[id] {
			show(e)
		}
	}
	slices.Reverse(events) // the latest comes last, as everywhere
	return events
}

// shows reports whether the filter accepts a state event. Members for lazy loading are accepted even if the filter does
// not name their type.
func (q *stateQuestion) shows(e stateEvent) bool {
	f := &q.filter
	if f.LazyLoadMembers && e.inState && e.kind == spec.MRoomMember {
		return true
	}
	sender := gjson.GetBytes(e.json, "sender").String()
	isKind := func(pattern string) bool { return matchesType(pattern, e.kind) }
	return (f.Types == nil || slices.ContainsFunc(*f.Types, isKind)) &&
		(f.NotTypes == nil || !slices.ContainsFunc(*f.NotTypes, isKind)) &&
		(f.Senders == nil || slices.Contains(*f.Senders, sender)) &&
		(f.NotSenders == nil || !slices.Contains(*f.NotSenders, sender)) &&
		(f.ContainsURL == nil || *f.ContainsURL == gjson.GetBytes(e.json, "content.url").Exists())
}

// matchesType compares an event type with a type of a filter, in which * stands for any text.
func matchesType(pattern, eventType string) bool {
	parts := strings.Split(pattern, "*")
	first, last := parts[0], len(parts)-1
	if last == 0 {
		return pattern == eventType
	}
	rest, ok := strings.CutPrefix(eventType, first)
	for _, part := range parts[1:last] {
		if ok {
			_, rest, ok = strings.Cut(rest, part)
		}
	}
	return ok && strings.HasSuffix(rest, parts[last])
}
