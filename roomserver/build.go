package roomserver

import (
	"context"
	"encoding/json"
	"time"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
	"github.com/matrix-org/dendrite/internal/eventutil"
	rsapi "github.com/matrix-org/dendrite/roomserver/api"
	"github.com/matrix-org/dendrite/roomserver/types"
	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
)

// How futures become events. A draft is what the future says. A snapshot is what its room says. A chain is a number of
// events that are built on one snapshot, each on the one before it.

// Build implements api.Room. An event's origin_server_ts is the current time (generation 0, 5.8), unless the future
// sets it. A user who is not in the room sends nothing, not even their own member event, because the server's view of a
// room that its user has left may be stale. Build queries the room once, for any number of futures.
func (r *Room) Build(ctx context.Context, fs []*api.Future) []api.Built {
	built := make([]api.Built, len(fs))
	drafts := make([]*draft, len(fs))
	var tuples []gomatrixserverlib.StateKeyTuple
	for i, f := range fs {
		if drafts[i], built[i].Err = r.draft(f); built[i].Err == nil {
			tuples = append(tuples, drafts[i].tuples()...)
		}
	}
	if len(tuples) == 0 {
		return built // a query without tuples would return the whole state
	}
	room, err := r.snapshot(ctx, fs[0].RoomID, tuples)
	c := chain{room: room, changed: make(map[gomatrixserverlib.StateKeyTuple]bool)}
	for i, f := range fs {
		switch {
		case built[i].Err != nil:
		case err != nil:
			built[i].Err = err
		case c.takes(drafts[i]):
			built[i].Event, built[i].Err = r.append(ctx, &c, f, drafts[i])
		}
	}
	return built
}

// A chain is a number of events of a room, each built on the one before it. All of them are checked against the state
// in the snapshot, so the refusal of one does not affect the others.
type chain struct {
	room    *snapshot // its latest event is the last event of the chain
	domain  spec.ServerName
	changed map[gomatrixserverlib.StateKeyTuple]bool
	length  int
	over    bool // later events must wait until the chain is in the room
}

// takes reports whether the event can be the next of the chain. An event that the auth rules use for other events is
// alone in its chain. So are two events that set the same piece of state, because nobody can tell yet whether newer
// state ends the second.
func (c *chain) takes(d *draft) bool {
	if c.length > 0 && (d.decides() || d.sender.Domain() != c.domain || d.isState() && c.changed[d.key]) {
		c.over = true
	}
	return !c.over
}

// append builds the event and adds it to the chain.
func (r *Room) append(ctx context.Context, c *chain, f *api.Future, d *draft) (*api.Event, error) {
	if d.isState() && f.Policy.Outdated(f.Base, f.UserID, c.room.current(d)) {
		return nil, api.ErrNewerState
	}
	event, err := r.build(ctx, d, c.room)
	if err != nil {
		return nil, err
	}
	if err := allowed(event.PDU, c.room.StateEvents); err != nil {
		return nil, err
	}
	if err := r.mayRedact(ctx, d, c.room); err != nil {
		return nil, err
	}
	pdu, err := event.ToHeaderedJSON()
	if err != nil {
		return nil, err
	}
	c.room.LatestEvents, c.room.Depth = []string{event.EventID()}, event.Depth()+1
	c.domain, c.over = d.sender.Domain(), d.decides()
	c.changed[d.key] = d.isState()
	c.length++
	return &api.Event{ID: event.EventID(), PDU: pdu}, nil
}

// A draft is what a future says about its event.
type draft struct {
	sender  spec.UserID
	roomID  spec.RoomID
	content map[string]any
	proto   gomatrixserverlib.ProtoEvent
	needed  gomatrixserverlib.StateNeeded
	key     gomatrixserverlib.StateKeyTuple // of a state event
	at      time.Time                       // origin_server_ts
}

// draft does no I/O: every error is a *api.Refusal.
func (r *Room) draft(f *api.Future) (*draft, error) {
	sender, err := spec.NewUserID(f.UserID, true)
	if err != nil || !r.cfg.Global.IsLocalServerName(sender.Domain()) {
		// An event in the name of another server would stop Dendrite's federation sender for good.
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
	if f.StateKey != nil {
		d.key = gomatrixserverlib.StateKeyTuple{EventType: f.Type, StateKey: *f.StateKey}
	}
	return d, d.compose(f)
}

// compose fills in the proto event.
func (d *draft) compose(f *api.Future) error {
	// Decoding and encoding removes what /send does not accept either: repeated keys, and integers in another notation.
	if err := json.Unmarshal(f.Content, &d.content); err != nil || d.content == nil {
		return refuse(api.BadEvent, "the content is not a JSON object")
	}
	// In all rooms but those of version pseudo-ID, which snapshot refuses, the sender ID is the user ID.
	d.proto = gomatrixserverlib.ProtoEvent{SenderID: f.UserID, RoomID: f.RoomID, Type: f.Type, StateKey: f.StateKey}
	switch {
	case f.Type == spec.MRoomMember:
		// With this key other servers could not authorise the event in a restricted room.
		delete(d.content, "join_authorised_via_users_server")
	case f.Type == spec.MRoomRedaction && f.StateKey == nil:
		// Clients name the target in the content. When the event is built, the target moves to where the room version
		// wants it.
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

func (d *draft) isState() bool { return d.proto.StateKey != nil }

// decides reports whether the auth rules use such an event to check others.
func (d *draft) decides() bool {
	switch d.proto.Type {
	case spec.MRoomMember, spec.MRoomPowerLevels, spec.MRoomJoinRules, spec.MRoomThirdPartyInvite:
		return d.isState()
	}
	return false
}

func (d *draft) membership() gomatrixserverlib.StateKeyTuple {
	return gomatrixserverlib.StateKeyTuple{EventType: spec.MRoomMember, StateKey: d.proto.SenderID}
}

// tuples returns the pieces of state that the event depends on, its sender's membership, and the piece that it sets.
func (d *draft) tuples() []gomatrixserverlib.StateKeyTuple {
	tuples := append(d.needed.Tuples(), d.membership())
	if d.isState() {
		tuples = append(tuples, d.key)
	}
	return tuples
}

// A snapshot is a part of a room's current state, with the references that an event needs to follow it.
type snapshot struct {
	rsapi.QueryLatestEventsAndStateResponse
}

// snapshot reads the room with one roomserver query.
func (r *Room) snapshot(ctx context.Context, roomID string, tuples []gomatrixserverlib.StateKeyTuple) (*snapshot, error) {
	room, err := r.look(ctx, roomID, tuples)
	switch {
	case err != nil:
		return nil, err
	case !room.RoomExists:
		return nil, unknownRoom()
	case room.RoomVersion == gomatrixserverlib.RoomVersionPseudoIDs:
		return nil, noPseudoIDs()
	}
	return &snapshot{room}, nil
}

// state returns the current event for that piece of state, or nil.
func (s *snapshot) state(t gomatrixserverlib.StateKeyTuple) *types.HeaderedEvent {
	for _, e := range s.StateEvents {
		if e.Type() == t.EventType && e.StateKeyEquals(t.StateKey) {
			return e
		}
	}
	return nil
}

// current returns the event that the draft's event would replace; the zero value for a message.
func (s *snapshot) current(d *draft) api.StateEvent {
	if !d.isState() {
		return api.StateEvent{}
	}
	e := s.state(d.key)
	if e == nil {
		return api.StateEvent{}
	}
	return stateEvent(e)
}

// hasSender refuses a sender who is not in the room.
func (s *snapshot) hasSender(d *draft) error {
	member := s.state(d.membership())
	if member == nil {
		return notInRoom()
	}
	if m, err := member.Membership(); err != nil || m != spec.Join {
		return notInRoom()
	}
	return nil
}

// build builds and signs the event. Beside the auth rules it checks what Dendrite's /send and /state check.
func (r *Room) build(ctx context.Context, d *draft, room *snapshot) (*types.HeaderedEvent, error) {
	if err := room.hasSender(d); err != nil {
		return nil, err
	}
	if err := r.aliasesExist(ctx, d); err != nil {
		return nil, err
	}
	identity, err := r.rsAPI.SigningIdentityFor(ctx, d.roomID, d.sender)
	if err != nil {
		return nil, err
	}
	event, err := eventutil.BuildEvent(ctx, &d.proto, &identity, d.at, &d.needed, &room.QueryLatestEventsAndStateResponse)
	if err != nil {
		return nil, buildRefusal(err)
	}
	return event, nil
}
