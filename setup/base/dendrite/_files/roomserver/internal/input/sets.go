package input

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrix-org/dendrite/roomserver/state"
	"github.com/matrix-org/dendrite/roomserver/types"
)

// resolveStates resolves states that come from other servers or from our database. In rooms of versions before 12,
// gomatrixserverlib resolves their union.
func (t *missingStateReq) resolveStates(
	ctx context.Context, version gomatrixserverlib.RoomVersion, roomID string, states []*parsedRespState,
	union func() ([]gomatrixserverlib.PDU, error),
) ([]gomatrixserverlib.PDU, error) {
	if !state.NeedsSets(version) {
		return union()
	}
	s := state.Sets{
		RoomID: roomID,
		UserID: func(roomID spec.RoomID, senderID spec.SenderID) (*spec.UserID, error) {
			return t.inputer.Queryer.QueryUserIDForSender(ctx, roomID, senderID)
		},
		IsRejected: func(ctx context.Context, eventID string) (bool, error) {
			rejected, err := t.db.IsEventRejected(ctx, t.roomInfo.RoomNID, eventID)
			if errors.Is(err, sql.ErrNoRows) {
				return false, nil // not stored yet
			}
			return rejected, err
		},
	}
	told := make(map[string]gomatrixserverlib.PDU)
	for _, respState := range states {
		s.States = append(s.States, respState.StateEvents)
		for _, event := range respState.Events() {
			told[event.EventID()] = event
		}
	}
	s.Load = func(ctx context.Context, eventIDs []string) ([]gomatrixserverlib.PDU, error) {
		return t.loadForResolution(ctx, version, roomID, told, eventIDs)
	}
	return state.ResolveSets(ctx, s)
}

// loadForResolution looks for events among the states, then in the database, then on other servers.
func (t *missingStateReq) loadForResolution(
	ctx context.Context, version gomatrixserverlib.RoomVersion, roomID string, told map[string]gomatrixserverlib.PDU, eventIDs []string,
) ([]gomatrixserverlib.PDU, error) {
	var events []gomatrixserverlib.PDU
	wanted := make(map[string]bool)
	for _, id := range eventIDs {
		if event, ok := told[id]; ok {
			events = append(events, event)
		} else {
			wanted[id] = true
		}
	}
	ids := make([]string, 0, len(wanted))
	for id := range wanted {
		ids = append(ids, id)
	}
	stored, err := t.db.EventsFromIDs(ctx, t.roomInfo, ids)
	if err != nil {
		return nil, fmt.Errorf("t.db.EventsFromIDs: %w", err)
	}
	for _, event := range stored {
		events = append(events, event.PDU)
		delete(wanted, event.EventID())
	}
	for id := range wanted {
		if event, err := t.lookupEvent(ctx, version, roomID, id, true); err == nil {
			events = append(events, event)
		}
	}
	return events, nil
}

// checkListedAuthEvents checks the rules of room version 12 about an event's list of auth events. accepted holds the known
// events that were not rejected.
func checkListedAuthEvents(
	event gomatrixserverlib.PDU, known map[string]*types.Event, accepted *gomatrixserverlib.AuthEvents,
) error {
	if !event.Version().IsDomainless() {
		return nil
	}
	create := gomatrixserverlib.CreateEventID(event.RoomID().String())
	var listed []gomatrixserverlib.PDU
	for _, id := range event.AuthEventIDs() {
		if auth, ok := known[id]; ok && id != create { // missing events are handled elsewhere
			listed = append(listed, auth.PDU)
		}
	}
	if err := gomatrixserverlib.CheckListedAuthEvents(event, listed); err != nil {
		return err
	}
	for _, auth := range listed {
		if !accepted.Has(auth) {
			return &gomatrixserverlib.NotAllowed{Message: fmt.Sprintf("auth event %s was rejected", auth.EventID())}
		}
	}
	return nil
}
