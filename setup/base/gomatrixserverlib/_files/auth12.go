package gomatrixserverlib

import (
	"maps"
	"slices"
	"strings"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/tidwall/gjson"
)

// CreatorPowerLevel is the power of a room's creators from room version 12 on: more than every level that an event
// can name (MSC4289).
const CreatorPowerLevel int64 = 1 << 53

// PrivilegedCreators returns the users who stand above all power levels in the room of this create event: its
// sender and its additional_creators; nobody before room version 12 (MSC4289).
func PrivilegedCreators(create PDU) []string {
	if create == nil || !create.Version().IsDomainless() {
		return nil
	}
	creators := []string{string(create.SenderID())}
	for _, user := range gjson.GetBytes(create.Content(), "additional_creators").Array() {
		if user.Type == gjson.String && !slices.Contains(creators, user.Str) {
			creators = append(creators, user.Str)
		}
	}
	return creators
}

// WithCreators returns the power levels with those of the room's creators filled in, to look up levels with. The
// result must not be sent: an event that names a creator is refused.
func (c PowerLevelContent) WithCreators(create PDU) PowerLevelContent {
	creators := PrivilegedCreators(create)
	if len(creators) == 0 {
		return c
	}
	users := maps.Clone(c.Users)
	if users == nil {
		users = make(map[string]int64, len(creators))
	}
	for _, user := range creators {
		users[user] = CreatorPowerLevel
	}
	c.Users = users
	return c
}

// CheckAdditionalCreators reports what is wrong with additional_creators, as JSON, of a create event of room
// version 12: it must be an array of user IDs (MSC4289).
func CheckAdditionalCreators(additional gjson.Result) error {
	if !additional.Exists() {
		return nil
	}
	if !additional.IsArray() {
		return errorf("additional_creators is not a list of user IDs")
	}
	for _, user := range additional.Array() {
		if user.Type != gjson.String {
			return errorf("additional_creators is not a list of user IDs")
		}
		if _, err := spec.NewUserID(user.Str, true); err != nil {
			return errorf("additional_creators has %q, which is no user ID: %s", user.Str, err)
		}
	}
	return nil
}

// Has reports whether this very event is among the auth events.
func (a *AuthEvents) Has(event PDU) bool {
	if event.StateKey() == nil {
		return false
	}
	found := a.events[StateKeyTuple{event.Type(), *event.StateKey()}]
	return found != nil && found.EventID() == event.EventID()
}

// CheckListedAuthEvents checks rule 3 of room version 12 for an event and the events that it lists as auth events:
// no two for one piece of state, none that the event does not need, none of another room. It allows everything
// in versions before, whose rules stand elsewhere.
func CheckListedAuthEvents(event PDU, listed []PDU) error {
	if !event.Version().IsDomainless() {
		return nil
	}
	needed := StateNeededForAuth([]PDU{event}).Tuples()
	seen := make(map[StateKeyTuple]string, len(listed))
	for _, auth := range listed {
		if auth.StateKey() == nil {
			return errorf("auth event %s is no state event", auth.EventID())
		}
		key := StateKeyTuple{auth.Type(), *auth.StateKey()}
		if id, ok := seen[key]; ok && id != auth.EventID() {
			return errorf("the auth events have %q with state key %q twice", key.EventType, key.StateKey)
		}
		seen[key] = auth.EventID()
		if !slices.Contains(needed, key) {
			return errorf("auth event %s is not needed", auth.EventID())
		}
		if auth.RoomID().String() != event.RoomID().String() {
			return errorf("auth event %s is of another room", auth.EventID())
		}
	}
	return nil
}

// rules12 are the authorisation rules of room version 12, for one event and the state that it is judged by. The
// numbers in comments are those of the specification's list.
type rules12 struct {
	event  PDU
	auth   AuthEventProvider
	create PDU

	levels   gjson.Result // content of the power levels, if there are any
	creators []string
}

// allowed12 reports why the event is not allowed in a room of version 12, as a NotAllowed.
func allowed12(event PDU, auth AuthEventProvider) error {
	if event.Type() == spec.MRoomCreate && event.StateKeyEquals("") {
		return createAllowed12(event)
	}
	r := &rules12{event: event, auth: auth}
	var err error
	if r.create, err = auth.Create(); err != nil {
		return err
	}
	if r.create == nil || r.create.EventID() != CreateEventID(event.RoomID().String()) { // 2
		return errorf("%s is not in the room of the create event", event.EventID())
	}
	r.creators = PrivilegedCreators(r.create)
	power, err := auth.PowerLevels()
	if err != nil {
		return err
	}
	if power != nil {
		r.levels = gjson.ParseBytes(power.Content())
	}
	return r.check()
}

// createAllowed12 is rule 1. That there is no room_id was seen when the event was parsed.
func createAllowed12(event PDU) error {
	if len(event.PrevEventIDs()) > 0 {
		return errorf("a create event has no prev_events")
	}
	content := gjson.ParseBytes(event.Content())
	if v := content.Get("room_version"); v.Exists() && (v.Type != gjson.String || !KnownRoomVersion(RoomVersion(v.Str))) {
		return errorf("create event has unknown room version %s", v.Raw)
	}
	if _, err := spec.NewUserID(string(event.SenderID()), true); err != nil {
		return errorf("the sender is no user: %s", err)
	}
	return CheckAdditionalCreators(content.Get("additional_creators"))
}

func (r *rules12) sender() string { return string(r.event.SenderID()) }

func (r *rules12) check() error {
	if err := r.checkFederation(r.sender()); err != nil { // 4
		return err
	}
	if r.event.Type() == spec.MRoomMember { // 5
		return r.checkMember()
	}
	if m, err := r.membership(r.sender()); err != nil || m != spec.Join { // 6
		return errorf("sender %q is not in the room", r.sender())
	}
	level := r.userLevel(r.sender())
	if r.event.Type() == spec.MRoomThirdPartyInvite { // 7
		return enough(level, r.named("invite", 0), "to invite")
	}
	if err := enough(level, r.sendLevel(), "to send "+r.event.Type()); err != nil { // 8
		return err
	}
	if key := r.event.StateKey(); key != nil && strings.HasPrefix(*key, "@") && *key != r.sender() { // 9
		return errorf("%q must not set the state of %q", r.sender(), *key)
	}
	if r.event.Type() == spec.MRoomPowerLevels && r.event.StateKeyEquals("") {
		return r.checkPowerLevels(level) // 10
	}
	return nil // 11
}

func (r *rules12) checkFederation(user string) error {
	federate := gjson.GetBytes(r.create.Content(), `m\.federate`)
	if !federate.Exists() || federate.Type == gjson.True {
		return nil
	}
	_, domain, err := SplitID('@', user)
	if err != nil {
		return errorf("%q is no user", user)
	}
	if _, home, err := SplitID('@', string(r.create.SenderID())); err != nil || home != domain {
		return errorf("the room does not federate")
	}
	return nil
}

// membership is that of a user in the state, "leave" for one without.
func (r *rules12) membership(user string) (string, error) {
	member, err := r.auth.Member(spec.SenderID(user))
	if err != nil || member == nil {
		return spec.Leave, err
	}
	return gjson.GetBytes(member.Content(), "membership").Str, nil
}

// integer is a level as an event has it, and whether there is one.
func integer(v gjson.Result) (int64, bool) {
	return v.Int(), v.Type == gjson.Number && isCanonicalInteger(v.Raw)
}

func (r *rules12) named(name string, otherwise int64) int64 {
	if level, ok := integer(r.levels.Get(name)); ok {
		return level
	}
	return otherwise
}

func (r *rules12) userLevel(user string) int64 {
	if slices.Contains(r.creators, user) {
		return CreatorPowerLevel
	}
	if level, ok := integer(member(r.levels.Get("users"), user)); ok {
		return level
	}
	return r.named("users_default", 0)
}

func (r *rules12) sendLevel() int64 {
	if level, ok := integer(member(r.levels.Get("events"), r.event.Type())); ok {
		return level
	}
	if r.event.StateKey() != nil {
		return r.named("state_default", 50)
	}
	return r.named("events_default", 0)
}

// member is a member of an object by its literal name, which for gjson.Get would be a pattern.
func member(object gjson.Result, name string) (found gjson.Result) {
	if object.IsObject() {
		object.ForEach(func(key, value gjson.Result) bool {
			if key.Str == name {
				found = value // the last one counts, as in Go's and Python's decoders
			}
			return true
		})
	}
	return found
}

func enough(level, needed int64, what string) error {
	if level < needed {
		return errorf("power level %d does not suffice %s, %d does", level, what, needed)
	}
	return nil
}
