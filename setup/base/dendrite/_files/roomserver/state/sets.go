package state

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"sort"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrix-org/dendrite/internal"
	"github.com/matrix-org/dendrite/roomserver/types"
)

// Sets are the states of a room after several events. State resolution 2.1 (MSC4297) resolves them into one.
type Sets struct {
	RoomID     string
	States     [][]gomatrixserverlib.PDU
	UserID     spec.UserIDForSender
	IsRejected func(ctx context.Context, eventID string) (bool, error)
	// Load loads events of auth chains. Its result lacks events that it cannot find.
	Load func(ctx context.Context, eventIDs []string) ([]gomatrixserverlib.PDU, error)
}

// ResolveSets is state resolution 2.1. Package setup sets it before the roomserver starts.
var ResolveSets = func(context.Context, Sets) ([]gomatrixserverlib.PDU, error) {
	return nil, errors.New("state resolution 2.1 is not set up")
}

// NeedsSets reports whether states of rooms of this version are resolved by ResolveSets. ResolveSets needs each state
// separately, because a key that is absent from one of them is in conflict too.
func NeedsSets(version gomatrixserverlib.RoomVersion) bool {
	impl, err := gomatrixserverlib.GetRoomVersion(version)
	return err == nil && impl.StateResAlgorithm() == gomatrixserverlib.StateResV2_1
}

// LoadResolvedStateAfterEvents returns one state after several events if the room version needs sets. For other versions
// it is the same as LoadCombinedStateAfterEvents.
func (v *StateResolution) LoadResolvedStateAfterEvents(
	ctx context.Context, prevStates []types.StateAtEvent,
) ([]types.StateEntry, error) {
	if len(prevStates) < 2 || !NeedsSets(v.roomInfo.RoomVersion) {
		return v.LoadCombinedStateAfterEvents(ctx, prevStates)
	}
	entries, _, _, err := v.resolveSets(ctx, prevStates)
	return entries, err
}

// resolveSets returns the state after several events. Its results have the meaning of calculateStateAfterManyEvents.
func (v *StateResolution) resolveSets(
	ctx context.Context, prevStates []types.StateAtEvent,
) (state []types.StateEntry, algorithm string, conflicts int, err error) {
	trace, ctx := internal.StartRegion(ctx, "StateResolution.resolveSets")
	defer trace.EndRegion()

	sets := make([][]types.StateEntry, len(prevStates))
	equal := true
	for i := range prevStates {
		if sets[i], err = v.LoadCombinedStateAfterEvents(ctx, prevStates[i:i+1]); err != nil {
			return nil, "_load_combined_state", 0, fmt.Errorf("v.LoadCombinedStateAfterEvents: %w", err)
		}
		sort.Sort(stateEntrySorter(sets[i]))
		equal = equal && slices.Equal(sets[0], sets[i])
	}
	if equal {
		return sets[0], "full_state_no_conflicts", 0, nil
	}
	if state, err = v.resolveUnequal(ctx, sets); err != nil {
		return nil, "_resolve_conflicts", 0, fmt.Errorf("state resolution 2.1: %w", err)
	}
	return state, "full_state_with_conflicts", len(state), nil
}

func (v *StateResolution) resolveUnequal(ctx context.Context, sets [][]types.StateEntry) ([]types.StateEntry, error) {
	known := make(map[string]types.StateEntry)
	s := Sets{
		UserID: func(roomID spec.RoomID, senderID spec.SenderID) (*spec.UserID, error) {
			return v.Querier.QueryUserIDForSender(ctx, roomID, senderID)
		},
		IsRejected: func(ctx context.Context, eventID string) (bool, error) {
			return v.db.IsEventRejected(ctx, v.roomInfo.RoomNID, eventID)
		},
	}
	for _, set := range sets {
		events, err := v.setEvents(ctx, set, known)
		if err != nil {
			return nil, err
		}
		s.States = append(s.States, events)
		if len(events) > 0 {
			s.RoomID = events[0].RoomID().String()
		}
	}
	chain := make(map[string]types.Event)
	s.Load = func(ctx context.Context, eventIDs []string) ([]gomatrixserverlib.PDU, error) {
		events, err := v.db.EventsFromIDs(ctx, v.roomInfo, eventIDs)
		pdus := make([]gomatrixserverlib.PDU, len(events))
		for i, event := range events {
			chain[event.EventID()] = event
			pdus[i] = event.PDU
		}
		return pdus, err
	}
	resolved, err := ResolveSets(ctx, s)
	if err != nil {
		return nil, err
	}
	return v.entries(ctx, resolved, known, chain)
}

// setEvents loads the events of one state, and stores their entries.
func (v *StateResolution) setEvents(
	ctx context.Context, set []types.StateEntry, known map[string]types.StateEntry,
) ([]gomatrixserverlib.PDU, error) {
	if _, _, err := v.loadStateEvents(ctx, set); err != nil {
		return nil, err
	}
	events := make([]gomatrixserverlib.PDU, len(set))
	for i, entry := range set {
		events[i] = v.events[entry.EventNID] // where loadStateEvents keeps them
		known[events[i].EventID()] = entry
	}
	return events, nil
}

// entries returns the sorted numeric entries of the resolved state. Some of its events may be in no state, but only in an
// auth chain.
func (v *StateResolution) entries(
	ctx context.Context, resolved []gomatrixserverlib.PDU, known map[string]types.StateEntry, chain map[string]types.Event,
) ([]types.StateEntry, error) {
	result := make([]types.StateEntry, 0, len(resolved))
	for _, event := range resolved {
		entry, ok := known[event.EventID()]
		if !ok {
			var err error
			if entry, err = v.entry(ctx, event, chain); err != nil {
				return nil, err
			}
		}
		result = append(result, entry)
	}
	sort.Sort(stateEntrySorter(result))
	return result, nil
}

func (v *StateResolution) entry(
	ctx context.Context, event gomatrixserverlib.PDU, chain map[string]types.Event,
) (entry types.StateEntry, err error) {
	stored, ok := chain[event.EventID()]
	if !ok {
		events, err := v.db.EventsFromIDs(ctx, v.roomInfo, []string{event.EventID()})
		if err != nil || len(events) == 0 {
			return entry, errors.Join(fmt.Errorf("event %s is not stored", event.EventID()), err)
		}
		stored = events[0]
	}
	typeNIDs, err := v.db.EventTypeNIDs(ctx, []string{event.Type()})
	if err != nil {
		return entry, err
	}
	keyNIDs, err := v.db.EventStateKeyNIDs(ctx, []string{*event.StateKey()})
	if err != nil {
		return entry, err
	}
	entry.EventNID = stored.EventNID
	entry.EventTypeNID, ok = typeNIDs[event.Type()]
	if entry.EventStateKeyNID = keyNIDs[*event.StateKey()]; !ok || entry.EventStateKeyNID == 0 {
		return entry, fmt.Errorf("event %s: %w", event.EventID(), sql.ErrNoRows)
	}
	return entry, nil
}
