// Package roomserver is the south adapter: the only place that talks to Dendrite's roomserver and to
// JetStream. On its way a future passes here three times: when it is scheduled (Room.Admit), when it is
// due (Room.Build, Room.Submit, Room.Verdict), and whenever the room's state changes in between
// (Consumer).
package roomserver

import (
	"context"
	"database/sql"
	"fmt"
	"slices"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
	rsapi "github.com/matrix-org/dendrite/roomserver/api"
	"github.com/matrix-org/dendrite/roomserver/types"
	"github.com/matrix-org/dendrite/setup/config"
	"github.com/matrix-org/gomatrixserverlib"
)

// Room is the real api.Room: the rooms that Dendrite's roomserver keeps. It is safe for concurrent use.
type Room struct {
	cfg      *config.Dendrite
	rsAPI    rsapi.RoomserverInternalAPI
	db       *sql.DB
	gates    *Gates
	answered answered

	messageStanding, stateStanding *sql.Stmt // see standing
}

var _ api.Room = (*Room)(nil)

// NewRoom returns the rooms of rsAPI. db is the roomserver's own database; it is read, never written:
// only there stands whether an event has reached the timeline. Others who make events in the rooms use the same gates.
func NewRoom(cfg *config.Dendrite, rsAPI rsapi.RoomserverInternalAPI, db *sql.DB, gates *Gates) (*Room, error) {
	message, state, err := prepareStanding(cfg, db)
	if err != nil {
		return nil, fmt.Errorf("the roomserver's database: %w", err)
	}
	return &Room{cfg: cfg, rsAPI: rsAPI, db: db, gates: gates, messageStanding: message, stateStanding: state}, nil
}

// Enter implements api.Room.
func (r *Room) Enter(ctx context.Context, roomID string) (leave func()) {
	return r.gates.Enter(ctx, roomID, "")
}

// Admit implements api.Room. It refuses senders who are not ours or not in the room, unknown rooms, events
// that a plain PDU cannot stand for (see sendable) and events that cannot be built, because they are too
// large or not canonical JSON. It costs one query, or one roomserver query for events with rules of their own, and
// writes nothing.
func (r *Room) Admit(ctx context.Context, f *api.Future) (string, error) {
	d, err := r.draft(f)
	if err != nil {
		return "", err
	}
	if d.harmless() {
		s, err := r.standing(ctx, d)
		if err != nil {
			return "", err
		}
		if !s.joined {
			return "", notInRoom()
		}
		version, err := gomatrixserverlib.GetRoomVersion(s.version)
		if err == nil && version.CheckCanonicalJSON(d.proto.Content) == nil {
			return s.current, nil
		}
	}
	room, err := r.snapshot(ctx, f.RoomID, d.tuples())
	if err != nil {
		return "", err
	}
	if err := r.sendable(f, d.content); err != nil {
		return "", err
	}
	if _, err := r.build(ctx, d, room); err != nil {
		return "", err
	}
	return room.current(d).ID, nil
}

// stateEvent is what the core knows of an event. In rooms that futures can live in a sender ID is a user ID.
func stateEvent(e *types.HeaderedEvent) api.StateEvent {
	return api.StateEvent{ID: e.EventID(), Sender: string(e.SenderID())}
}

// Current implements api.Room. It costs one roomserver query, however many keys there are. In a room that
// the server does not know, or no longer, nothing is set.
func (r *Room) Current(ctx context.Context, roomID string, keys []api.StateKeyTuple) ([]api.StateEvent, error) {
	now := make([]api.StateEvent, len(keys))
	if len(keys) == 0 {
		return now, nil // no tuples at all would mean the whole state
	}
	tuples := make([]gomatrixserverlib.StateKeyTuple, len(keys))
	for i, k := range keys {
		tuples[i] = gomatrixserverlib.StateKeyTuple{EventType: k.Type, StateKey: k.StateKey}
	}
	room, err := r.look(ctx, roomID, tuples)
	if err != nil {
		return nil, err
	}
	current := make(map[api.StateKeyTuple]api.StateEvent, len(room.StateEvents))
	for _, e := range room.StateEvents {
		current[api.StateKeyTuple{Type: e.Type(), StateKey: *e.StateKey()}] = stateEvent(e)
	}
	for i, k := range keys {
		now[i] = current[k]
	}
	return now, nil
}

// look reads pieces of a room's current state, with what an event that follows it must refer to. It sees
// committed state only. Dendrite needs about ten SQL queries for it, most of them answered from its caches,
// and not one more for each piece; its QueryCurrentState loads the whole state for each piece.
func (r *Room) look(ctx context.Context, roomID string, tuples []gomatrixserverlib.StateKeyTuple) (res rsapi.QueryLatestEventsAndStateResponse, err error) {
	slices.SortFunc(tuples, compareTuples)
	req := rsapi.QueryLatestEventsAndStateRequest{RoomID: roomID, StateToFetch: slices.Compact(tuples)}
	err = r.rsAPI.QueryLatestEventsAndState(ctx, &req, &res)
	return res, err
}
