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

// errUpgrading refuses a second upgrade of a room while another user's is under way.
var errUpgrading = spec.Unknown("Somebody else is just upgrading this room.")

// upgrades knows which rooms are being upgraded.
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

// once upgrades a room, unless an upgrade of it is under way: then the same user gets the same answer, and others
// are refused.
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

// levelsToCopy are the power levels of a room that is upgraded.
func levelsToCopy(power, create *types.HeaderedEvent) (*gomatrixserverlib.PowerLevelContent, error) {
	levels := api.DefaultPowerLevels(create.PDU)
	if power != nil {
		var err error
		if levels, err = gomatrixserverlib.NewPowerLevelContentFromEvent(power.PDU); err != nil {
			return nil, err
		}
	}
	// A map that is missing would be null in JSON, which is none of the forms that the rules allow.
	if levels.Users == nil {
		levels.Users = map[string]int64{}
	}
	if levels.Events == nil {
		levels.Events = map[string]int64{}
	}
	return &levels, nil
}

// oldPowerLevels are the power levels of the old room as they will be written there again.
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
	additional []string // creators that the request names, nil if it names none
}

// adapt brings the first events of the new room, made of the old room's state, into the form that the creators of
// room version 12 need, in the old room or in the new one (MSC4289).
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
				continue // what would take temporary power back
			}
			hasLevels = true
			event.Content = n.adaptLevels(event.Content.(gomatrixserverlib.PowerLevelContent))
		case isNew && event.Type == spec.MRoomMember && n.isCreator(event.StateKey) && event.StateKey != string(n.sender):
			continue // a ban, which no creator can have
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

// adaptCreate changes the content of the create event, which starts as that of the old room.
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

// adaptLevels changes the power levels: creators have none in the new room, and an old room's creator, who had none,
// gets in a new room of an earlier version what it takes to do everything.
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

// createFirst makes the create event of the new room if its ID decides about the room's, else nil. It makes the
// tombstone of the old room again, with that ID.
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
