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

// PrivilegedCreators returns the users who are above all power levels in the room of this create event: its sender and
// its additional_creators. Before room version 12 there are none (MSC4289).
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

// WithCreators returns the power levels with the room's creators added, for looking up levels. The result must not be
// sent: power levels that name a creator are refused.
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

// CheckAdditionalCreators returns an error if additional_creators of a create event of room version 12 is not an array of
// user IDs (MSC4289). It may be absent.
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
		_, domain, err := SplitID('@', user.Str)
		if _, _, ok := spec.ParseAndValidateServerName(domain); err != nil || !ok || len(user.Str) > maxIDLength {
			return errorf("additional_creators has %q, which is not a user ID", user.Str)
		}
	}
	return nil
}

// needed12 adds the state that an event of room version 12 needs for its authorisation and may list as auth events, except
// the create event. StateNeededForAuth does not suit: it has an exception for aliases, which versions from 6 on do not
// have, and it looks at third_party_invite and join_authorised_via_users_server for every membership.
func needed12(needed *StateNeeded, event PDU) {
	if event.Type() == spec.MRoomCreate {
		return
	}
	needed.Create, needed.PowerLevels = true, true
	needed.Member = append(needed.Member, string(event.SenderID()))
	if event.Type() != spec.MRoomMember || event.StateKey() == nil {
		return
	}
	needed.Member = append(needed.Member, *event.StateKey())
	content := gjson.ParseBytes(event.Content())
	switch content.Get("membership").Str {
	case spec.Join:
		needed.JoinRules = true
		if via := content.Get("join_authorised_via_users_server").Str; via != "" {
			needed.Member = append(needed.Member, via)
		}
	case spec.Invite:
		needed.JoinRules = true
		if token := content.Get("third_party_invite.signed.token"); token.Type == gjson.String {
			needed.ThirdPartyInvite = append(needed.ThirdPartyInvite, token.Str)
		}
	case spec.Knock:
		needed.JoinRules = true
	}
}

// Has reports whether this event is among the auth events.
func (a *AuthEvents) Has(event PDU) bool {
	if event.StateKey() == nil {
		return false
	}
	found := a.events[StateKeyTuple{event.Type(), *event.StateKey()}]
	return found != nil && found.EventID() == event.EventID()
}

// CheckListedAuthEvents checks rule 3 of room version 12 for an event and the events that it lists as auth events: no two
// for one piece of state, none that the event does not need, none of another room. For earlier versions it returns nil.
func CheckListedAuthEvents(event PDU, listed []PDU) error {
	if !event.Version().IsDomainless() {
		return nil
	}
	needed := StateNeededForAuth([]PDU{event}).Tuples()
	seen := make(map[StateKeyTuple]bool, len(listed))
	for _, auth := range listed {
		if auth.StateKey() == nil {
			return errorf("auth event %s is no state event", auth.EventID())
		}
		key := StateKeyTuple{auth.Type(), *auth.StateKey()}
		if seen[key] {
			return errorf("the auth events have %q with state key %q twice", key.EventType, key.StateKey)
		}
		seen[key] = true
		if !slices.Contains(needed, key) {
			return errorf("auth event %s is not needed", auth.EventID())
		}
		if auth.RoomID().String() != event.RoomID().String() {
			return errorf("auth event %s is of another room", auth.EventID())
		}
	}
	return nil
}

// rules12 are the authorisation rules of room version 12 for one event and one state. The numbers in comments are those of
// the specification's list of rules.
type rules12 struct {
	event  PDU
	auth   AuthEventProvider
	create PDU

	levels   gjson.Result // content of the power levels, if there are any
	creators []string
}

// allowed12 returns a NotAllowed that says why the event is not allowed in a room of version 12, nil if it is allowed.
func allowed12(event PDU, auth AuthEventProvider) error {
	if event.Type() == spec.MRoomCreate {
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

// createAllowed12 is rule 1. The parser has checked that there is no room_id.
func createAllowed12(event PDU) error {
	if !event.StateKeyEquals("") {
		return errorf("a create event has the state key \"\"")
	}
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
	if r.event.Type() == spec.MRoomPowerLevels {
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

// membership returns the membership of a user in the state, "leave" if there is none.
func (r *rules12) membership(user string) (string, error) {
	member, err := r.auth.Member(spec.SenderID(user))
	if err != nil || member == nil {
		return spec.Leave, err
	}
	return gjson.GetBytes(member.Content(), "membership").Str, nil
}

// integer parses a level of an event, and reports whether there is one.
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

// member returns the member of an object with this exact name; gjson.Get would take the name for a pattern.
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
