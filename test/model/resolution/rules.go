// Package resolution is the reference for state resolution: the authorisation rules written from the room version's
// specification, a slow resolver written from the definitions, a generator of random rooms, and vectors with known
// answers. It is as simple as possible and shares no code with the tested package, except types.
package resolution

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"

	"github.com/matrix-org/dendrite/futures/roomserver/stateres"
)

type (
	// Event and Key are those of the tested package.
	Event = stateres.Event
	// Key names one piece of state.
	Key = stateres.Key
	// State is a room's state.
	State = map[Key]*Event
)

// Allowed returns the rules of room version 11 or 12 that depend on the room's state: numbers 4 to 11 of "Authorization
// rules". It uses Event.Value as content if Parse has set it.
func Allowed(version string) func(e *Event, state map[Key]*Event) error {
	return func(e *Event, state map[Key]*Event) error {
		if e.Type == "m.room.create" {
			return nil
		}
		create := state[Key{Type: "m.room.create"}]
		if create == nil {
			return errors.New("no create event")
		}
		r := room{v12: version == "12", state: state, create: create}
		return r.allowed(e)
	}
}

// Parse returns the event's content; an invalid content is empty.
func Parse(e *Event) map[string]any {
	if content, ok := e.Value.(map[string]any); ok {
		return content
	}
	content := map[string]any{}
	if json.Unmarshal(e.Content, &content) != nil {
		return map[string]any{}
	}
	return content
}

type room struct {
	v12    bool
	state  State
	create *Event
}

func domain(id string) string {
	_, d, _ := strings.Cut(id, ":")
	return d
}

func (r room) allowed(e *Event) error {
	if federate, ok := Parse(r.create)["m.federate"].(bool); ok && !federate { // 4
		if domain(e.Sender) != domain(r.create.Sender) {
			return errors.New("the room is not federated")
		}
		if e.Type == "m.room.member" && domain(e.StateKey) != domain(r.create.Sender) {
			return errors.New("the room is not federated")
		}
	}
	if e.Type == "m.room.member" { // 5
		return r.memberAllowed(e)
	}
	if r.membership(e.Sender) != "join" { // 6
		return errors.New("the sender is not joined")
	}
	if e.Type == "m.room.third_party_invite" { // 7
		return r.need(e.Sender, r.level("invite", 0))
	}
	if err := r.need(e.Sender, r.levelOfType(e.Type)); err != nil { // 8
		return err
	}
	if strings.HasPrefix(e.StateKey, "@") && e.StateKey != e.Sender { // 9
		return errors.New("the state key is another user")
	}
	if e.Type == "m.room.power_levels" { // 10
		return r.powerLevelsAllowed(e)
	}
	return nil // 11
}

func (r room) membership(user string) string {
	e := r.state[Key{Type: "m.room.member", StateKey: user}]
	if e == nil {
		return "leave"
	}
	membership, _ := Parse(e)["membership"].(string)
	return membership
}

// levels is the content of the power levels event, or nil.
func (r room) levels() map[string]any {
	if e := r.state[Key{Type: "m.room.power_levels"}]; e != nil {
		return Parse(e)
	}
	return nil
}

func (r room) level(name string, otherwise float64) float64 {
	if n, ok := r.levels()[name].(float64); ok {
		return n
	}
	return otherwise
}

func (r room) levelOfType(eventType string) float64 {
	events, _ := r.levels()["events"].(map[string]any)
	if n, ok := events[eventType].(float64); ok {
		return n
	}
	return r.level("state_default", 50)
}

func (r room) isCreator(user string) bool {
	if user == r.create.Sender {
		return true
	}
	additional, _ := Parse(r.create)["additional_creators"].([]any)
	for _, a := range additional {
		if a == user {
			return true
		}
	}
	return false
}

func (r room) power(user string) float64 {
	if r.v12 && r.isCreator(user) {
		return math.Inf(1)
	}
	levels := r.levels()
	if levels == nil {
		if !r.v12 && user == r.create.Sender {
			return 100
		}
		return 0
	}
	users, _ := levels["users"].(map[string]any)
	if n, ok := users[user].(float64); ok {
		return n
	}
	return r.level("users_default", 0)
}

func (r room) need(user string, level float64) error {
	if power := r.power(user); power < level {
		return fmt.Errorf("power %v is less than %v", power, level)
	}
	return nil
}

// memberAllowed is rule 5.
func (r room) memberAllowed(e *Event) error {
	membership, _ := Parse(e)["membership"].(string)
	switch membership {
	case "join":
		return r.joinAllowed(e)
	case "invite":
		if _, thirdParty := Parse(e)["third_party_invite"]; thirdParty {
			return errors.New("third party invites are not in the model")
		}
		if r.membership(e.Sender) != "join" {
			return errors.New("the sender is not joined")
		}
		if m := r.membership(e.StateKey); m == "join" || m == "ban" {
			return errors.New("the target is joined or banned")
		}
		return r.need(e.Sender, r.level("invite", 0))
	case "leave":
		return r.leaveAllowed(e)
	case "ban":
		if r.membership(e.Sender) != "join" {
			return errors.New("the sender is not joined")
		}
		if r.power(e.StateKey) >= r.power(e.Sender) {
			return errors.New("the target is as powerful")
		}
		return r.need(e.Sender, r.level("ban", 50))
	case "knock":
		if rule := r.joinRule(); rule != "knock" && rule != "knock_restricted" {
			return errors.New("no knocking here")
		}
		if e.Sender != e.StateKey {
			return errors.New("knocks for another user")
		}
		if m := r.membership(e.StateKey); m == "ban" || m == "invite" || m == "join" {
			return errors.New("need not knock, or may not")
		}
		return nil
	}
	return errors.New("unknown membership")
}

func (r room) joinRule() string {
	e := r.state[Key{Type: "m.room.join_rules"}]
	if e == nil {
		return "invite"
	}
	rule, _ := Parse(e)["join_rule"].(string)
	return rule
}

// joinAllowed is rule 5.3.
func (r room) joinAllowed(e *Event) error {
	if len(e.PrevEvents) == 1 && e.PrevEvents[0] == r.create.ID && e.StateKey == r.create.Sender {
		return nil
	}
	if e.Sender != e.StateKey {
		return errors.New("joins another user")
	}
	now := r.membership(e.StateKey)
	if now == "ban" {
		return errors.New("banned")
	}
	in := now == "join" || now == "invite"
	switch r.joinRule() {
	case "public":
		return nil
	case "invite", "knock":
		if in {
			return nil
		}
	case "restricted", "knock_restricted":
		if in {
			return nil
		}
		authoriser, _ := Parse(e)["join_authorised_via_users_server"].(string)
		if r.membership(authoriser) != "join" {
			return errors.New("authorised by nobody who is joined")
		}
		return r.need(authoriser, r.level("invite", 0))
	}
	return errors.New("the join rule forbids it")
}

// leaveAllowed is rule 5.5.
func (r room) leaveAllowed(e *Event) error {
	if e.Sender == e.StateKey {
		if m := r.membership(e.Sender); m != "join" && m != "invite" && m != "knock" {
			return errors.New("not there to leave")
		}
		return nil
	}
	if r.membership(e.Sender) != "join" {
		return errors.New("the sender is not joined")
	}
	if r.membership(e.StateKey) == "ban" {
		if err := r.need(e.Sender, r.level("ban", 50)); err != nil {
			return err
		}
	}
	if r.power(e.StateKey) >= r.power(e.Sender) {
		return errors.New("the target is as powerful")
	}
	return r.need(e.Sender, r.level("kick", 50))
}

var named = []string{"users_default", "events_default", "state_default", "ban", "redact", "kick", "invite"}

// powerLevelsAllowed is rule 10.
func (r room) powerLevelsAllowed(e *Event) error {
	next := Parse(e)
	if err := r.wellFormed(next); err != nil {
		return err
	}
	now := r.levels()
	if now == nil { // 10.5
		return nil
	}
	power := r.power(e.Sender)
	for _, name := range named { // 10.6
		if err := changeAllowed(now, next, name, power); err != nil {
			return err
		}
	}
	for _, kind := range []string{"events", "notifications", "users"} { // 10.7 to 10.10
		before, _ := now[kind].(map[string]any)
		after, _ := next[kind].(map[string]any)
		for name := range merged(before, after) {
			if err := changeAllowed(before, after, name, power); err != nil {
				return err
			}
			if kind == "users" && name != e.Sender && before[name] != after[name] && before[name] == power {
				return errors.New("changes somebody as powerful")
			}
		}
	}
	return nil
}

// wellFormed is rules 10.1 to 10.4.
func (r room) wellFormed(levels map[string]any) error {
	for _, name := range named {
		if v, ok := levels[name]; ok && !isInteger(v) {
			return errors.New(name + " is no integer")
		}
	}
	for _, kind := range []string{"events", "notifications", "users"} {
		v, ok := levels[kind]
		if !ok {
			continue
		}
		entries, ok := v.(map[string]any)
		if !ok {
			return errors.New(kind + " is no object")
		}
		for name, n := range entries {
			if !isInteger(n) {
				return errors.New(kind + " has what is no integer")
			}
			if kind == "users" && (!strings.HasPrefix(name, "@") || domain(name) == "") {
				return errors.New("not a user: " + name)
			}
			if kind == "users" && r.v12 && r.isCreator(name) {
				return errors.New("names a creator")
			}
		}
	}
	return nil
}

func isInteger(v any) bool {
	n, ok := v.(float64)
	return ok && n == math.Trunc(n)
}

// changeAllowed reports whether a user with that power may change before[name] to after[name].
func changeAllowed(before, after map[string]any, name string, power float64) error {
	if before[name] == after[name] {
		return nil
	}
	for _, v := range []any{before[name], after[name]} {
		if n, ok := v.(float64); ok && n > power {
			return errors.New("changes a level above the sender's: " + name)
		}
	}
	return nil
}

func merged(a, b map[string]any) map[string]bool {
	names := map[string]bool{}
	for name := range a {
		names[name] = true
	}
	for name := range b {
		names[name] = true
	}
	return names
}
