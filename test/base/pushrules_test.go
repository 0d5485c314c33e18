package base

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/matrix-org/dendrite/internal/pushrules"
	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
)

// alone is a room with nobody else in it, in which everybody may do everything.
type alone struct{}

func (alone) UserDisplayName() string                           { return "Ann" }
func (alone) RoomMemberCount() (int, error)                     { return 1, nil }
func (alone) HasPowerLevel(spec.SenderID, string) (bool, error) { return true, nil }

func matched(t *testing.T, rules *pushrules.RuleSet, content string) string {
	t.Helper()
	raw := fmt.Sprintf(`{"type":"com.example.type","room_id":"!r:x","sender":"@bob:x","content":%s}`, content)
	event, err := gomatrixserverlib.MustGetRoomVersion("11").NewEventFromTrustedJSON([]byte(raw), false)
	if err != nil {
		t.Fatal(err)
	}
	rule, err := pushrules.NewRuleSetEvaluator(alone{}, rules).MatchEvent(event, func(_ spec.RoomID, sender spec.SenderID) (*spec.UserID, error) {
		return spec.NewUserID(string(sender), true)
	})
	if err != nil {
		t.Fatal(err)
	}
	if rule == nil {
		return ""
	}
	return rule.RuleID
}

// TestPushConditions: what the two later kinds of conditions match, and how their keys are read.
func TestPushConditions(t *testing.T) {
	for _, c := range []struct {
		kind, key, value, content string
		want                      bool
	}{
		{"event_property_is", `content.a`, `"b"`, `{"a":"b"}`, true},
		{"event_property_is", `content.a`, `"b"`, `{"a":"B"}`, false},
		{"event_property_is", `content.a`, `"b*"`, `{"a":"bc"}`, false},
		{"event_property_is", `content.a`, `1`, `{"a":1}`, true},
		{"event_property_is", `content.a`, `1`, `{"a":"1"}`, false},
		{"event_property_is", `content.a`, `1`, `{"a":true}`, false},
		{"event_property_is", `content.a`, `true`, `{"a":true}`, true},
		{"event_property_is", `content.a`, `false`, `{"a":true}`, false},
		{"event_property_is", `content.a`, `false`, `{}`, false},
		{"event_property_is", `content.a`, `null`, `{"a":null}`, true},
		{"event_property_is", `content.a`, `null`, `{}`, false},
		{"event_property_is", `content.a`, ``, `{"a":null}`, false},
		{"event_property_is", `content.a`, `[]`, `{"a":[]}`, false},
		{"event_property_is", `content.a`, `{}`, `{"a":{}}`, false},
		{"event_property_is", `content.a.b`, `1`, `{"a":{"b":1}}`, true},
		{"event_property_is", `content.a.b`, `1`, `{"a.b":1}`, false},
		{"event_property_is", `content.a\.b`, `1`, `{"a.b":1}`, true},
		{"event_property_is", `content.a\\\.b`, `1`, `{"a\\.b":1}`, true},
		{"event_property_is", `content.a\\.b`, `1`, `{"a\\":{"b":1}}`, true},
		{"event_property_is", `content.a\b`, `1`, `{"a\\b":1}`, true},
		{"event_property_is", `content.0`, `1`, `{"0":1}`, true},
		{"event_property_is", `content.a.0`, `1`, `{"a":[1]}`, false},
		{"event_property_is", `content.a.#`, `1`, `{"a":[1]}`, false},
		{"event_property_is", `content.*`, `1`, `{"a":1}`, false},
		{"event_property_is", `content.@this.a`, `1`, `{"a":1}`, false},
		{"event_property_is", `content.a|b`, `1`, `{"a":{"b":1}}`, false},
		{"event_property_contains", `content.a`, `"b"`, `{"a":["c","b"]}`, true},
		{"event_property_contains", `content.a`, `"b"`, `{"a":["c","bb"]}`, false},
		{"event_property_contains", `content.a`, `"b"`, `{"a":"b"}`, false},
		{"event_property_contains", `content.a`, `"b"`, `{"a":{"b":"b"}}`, false},
		{"event_property_contains", `content.a`, `"b"`, `{}`, false},
		{"event_property_contains", `content.a`, `null`, `{"a":[null]}`, true},
		{"event_property_contains", `content.a`, `7`, `{"a":[[7],{"a":7},7]}`, true},
		{"event_match", `content.a\.b`, `c`, `{"a.b":"c"}`, true},
	} {
		condition := &pushrules.Condition{Kind: pushrules.ConditionKind(c.kind), Key: c.key, Value: json.RawMessage(c.value)}
		if c.kind == "event_match" {
			condition = &pushrules.Condition{Kind: pushrules.EventMatchCondition, Key: c.key, Pattern: &c.value}
		}
		rules := &pushrules.RuleSet{Override: []*pushrules.Rule{{RuleID: "rule", Enabled: true, Conditions: []*pushrules.Condition{condition}}}}
		if got := matched(t, rules, c.content) == "rule"; got != c.want {
			t.Errorf("%s %s %s: %s: %t", c.kind, c.key, c.value, c.content, got)
		}
	}
}

// TestMentionsAndNames: an event that says whom it mentions concerns nobody else, whoever is named in its text.
func TestMentionsAndNames(t *testing.T) {
	rules := pushrules.DefaultGlobalRuleSet("ann", "x")
	for content, want := range map[string]string{
		`{"body":"Ann"}`:                                        ".m.rule.contains_display_name",
		`{"body":"@room"}`:                                      ".m.rule.roomnotif",
		`{"body":"Ann @room","m.mentions":{}}`:                  "",
		`{"body":"x","m.mentions":{"user_ids":["@ann:x"]}}`:     ".m.rule.is_user_mention",
		`{"body":"Ann","m.mentions":{"user_ids":["@annie:x"]}}`: "",
		`{"body":"x","m.mentions":{"room":true}}`:               ".m.rule.is_room_mention",
		`{"body":"x","m.relates_to":{"rel_type":"m.replace"}}`:  ".m.rule.suppress_edits",
		`{"body":"x"}`: "",
	} {
		if got := matched(t, rules, content); got != want {
			t.Errorf("%s: %q, want %q", content, got, want)
		}
	}
}

// TestMissingDefaults: the rules that an account lacks come where they belong, and are its own.
func TestMissingDefaults(t *testing.T) {
	full := pushrules.DefaultAccountRuleSets("ann", "x")
	want, _ := json.Marshal(full)
	if got := pushrules.WithDefaults(json.RawMessage(`{"global":{}}`), "ann", "x"); string(got) != string(want) {
		t.Errorf("of nothing it makes %s", got)
	}
	for _, stored := range []string{string(want), "", "null?", `{"global":[]}`} {
		if got := pushrules.WithDefaults(json.RawMessage(stored), "ann", "x"); string(got) != stored {
			t.Errorf("%s becomes %s", stored, got)
		}
	}
	for i := range full.Global.Override {
		var sets pushrules.AccountRuleSets
		if err := json.Unmarshal(want, &sets); err != nil {
			t.Fatal(err)
		}
		sets.Global.Override = append(sets.Global.Override[:i], sets.Global.Override[i+1:]...)
		for _, rule := range sets.Global.Override {
			for _, c := range rule.Conditions {
				c.Value = nil // as stock Dendrite stores it
			}
		}
		sets.AddDefaults("ann", "x")
		if got, _ := json.Marshal(sets); string(got) != string(want) {
			t.Errorf("without rule %d: %s", i, got)
		}
		sets.Global.Override[i].Enabled = !sets.Global.Override[i].Enabled
		if now, _ := json.Marshal(pushrules.DefaultAccountRuleSets("ann", "x")); string(now) != string(want) {
			t.Fatalf("rule %d was changed for all", i)
		}
	}
}
