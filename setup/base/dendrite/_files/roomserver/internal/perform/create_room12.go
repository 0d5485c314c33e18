package perform

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/matrix-org/dendrite/internal/eventutil"
	"github.com/matrix-org/dendrite/roomserver/api"
	"github.com/matrix-org/dendrite/roomserver/storage"
	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/fclient"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/matrix-org/util"
	"github.com/tidwall/gjson"
)

const (
	tombstoneLevel12 = 150 // above all other levels of a new room, so that an admin cannot replace the room (MSC4289)

	// maxClaims limits how many timestamps are tried if the create event exists already.
	maxClaims = 20
	// maxShift is the largest change of the timestamp in one attempt, in ms.
	maxShift = 10
)

// prepare12 adapts the content of the create event and the initial power levels to room version 12: creators have no
// level, and users who are invited to a trusted private chat become creators (MSC4289). It checks the client's request
// before any event is created.
func prepare12(
	req *api.PerformCreateRoomRequest, sender spec.SenderID,
	create map[string]interface{}, levels *gomatrixserverlib.PowerLevelContent,
) *util.JSONResponse {
	delete(create, "creator")
	additional, err := additionalCreators(req.CreationContent)
	if err != nil {
		return badRequest(err)
	}
	if req.StatePreset == spec.PresetTrustedPrivateChat && len(req.InvitedUsers) > 0 {
		for _, invitee := range req.InvitedUsers {
			if !slices.Contains(additional, invitee) {
				additional = append(additional, invitee)
			}
		}
		create["additional_creators"] = additional
	}
	creators := append([]string{string(sender)}, additional...)
	if err := checkInitialState12(req, creators); err != nil {
		return badRequest(err)
	}
	levels.Users = map[string]int64{}
	levels.Events["m.room.tombstone"] = tombstoneLevel12
	return nil
}

// additionalCreators returns the additional creators in the content of a create event.
func additionalCreators(create []byte) ([]string, error) {
	if len(create) == 0 {
		return nil, nil
	}
	if _, err := gomatrixserverlib.EnforcedCanonicalJSON(create, gomatrixserverlib.RoomVersionV12); err != nil {
		return nil, spec.BadJSON("creation_content: " + err.Error())
	}
	named := gjson.GetBytes(create, "additional_creators")
	if err := gomatrixserverlib.CheckAdditionalCreators(named); err != nil {
		return nil, spec.InvalidParam(err.Error())
	}
	var users []string
	for _, user := range named.Array() {
		users = append(users, user.Str)
	}
	return users, nil
}

// checkInitialState12 checks the initial state in the client's request.
func checkInitialState12(req *api.PerformCreateRoomRequest, creators []string) error {
	if override := req.PowerLevelContentOverride; len(override) > 0 && string(override) != "null" {
		if err := eventutil.CheckPowerLevels12(override, creators); err != nil {
			return err
		}
	}
	for _, event := range req.InitialState {
		content, err := json.Marshal(event.Content)
		if err != nil {
			return spec.BadJSON(err.Error())
		}
		if event.Type == spec.MRoomPowerLevels && event.StateKey == "" {
			if err := eventutil.CheckPowerLevels12(content, creators); err != nil {
				return err
			}
		}
		if _, err := gomatrixserverlib.EnforcedCanonicalJSON(content, gomatrixserverlib.RoomVersionV12); err != nil {
			return spec.BadJSON(fmt.Sprintf("initial_state, %s: %s", event.Type, err))
		}
	}
	return nil
}

// badRequest answers with status 400 and a Matrix error.
func badRequest(err error) *util.JSONResponse {
	return &util.JSONResponse{Code: http.StatusBadRequest, JSON: err}
}

// RoomClaims makes create events of rooms whose IDs are hashes of these events (MSC4291). Two create events with the same
// sender, content and timestamp would be one room, so RoomClaims makes one at a time.
type RoomClaims struct {
	DB storage.RoomDatabase

	mu sync.Mutex
}

// makeCreate makes a create event whose room does not exist yet, and assigns the room's number. It changes the timestamp
// until it finds one.
func (c *RoomClaims) makeCreate(
	ctx context.Context, version gomatrixserverlib.RoomVersion, sender spec.SenderID, content interface{},
	at time.Time, identity *fclient.SigningIdentity,
) (gomatrixserverlib.PDU, error) {
	impl, err := gomatrixserverlib.GetRoomVersion(version)
	if err != nil {
		return nil, err
	}
	stateKey := ""
	builder := impl.NewEventBuilderFromProtoEvent(&gomatrixserverlib.ProtoEvent{
		SenderID: string(sender), Type: spec.MRoomCreate, StateKey: &stateKey, Depth: 1,
	})
	if err := builder.SetContent(content); err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := 0; i < maxClaims; i++ {
		create, err := builder.Build(at, identity.ServerName, identity.KeyID, identity.PrivateKey)
		if err != nil {
			return nil, err
		}
		known, err := c.DB.RoomInfo(ctx, create.RoomID().String())
		if err != nil {
			return nil, err
		}
		if known == nil {
			_, err = c.DB.AssignRoomNID(ctx, create.RoomID(), version)
			return create, err
		}
		at = at.Add(time.Duration(1+rand.Intn(maxShift)) * time.Millisecond)
	}
	return nil, errors.New("for each timestamp that was tried, the room exists already")
}

// createFirst makes the create event of a room of version 12 before all other events, and sets the caller's RoomID.
func (c *Creator) createFirst(
	ctx context.Context, req *api.PerformCreateRoomRequest, sender spec.SenderID,
	event gomatrixserverlib.FledglingEvent, identity *fclient.SigningIdentity,
) (gomatrixserverlib.PDU, *util.JSONResponse) {
	create, err := c.Claims.makeCreate(ctx, req.RoomVersion, sender, event.Content, req.EventTime, identity)
	if bad := (gomatrixserverlib.BadJSONError{}); errors.As(err, &bad) {
		return nil, badRequest(spec.BadJSON(err.Error()))
	}
	if err != nil {
		util.GetLogger(ctx).WithError(err).Error("failed to make the create event")
		return nil, &util.JSONResponse{Code: http.StatusInternalServerError, JSON: spec.InternalServerError{}}
	}
	req.RoomID = create.RoomID().String()
	return create, nil
}
