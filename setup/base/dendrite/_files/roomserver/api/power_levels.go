package api

import (
	"context"
	"errors"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrix-org/dendrite/roomserver/types"
)

// creatorLevel is the power of the sender of the create event in a room without power levels, before version 12.
const creatorLevel = 100

// PowerLevelTuples is the state that PowerLevelsOf needs.
var PowerLevelTuples = []gomatrixserverlib.StateKeyTuple{{EventType: spec.MRoomPowerLevels}, {EventType: spec.MRoomCreate}}

// GetPowerLevels returns the power levels of a room, for looking up levels. They must not be sent.
func GetPowerLevels(ctx context.Context, rsAPI QueryEventsAPI, roomID string) (*gomatrixserverlib.PowerLevelContent, error) {
	var state []*types.HeaderedEvent
	for _, tuple := range PowerLevelTuples {
		if event := GetStateEvent(ctx, rsAPI, roomID, tuple); event != nil {
			state = append(state, event)
		}
	}
	return PowerLevelsOf(state)
}

// PowerLevelsOf returns the power levels of a room with this state, for looking up levels. They include the levels of the
// room's creators (MSC4289). If the room has no power levels, they are the defaults. They must not be sent.
func PowerLevelsOf(state []*types.HeaderedEvent) (*gomatrixserverlib.PowerLevelContent, error) {
	create, power := find(state, spec.MRoomCreate), find(state, spec.MRoomPowerLevels)
	if create == nil && power == nil {
		return nil, errors.New("this server does not know the room's state")
	}
	var levels gomatrixserverlib.PowerLevelContent
	var err error
	if power == nil {
		levels = DefaultPowerLevels(create)
	} else if levels, err = gomatrixserverlib.NewPowerLevelContentFromEvent(power); err != nil {
		return nil, err
	}
	levels = levels.WithCreators(create)
	return &levels, nil
}

// DefaultPowerLevels returns the levels that apply in a room without a power levels event.
func DefaultPowerLevels(create gomatrixserverlib.PDU) (levels gomatrixserverlib.PowerLevelContent) {
	levels.Defaults()
	levels.Users = map[string]int64{}
	if !create.Version().IsDomainless() {
		levels.Users[string(create.SenderID())] = creatorLevel
	}
	return levels
}

// find finds a state event with an empty state key.
func find(state []*types.HeaderedEvent, eventType string) gomatrixserverlib.PDU {
	for _, event := range state {
		if event.Type() == eventType && event.StateKeyEquals("") {
			return event.PDU
		}
	}
	return nil
}
