// Package roomserver is the south adapter: the only place that talks to Dendrite's roomserver and to JetStream. A
// future needs it three times: when it is scheduled (Room.Admit), when it is due (Room.Build, Room.Submit,
// Room.Verdict), and whenever the room's state changes in between (Consumer).
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

// Room implements api.Room with the rooms of Dendrite's roomserver. It is safe for concurrent use.
type Room struct {
	cfg      *config.Dendrite
	rsAPI    rsapi.RoomserverInternalAPI
	db       *sql.DB
	gates    *Gates
	answered answered

	messageStanding, stateStanding *sql.Stmt // see standing.go
}

var _ api.Room = (*Room)(nil)

// NewRoom returns the rooms of rsAPI. db is the roomserver's own database. It is only read, because nothing else tells
// whether an event has reached the timeline. Other writers to the rooms use the same gates.
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

// Admit implements api.Room. It refuses senders of other servers and senders who are not in the room, unknown rooms,
// events that a plain PDU cannot stand for (see sendable), and events that are too large or not canonical JSON. It
// costs one SQL query, or one roomserver query for events with rules of their own, and writes nothing.
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

// stateEvent is what the core knows of a state event. In rooms that futures can be in, the sender ID is the user ID.
func stateEvent(e *types.HeaderedEvent) api.StateEvent {
	return api.StateEvent{ID: e.EventID(), Sender: string(e.SenderID())}
}

// Current implements api.Room. It costs one roomserver query for any number of keys. In an unknown room nothing is set.
func (r *Room) Current(ctx context.Context, roomID string, keys []api.StateKeyTuple) ([]api.StateEvent, error) {
	now := make([]api.StateEvent, len(keys))
	if len(keys) == 0 {
		return now, nil // a query without tuples would return the whole state
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

// look reads pieces of a room's current state, and the references that an event needs to follow it. It sees committed
// state only. Dendrite needs about ten SQL queries for it, most of them answered from its caches, for any number of
// pieces. Its QueryCurrentState would load the whole state for each piece.
func (r *Room) look(ctx context.Context, roomID string, tuples []gomatrixserverlib.StateKeyTuple) (res rsapi.QueryLatestEventsAndStateResponse, err error) {
	slices.SortFunc(tuples, compareTuples)
	req := rsapi.QueryLatestEventsAndStateRequest{RoomID: roomID, StateToFetch: slices.Compact(tuples)}
	err = r.rsAPI.QueryLatestEventsAndState(ctx, &req, &res)
	return res, err
}
