// Package roomserver is the south adapter: the only place that talks to Dendrite's roomserver and to
// JetStream. On its way a future passes here three times: when it is scheduled (Room.Admit), when it is
// due (Room.Build, Room.Submit, Room.Verdict), and whenever the room's state changes in between
// (Consumer).
package roomserver

import (
	"context"
	"database/sql"
	"encoding/json"
	"slices"
	"time"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
	"github.com/matrix-org/dendrite/internal/eventutil"
	rsapi "github.com/matrix-org/dendrite/roomserver/api"
	"github.com/matrix-org/dendrite/roomserver/types"
	"github.com/matrix-org/dendrite/setup/config"
	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
)

// Room is the real api.Room: the rooms that Dendrite's roomserver keeps. It is safe for concurrent use.
type Room struct {
	cfg      *config.Dendrite
	rsAPI    rsapi.RoomserverInternalAPI
	db       *sql.DB
	answered answered
}

var _ api.Room = (*Room)(nil)

// NewRoom returns the rooms of rsAPI. db is the roomserver's own database; it is read, never written:
// only there stands whether an event has reached the timeline.
func NewRoom(cfg *config.Dendrite, rsAPI rsapi.RoomserverInternalAPI, db *sql.DB) *Room {
	return &Room{cfg: cfg, rsAPI: rsAPI, db: db}
}

// Admit implements api.Room. It refuses senders who are not ours or not in the room, unknown rooms, events
// that a plain PDU cannot stand for (see sendable) and events that cannot be built, because they are too
// large or not canonical JSON. It costs one roomserver query and writes nothing.
func (r *Room) Admit(ctx context.Context, f *api.Future) (string, error) {
	d, err := r.draft(ctx, f)
	if err != nil {
		return "", err
	}
	if err := r.sendable(f, d.content); err != nil {
		return "", err
	}
	if _, err := r.build(ctx, d); err != nil {
		return "", err
	}
	return d.base.ID, nil
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

// Build implements api.Room. The event's origin_server_ts is now (generation 0, 5.8), unless the
// future says otherwise. Whoever is not in the
// room at that moment sends nothing, not even a member event about themselves: what the server knows of a
// room that its user has left may be stale.
func (r *Room) Build(ctx context.Context, f *api.Future) (*api.Event, error) {
	d, err := r.draft(ctx, f)
	if err != nil {
		return nil, err
	}
	if f.StateKey != nil && f.Policy.Outdated(f.Base, f.UserID, d.base) {
		return nil, api.ErrNewerState
	}
	event, err := r.build(ctx, d)
	if err != nil {
		return nil, err
	}
	if err := allowed(event.PDU, d.room.StateEvents); err != nil {
		return nil, err
	}
	if err := r.mayRedact(ctx, d); err != nil {
		return nil, err
	}
	pdu, err := event.ToHeaderedJSON()
	if err != nil {
		return nil, err
	}
	return &api.Event{ID: event.EventID(), PDU: pdu}, nil
}

// A draft is a future on its way to becoming an event, with the part of the room's current state that
// decides about it.
type draft struct {
	sender  spec.UserID
	roomID  spec.RoomID
	content map[string]any
	proto   gomatrixserverlib.ProtoEvent
	needed  gomatrixserverlib.StateNeeded
	room    rsapi.QueryLatestEventsAndStateResponse
	base    api.StateEvent // what is current for the future's state key
	at      time.Time      // origin_server_ts
}

// draft reads all that an event needs of its room: one roomserver query.
func (r *Room) draft(ctx context.Context, f *api.Future) (*draft, error) {
	sender, err := spec.NewUserID(f.UserID, true)
	if err != nil || !r.cfg.Global.IsLocalServerName(sender.Domain()) {
		// Sending in the name of another server would stop Dendrite's federation sender for good.
		return nil, refuse(api.Forbidden, "the sender is not a user of this server")
	}
	roomID, err := spec.NewRoomID(f.RoomID)
	if err != nil {
		return nil, unknownRoom()
	}
	d := &draft{sender: *sender, roomID: *roomID, at: time.Now()}
	if f.OriginTS != 0 {
		d.at = time.UnixMilli(f.OriginTS)
	}
	if err := d.compose(f); err != nil {
		return nil, err
	}

	own := gomatrixserverlib.StateKeyTuple{EventType: spec.MRoomMember, StateKey: f.UserID}
	if f.StateKey != nil {
		own = gomatrixserverlib.StateKeyTuple{EventType: f.Type, StateKey: *f.StateKey}
	}
	membership := gomatrixserverlib.StateKeyTuple{EventType: spec.MRoomMember, StateKey: f.UserID}
	d.room, err = r.look(ctx, f.RoomID, append(d.needed.Tuples(), membership, own))
	if err != nil {
		return nil, err
	}
	switch {
	case !d.room.RoomExists:
		return nil, unknownRoom()
	case d.room.RoomVersion == gomatrixserverlib.RoomVersionPseudoIDs:
		return nil, refuse(api.BadEvent, "futures are not possible in rooms of version %s", d.room.RoomVersion)
	}
	if e := d.state(own); f.StateKey != nil && e != nil {
		d.base = stateEvent(e)
	}
	return d, nil
}

// compose fills in the parts of the event that come from the future alone.
func (d *draft) compose(f *api.Future) error {
	// Decoding and encoding rids the content of what /send does not let through either: keys that occur
	// twice, and numbers that are integers in disguise.
	if err := json.Unmarshal(f.Content, &d.content); err != nil || d.content == nil {
		return refuse(api.BadEvent, "the content is not a JSON object")
	}
	// In all rooms but those of version pseudo-ID, which draft refuses, the sender ID is the user ID.
	d.proto = gomatrixserverlib.ProtoEvent{SenderID: f.UserID, RoomID: f.RoomID, Type: f.Type, StateKey: f.StateKey}
	switch {
	case f.Type == spec.MRoomMember:
		// Without this other servers could not authorise the event in a restricted room.
		delete(d.content, "join_authorised_via_users_server")
	case f.Type == spec.MRoomRedaction && f.StateKey == nil:
		// Clients name the target in the content, but Dendrite looks for it at the top level in all room versions.
		d.proto.Redacts, _ = d.content["redacts"].(string)
		if d.proto.Redacts == "" {
			return refuse(api.BadEvent, "a redaction needs the ID of the event that it redacts")
		}
	}
	if err := d.proto.SetContent(d.content); err != nil {
		return refuse(api.BadEvent, "%s", err)
	}
	var err error
	if d.needed, err = gomatrixserverlib.StateNeededForProtoEvent(&d.proto); err != nil {
		return refuse(api.BadEvent, "%s", err)
	}
	return nil
}

// state returns the current event for that piece of state, nil if there is none.
func (d *draft) state(t gomatrixserverlib.StateKeyTuple) *types.HeaderedEvent {
	for _, e := range d.room.StateEvents {
		if e.Type() == t.EventType && e.StateKeyEquals(t.StateKey) {
			return e
		}
	}
	return nil
}

// build makes and signs the event. It checks what Dendrite's /send and /state check beside the auth rules.
func (r *Room) build(ctx context.Context, d *draft) (*types.HeaderedEvent, error) {
	member := d.state(gomatrixserverlib.StateKeyTuple{EventType: spec.MRoomMember, StateKey: d.proto.SenderID})
	if member == nil {
		return nil, notInRoom()
	}
	if m, err := member.Membership(); err != nil || m != spec.Join {
		return nil, notInRoom()
	}
	if err := r.aliasesExist(ctx, d); err != nil {
		return nil, err
	}
	identity, err := r.rsAPI.SigningIdentityFor(ctx, d.roomID, d.sender)
	if err != nil {
		return nil, err
	}
	event, err := eventutil.BuildEvent(ctx, &d.proto, &identity, d.at, &d.needed, &d.room)
	if err != nil {
		return nil, buildRefusal(err)
	}
	return event, nil
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
