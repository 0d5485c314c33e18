package state

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/matrix-org/dendrite/roomserver/api"
	"github.com/matrix-org/dendrite/roomserver/types"
	"github.com/matrix-org/gomatrixserverlib"
)

// withCreators completes the power levels of a state. In a room of version 12 it adds the creators, who are above all
// levels (MSC4289). If the state has no power levels (nil), it uses the defaults.
func (v *StateResolution) withCreators(
	ctx context.Context, entries []types.StateEntry, levels *gomatrixserverlib.PowerLevelContent,
) (*gomatrixserverlib.PowerLevelContent, error) {
	if v.roomInfo == nil {
		return nil, types.ErrorInvalidRoomInfo
	}
	if levels != nil && !v.roomInfo.RoomVersion.IsDomainless() {
		return levels, nil
	}
	tuple := types.StateKeyTuple{EventTypeNID: types.MRoomCreateNID, EventStateKeyNID: types.EmptyStateKeyNID}
	at := slices.IndexFunc(entries, func(e types.StateEntry) bool { return e.StateKeyTuple == tuple })
	if at < 0 {
		return nil, errors.New("the state has no create event")
	}
	events, err := v.db.Events(ctx, v.roomInfo.RoomVersion, []types.EventNID{entries[at].EventNID})
	if err != nil {
		return nil, err
	}
	if len(events) == 0 {
		return nil, fmt.Errorf("the database has no event %d, the create event", entries[at].EventNID)
	}
	create := events[0].PDU
	if levels == nil {
		defaults := api.DefaultPowerLevels(create)
		levels = &defaults
	}
	all := levels.WithCreators(create)
	return &all, nil
}
