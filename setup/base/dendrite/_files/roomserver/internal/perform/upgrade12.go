package perform

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/matrix-org/dendrite/roomserver/api"
	"github.com/matrix-org/dendrite/roomserver/types"
	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
)

const tombstone = "m.room.tombstone"

// errUpgrading refuses an upgrade while another user is upgrading the room.
var errUpgrading = spec.Unknown("Another user is upgrading this room at the moment.")

// upgrades holds the upgrades that are running.
type upgrades struct {
	mu      sync.Mutex
	running map[string]*upgrade // by the old room's ID
}

type upgrade struct {
	by      spec.UserID
	done    chan struct{}
	newRoom string
	err     error
}

// once upgrades a room. If an upgrade of the room is running, the same user gets its answer, and other users are refused.
func (u *upgrades) once(ctx context.Context, roomID string, by spec.UserID, do func() (string, error)) (string, error) {
	u.mu.Lock()
	if other, ok := u.running[roomID]; ok {
		u.mu.Unlock()
		if other.by != by {
			return "", errUpgrading
		}
		select {
		case <-other.done:
			return other.newRoom, other.err
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
	mine := &upgrade{by: by, done: make(chan struct{}), err: errors.New("the upgrade panicked")}
	if u.running == nil {
		u.running = make(map[string]*upgrade)
	}
	u.running[roomID] = mine
	u.mu.Unlock()
	defer func() {
		u.mu.Lock()
		delete(u.running, roomID)
		u.mu.Unlock()
		close(mine.done)
	}()
	mine.newRoom, mine.err = do()
	return mine.newRoom, mine.err
}

// levelsToCopy returns the power levels of a room that is upgraded.
func levelsToCopy(power, create *types.HeaderedEvent) (*gomatrixserverlib.PowerLevelContent, error) {
	levels := api.DefaultPowerLevels(create.PDU)
	if power != nil {
		var err error
		if levels, err = gomatrixserverlib.NewPowerLevelContentFromEvent(power.PDU); err != nil {
			return nil, err
		}
	}
	// A nil map would be null in JSON, which the rules do not allow.
	if levels.Users == nil {
		levels.Users = map[string]int64{}
	}
	if levels.Events == nil {
		levels.Events = map[string]int64{}
	}
	return &levels, nil
}

// oldPowerLevels returns the power levels of the old room in the form in which they will be sent there again.
func (r *Upgrader) oldPowerLevels(ctx context.Context, roomID string) (*gomatrixserverlib.PowerLevelContent, error) {
	get := func(eventType string) *types.HeaderedEvent {
		return api.GetStateEvent(ctx, r.URSAPI, roomID, gomatrixserverlib.StateKeyTuple{EventType: eventType})
	}
	create := get(spec.MRoomCreate)
	if create == nil {
		return nil, fmt.Errorf("room %s has no create event", roomID)
	}
	return levelsToCopy(get(spec.MRoomPowerLevels), create)
}

// replacement is the new room of an upgrade.
type replacement struct {
	oldCreate  gomatrixserverlib.PDU
	oldRoom    string
	version    gomatrixserverlib.RoomVersion
	sender     spec.SenderID
	additional []string // additional creators in the request, nil if there are none
}

// adapt changes the first events of the new room, which are copies of the old room's state, if one of the rooms is of
// version 12 and so has creators (MSC4289).
func (n *replacement) adapt(events []gomatrixserverlib.FledglingEvent) []gomatrixserverlib.FledglingEvent {
	n.adaptCreate(events[0].Content.(map[string]interface{}))
	isNew := n.version.IsDomainless()
	isOldCreator := slices.Contains(gomatrixserverlib.PrivilegedCreators(n.oldCreate), string(n.sender))
	if !isNew && !isOldCreator {
		return events
	}
	adapted := events[:0]
	hasLevels := false
	for _, event := range events {
		switch {
		case event.Type == spec.MRoomPowerLevels && event.StateKey == "":
			if hasLevels {
				continue // this copy would take back the temporary power
			}
			hasLevels = true
			event.Content = n.adaptLevels(event.Content.(gomatrixserverlib.PowerLevelContent))
		case isNew && event.Type == spec.MRoomMember && n.isCreator(event.StateKey) && event.StateKey != string(n.sender):
			continue // a ban: a creator cannot be banned
		case isNew && event.Type == tombstone:
			continue // of an earlier upgrade
		}
		adapted = append(adapted, event)
	}
	return adapted
}

func (n *replacement) isCreator(user string) bool {
	return user == string(n.sender) || slices.Contains(n.additional, user)
}

// adaptCreate changes the content of the create event, which is a copy of the old room's.
func (n *replacement) adaptCreate(content map[string]interface{}) {
	delete(content, "additional_creators")
	if !n.version.IsDomainless() {
		return
	}
	delete(content, "creator")
	content["predecessor"] = map[string]interface{}{"room_id": n.oldRoom}
	if n.additional != nil {
		content["additional_creators"] = n.additional
	}
}

// adaptLevels changes the power levels. In a new room of version 12 they do not name creators. In a new room of an earlier
// version, the old room's creators get the level that allows everything.
func (n *replacement) adaptLevels(levels gomatrixserverlib.PowerLevelContent) gomatrixserverlib.PowerLevelContent {
	users := make(map[string]int64, len(levels.Users))
	for user, level := range levels.Users {
		if _, err := spec.NewUserID(user, true); err != nil && n.version.IsDomainless() {
			continue // the rules of version 12 refuse it
		}
		if n.version.IsDomainless() && n.isCreator(user) {
			continue
		}
		users[user] = level
	}
	if !n.version.IsDomainless() {
		needed := max(100, levels.StateDefault)
		for _, level := range levels.Events {
			needed = max(needed, level)
		}
		users[string(n.sender)] = needed
	}
	levels.Users = users
	return levels
}

// createFirst makes the create event of the new room if the room's ID depends on it, and then replaces the old room's
// tombstone by one with that ID. Otherwise it returns nil.
func (r *Upgrader) createFirst(
	ctx context.Context, n *replacement, at time.Time, by spec.UserID, create gomatrixserverlib.FledglingEvent,
) (gomatrixserverlib.PDU, *types.HeaderedEvent, error) {
	if !n.version.IsDomainless() {
		return nil, nil, nil
	}
	identity, err := r.Cfg.Matrix.SigningIdentityFor(by.Domain())
	if err != nil {
		return nil, nil, err
	}
	made, err := r.Claims.makeCreate(ctx, n.version, n.sender, create.Content, at, identity)
	if err != nil {
		return nil, nil, err
	}
	end, err := r.makeTombstoneEvent(ctx, at, n.sender, by.Domain(), n.oldRoom, made.RoomID().String())
	return made, end, err
}

func newReplacement(
	old *api.QueryLatestEventsAndStateResponse, oldRoom string, version gomatrixserverlib.RoomVersion,
	sender spec.SenderID, additional []string,
) *replacement {
	n := &replacement{oldRoom: oldRoom, version: version, sender: sender, additional: additional}
	for _, event := range old.StateEvents {
		if event.Type() == spec.MRoomCreate && event.StateKeyEquals("") {
			n.oldCreate = event.PDU
		}
	}
	return n
}
