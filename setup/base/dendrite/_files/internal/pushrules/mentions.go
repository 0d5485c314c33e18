package pushrules

import (
	"encoding/json"
	"slices"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/tidwall/gjson"
)

// The default rules of Matrix 1.7 and later, and those of MSC4075.
const (
	MRuleRTCInviteForMe   = ".m.rule.rtc.invite_for_me"
	MRuleIsUserMention    = ".m.rule.is_user_mention"
	MRuleRTCInviteForRoom = ".m.rule.rtc.invite_for_room"
	MRuleIsRoomMention    = ".m.rule.is_room_mention"
	MRuleSuppressEdits    = ".m.rule.suppress_edits"
)

const (
	// EventPropertyIsCondition matches events that have exactly this value at the key.
	EventPropertyIsCondition ConditionKind = "event_property_is"

	// EventPropertyContainsCondition matches events that have a list at the key, with exactly this value in it.
	EventPropertyContainsCondition ConditionKind = "event_property_contains"
)

func mentionsUser(userID string) *Condition {
	value, _ := json.Marshal(userID) // a string
	return &Condition{Kind: EventPropertyContainsCondition, Key: `content.m\.mentions.user_ids`, Value: value}
}

// mentionsRoom matches if the sender may mention the whole room.
func mentionsRoom() []*Condition {
	return []*Condition{
		{Kind: EventPropertyIsCondition, Key: `content.m\.mentions.room`, Value: json.RawMessage("true")},
		{Kind: SenderNotificationPermissionCondition, Key: "room"},
	}
}

func isRTCInvite() *Condition {
	return &Condition{Kind: EventMatchCondition, Key: "type", Pattern: pointer("m.rtc.invite")}
}

func sound(name string) *Action {
	return &Action{Kind: SetTweakAction, Tweak: SoundTweak, Value: name}
}

func defaultRule(id string, conditions []*Condition, actions ...*Action) *Rule {
	if actions == nil {
		actions = []*Action{} // in JSON an empty list, not null
	}
	return &Rule{RuleID: id, Default: true, Enabled: true, Conditions: conditions, Actions: actions}
}

func mRuleRTCInviteForMe(userID string) *Rule {
	return defaultRule(MRuleRTCInviteForMe, []*Condition{isRTCInvite(), mentionsUser(userID)},
		&Action{Kind: NotifyAction}, sound("ring"))
}

func mRuleIsUserMention(userID string) *Rule {
	return defaultRule(MRuleIsUserMention, []*Condition{mentionsUser(userID)},
		&Action{Kind: NotifyAction}, sound("default"), &Action{Kind: SetTweakAction, Tweak: HighlightTweak})
}

func mRuleRTCInviteForRoom() *Rule {
	return defaultRule(MRuleRTCInviteForRoom, append([]*Condition{isRTCInvite()}, mentionsRoom()...),
		&Action{Kind: NotifyAction}, sound("ring"))
}

func mRuleIsRoomMention() *Rule {
	return defaultRule(MRuleIsRoomMention, mentionsRoom(),
		&Action{Kind: NotifyAction}, &Action{Kind: SetTweakAction, Tweak: HighlightTweak})
}

func mRuleSuppressEdits() *Rule {
	return defaultRule(MRuleSuppressEdits, []*Condition{
		{Kind: EventPropertyIsCondition, Key: `content.m\.relates_to.rel_type`, Value: json.RawMessage(`"m.replace"`)},
	})
}

// AddDefaults adds the default rules that the stored rules of an account lack, because the account is older than they are.
func (s *AccountRuleSets) AddDefaults(localpart string, serverName spec.ServerName) {
	defaults, own := DefaultGlobalRuleSet(localpart, serverName), &s.Global
	own.Override = withDefaults(own.Override, defaults.Override)
	own.Content = withDefaults(own.Content, defaults.Content)
	own.Underride = withDefaults(own.Underride, defaults.Underride)
}

// withDefaults puts each rule that is missing behind the default rule that comes before it. A user may switch default
// rules off and change their actions, but not their conditions. An older Dendrite that has stored the rules in between
// has left out what it does not know of these.
func withDefaults(rules, defaults []*Rule) []*Rule {
	at := 0
	for _, rule := range defaults {
		i := slices.IndexFunc(rules, func(r *Rule) bool { return r.RuleID == rule.RuleID })
		if i < 0 {
			missing := *rule // what the caller changes must not change for all users
			rules, i = slices.Insert(rules, at, &missing), at
		}
		rules[i].Conditions = rule.Conditions
		at = i + 1
	}
	return rules
}

// WithDefaults returns the stored m.push_rules of an account with the default rules that they lack.
func WithDefaults(stored json.RawMessage, localpart string, serverName spec.ServerName) json.RawMessage {
	var sets AccountRuleSets
	if json.Unmarshal(stored, &sets) != nil {
		return stored
	}
	sets.AddDefaults(localpart, serverName)
	complete, err := json.Marshal(&sets)
	if err != nil {
		return stored
	}
	return complete
}

// goesByName reports whether the rule looks for a name in the text. Such rules do not concern events that say themselves
// whom they mention.
func (r *Rule) goesByName() bool {
	return r.RuleID == MRuleContainsDisplayName || r.RuleID == MRuleContainsUserName || r.RuleID == MRuleRoomNotif
}

func hasMentions(event gomatrixserverlib.PDU) bool {
	return property(event, `content.m\.mentions`).Exists()
}

// property returns the value at a key of an event, as in content.m\.mentions.user_ids. The names of properties are
// separated by dots; in a name a backslash stands before a dot or a backslash.
func property(event gomatrixserverlib.PDU, key string) gjson.Result {
	value := gjson.ParseBytes(event.JSON())
	for _, name := range splitKey(key) {
		if !value.IsObject() {
			return gjson.Result{}
		}
		value = value.Get(gjson.Escape(name))
	}
	return value
}

func splitKey(key string) (names []string) {
	var name []byte
	for i := 0; i < len(key); i++ {
		switch {
		case key[i] == '.':
			names, name = append(names, string(name)), nil
			continue
		case key[i] == '\\' && i+1 < len(key) && (key[i+1] == '.' || key[i+1] == '\\'):
			i++
		}
		name = append(name, key[i])
	}
	return append(names, string(name))
}

// isValueOf reports whether the condition's value is exactly the other one. Lists and objects are equal to nothing.
func (c *Condition) isValueOf(other gjson.Result) bool {
	value := gjson.ParseBytes(c.Value)
	if !value.Exists() || !other.Exists() || value.Type != other.Type {
		return false
	}
	switch value.Type {
	case gjson.String:
		return value.Str == other.Str
	case gjson.Number:
		return value.Num == other.Num
	default:
		return value.Type != gjson.JSON
	}
}

func (c *Condition) isIn(list gjson.Result) bool {
	return list.IsArray() && slices.ContainsFunc(list.Array(), c.isValueOf)
}
