package gomatrixserverlib

import (
	"encoding/json"
	"fmt"
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

// checkPowerLevels is rule 10, for a sender of this level.
func (r *rules12) checkPowerLevels(level int64) error {
	content := gjson.ParseBytes(r.event.Content())
	for _, name := range namedLevels {
		if v := content.Get(name); v.Exists() { // 10.1
			if _, ok := integer(v); !ok {
				return errorf("%s is no integer", name)
			}
		}
	}
	for _, name := range []string{"events", "notifications", "users"} { // 10.2, 10.3
		if err := checkLevelMap(content.Get(name), name); err != nil {
			return err
		}
	}
	for _, creator := range r.creators { // 10.4
		if member(content.Get("users"), creator).Exists() {
			return errorf("power levels must not name %q, a creator of the room", creator)
		}
	}
	if !r.levels.Exists() { // 10.5
		return nil
	}
	for _, name := range namedLevels { // 10.6
		if err := checkChange(r.levels.Get(name), content.Get(name), level, name); err != nil {
			return err
		}
	}
	for _, name := range []string{"events", "notifications", "users"} { // 10.7 to 10.10
		if err := r.checkChanges(r.levels.Get(name), content.Get(name), level, name); err != nil {
			return err
		}
	}
	return nil
}

var namedLevels = []string{
	"users_default", "events_default", "state_default", "ban", "redact", "kick", "invite",
}

func checkLevelMap(levels gjson.Result, name string) (err error) {
	if !levels.Exists() {
		return nil
	}
	if !levels.IsObject() {
		return errorf("%s is no object", name)
	}
	levels.ForEach(func(key, value gjson.Result) bool {
		if _, ok := integer(value); !ok {
			err = errorf("the level of %q in %s is no integer", key.Str, name)
		} else if name == "users" {
			if _, bad := spec.NewUserID(key.Str, true); bad != nil {
				err = errorf("users has %q, which is no user ID", key.Str)
			}
		}
		return err == nil
	})
	return err
}

// checkChange lets a level stay as it is; to add, change or remove one takes at least the old and the new one.
func checkChange(before, after gjson.Result, level int64, what string) error {
	old, had := integer(before)
	now, has := integer(after)
	if had == has && old == now {
		return nil
	}
	if had && old > level || has && now > level {
		return errorf("power level %d does not suffice to change %s", level, what)
	}
	return nil
}

func (r *rules12) checkChanges(before, after gjson.Result, level int64, what string) error {
	names := make(map[string]struct{})
	for _, levels := range []gjson.Result{before, after} {
		if levels.IsObject() {
			levels.ForEach(func(key, _ gjson.Result) bool {
				names[key.Str] = struct{}{}
				return true
			})
		}
	}
	for name := range names {
		old, now := member(before, name), member(after, name)
		if err := checkChange(old, now, level, fmt.Sprintf("%s of %q", what, name)); err != nil {
			return err
		}
		if what == "users" && name != r.sender() && old.Exists() && old.Int() == level && (!now.Exists() || now.Int() != level) {
			return errorf("%q has the same power level as the sender", name) // 10.9
		}
	}
	return nil
}

// checkMember is rule 5.
func (r *rules12) checkMember() error {
	target := r.event.StateKey()
	membership := gjson.GetBytes(r.event.Content(), "membership")
	if target == nil || membership.Type != gjson.String { // 5.1
		return errorf("a member event has a state key and a membership")
	}
	if _, err := spec.NewUserID(*target, true); err != nil {
		return errorf("%q is no user ID", *target)
	}
	if err := r.checkFederation(*target); err != nil {
		return err
	}
	current, err := r.membership(*target)
	if err != nil {
		return err
	}
	c := memberChange{rules12: r, target: *target, current: current}
	if c.own, err = r.membership(r.sender()); err != nil {
		return err
	}
	switch membership.Str {
	case spec.Join:
		return c.checkJoin()
	case spec.Invite:
		return c.checkInvite()
	case spec.Leave:
		return c.checkLeave()
	case spec.Ban:
		return c.checkBan()
	case spec.Knock:
		return c.checkKnock()
	}
	return errorf("unknown membership %q", membership.Str) // 5.8
}

// memberChange is what a member event wants to change.
type memberChange struct {
	*rules12
	target  string
	current string // the target's membership before
	own     string // the sender's
}

func (c *memberChange) isOwn() bool { return c.target == c.sender() }

func (c *memberChange) refused() error {
	return errorf("%q must not change the membership of %q from %q to %q", c.sender(), c.target, c.current,
		gjson.GetBytes(c.event.Content(), "membership").Str)
}

// joinRule is that of the room, "invite" if it has none.
func (c *memberChange) joinRule() (string, error) {
	rules, err := c.auth.JoinRules()
	if err != nil || rules == nil {
		return spec.Invite, err
	}
	if rule := gjson.GetBytes(rules.Content(), "join_rule"); rule.Exists() {
		return rule.Str, nil
	}
	return spec.Invite, nil
}

func (c *memberChange) checkJoin() error { // 5.3
	prev := c.event.PrevEventIDs()
	if len(prev) == 1 && prev[0] == c.create.EventID() && c.target == string(c.create.SenderID()) && c.isOwn() {
		return nil
	}
	if !c.isOwn() || c.current == spec.Ban {
		return c.refused()
	}
	rule, err := c.joinRule()
	if err != nil {
		return err
	}
	invited := c.current == spec.Join || c.current == spec.Invite
	switch rule {
	case spec.Public:
		return nil
	case spec.Invite, spec.Knock:
		if invited {
			return nil
		}
	case spec.Restricted, spec.KnockRestricted:
		if invited {
			return nil
		}
		return c.checkAuthorised()
	}
	return c.refused()
}

// checkAuthorised checks the user who has authorised a restricted join. That the user's server has signed the event
// was seen with the other signatures.
func (c *memberChange) checkAuthorised() error {
	via := gjson.GetBytes(c.event.Content(), "join_authorised_via_users_server").Str
	if via == "" {
		return c.refused()
	}
	if m, err := c.membership(via); err != nil || m != spec.Join {
		return errorf("%q, who authorises the join, is not in the room", via)
	}
	return enough(c.userLevel(via), c.named("invite", 0), "to authorise the join")
}

func (c *memberChange) checkInvite() error { // 5.4
	if invite := gjson.GetBytes(c.event.Content(), "third_party_invite"); invite.Exists() {
		return c.checkThirdParty(invite)
	}
	if c.own != spec.Join || c.current == spec.Join || c.current == spec.Ban {
		return c.refused()
	}
	return enough(c.userLevel(c.sender()), c.named("invite", 0), "to invite")
}

func (c *memberChange) checkThirdParty(invite gjson.Result) error {
	signed := invite.Get("signed")
	token := signed.Get("token").Str
	if c.current == spec.Ban || token == "" || signed.Get("mxid").Str != c.target {
		return c.refused()
	}
	event, err := c.auth.ThirdPartyInvite(token)
	if err != nil {
		return err
	}
	if event == nil || event.SenderID() != c.event.SenderID() {
		return c.refused()
	}
	var content ThirdPartyInviteContent
	if err := json.Unmarshal(event.Content(), &content); err != nil {
		return errorf("m.room.third_party_invite: %s", err)
	}
	var key PublicKey
	if key.PublicKey.Decode(content.PublicKey) == nil && content.PublicKey != "" {
		content.PublicKeys = append(content.PublicKeys, key)
	}
	if !isSignedByAny(signed, content.PublicKeys) {
		return errorf("no key of the third party invite has signed that it is for %q", c.target)
	}
	return nil
}

func isSignedByAny(signed gjson.Result, keys []PublicKey) (found bool) {
	signed.Get("signatures").ForEach(func(server, signatures gjson.Result) bool {
		signatures.ForEach(func(id, _ gjson.Result) bool {
			for _, key := range keys {
				if strings.HasPrefix(id.Str, "ed25519:") && len(key.PublicKey) == 32 &&
					VerifyJSON(server.Str, KeyID(id.Str), []byte(key.PublicKey), []byte(signed.Raw)) == nil {
					found = true
				}
			}
			return !found
		})
		return !found
	})
	return found
}

func (c *memberChange) checkLeave() error { // 5.5
	if c.isOwn() {
		if c.current == spec.Join || c.current == spec.Invite || c.current == spec.Knock {
			return nil
		}
		return c.refused()
	}
	if c.own != spec.Join {
		return c.refused()
	}
	level := c.userLevel(c.sender())
	if c.current == spec.Ban {
		if err := enough(level, c.named("ban", 50), "to lift a ban"); err != nil {
			return err
		}
	}
	return c.checkRemoval(level, "kick")
}

func (c *memberChange) checkBan() error { // 5.6
	if c.own != spec.Join {
		return c.refused()
	}
	return c.checkRemoval(c.userLevel(c.sender()), "ban")
}

func (c *memberChange) checkRemoval(level int64, how string) error {
	if err := enough(level, c.named(how, 50), "to "+how); err != nil {
		return err
	}
	if c.userLevel(c.target) >= level {
		return c.refused()
	}
	return nil
}

func (c *memberChange) checkKnock() error { // 5.7
	rule, err := c.joinRule()
	if err != nil {
		return err
	}
	if rule != spec.Knock && rule != spec.KnockRestricted || !c.isOwn() {
		return c.refused()
	}
	if c.current == spec.Join || c.current == spec.Invite || c.current == spec.Ban {
		return c.refused()
	}
	return nil
}
