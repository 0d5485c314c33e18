package stateres

import (
	"bytes"
	"encoding/json"
	"math"
	"strconv"
	"strings"
)

// Contents come from other servers. What cannot be parsed counts as absent; the rules decide whether such an event is
// allowed. Keys are looked up one by one, because decoding into a Go struct ignores the case of keys.

type object map[string]json.RawMessage

func parse(raw []byte) object {
	var o object
	if json.Unmarshal(raw, &o) != nil {
		return nil
	}
	return o
}

// text returns the string under that name; ok is false if there is none.
func (o object) text(name string) (s string, ok bool) {
	raw := o[name]
	if len(raw) == 0 || raw[0] != '"' {
		return "", false
	}
	err := json.Unmarshal(raw, &s)
	return s, err == nil
}

// integer parses a power level; the second result is false if there is none. It accepts what Synapse accepts: integers,
// integers in a string (rooms up to version 9 have them), and fractions, which it truncates.
func integer(raw json.RawMessage) (int64, bool) {
	s := string(raw)
	if len(raw) > 0 && raw[0] == '"' {
		if json.Unmarshal(raw, &s) != nil {
			return 0, false
		}
		s = strings.TrimSpace(s)
		n, err := strconv.ParseInt(s, 10, 64)
		return n, err == nil
	}
	if n, err := strconv.ParseInt(s, 10, 64); err == nil {
		return n, true
	}
	f, err := strconv.ParseFloat(s, 64)
	if err != nil || math.Abs(f) > aboveAll {
		return 0, false
	}
	return int64(f), true
}

// userLevels are the power levels of users, from the content of a power levels event.
type userLevels struct {
	users        map[string]int64
	usersDefault int64
}

func parseLevels(content []byte) *userLevels {
	o := parse(content)
	l := &userLevels{}
	l.usersDefault, _ = integer(o["users_default"])
	users := parse(o["users"])
	l.users = make(map[string]int64, len(users))
	for user, raw := range users {
		if bytes.Equal(raw, []byte("null")) {
			continue // the default, as in Synapse
		}
		l.users[user], _ = integer(raw)
	}
	return l
}

func (l *userLevels) of(user string) int64 {
	if level, ok := l.users[user]; ok {
		return level
	}
	return l.usersDefault
}

// isPowerEvent reports whether the event is a power event: it can take away a user's right to do something.
func isPowerEvent(e *Event) bool {
	switch e.Type {
	case createKey.Type, powerLevelsKey.Type, joinRulesKey.Type:
		return e.StateKey == ""
	case memberType:
		if e.Sender == e.StateKey {
			return false
		}
		membership, _ := parse(e.Content).text("membership")
		return membership == "leave" || membership == "ban"
	}
	return false
}

// needed returns the keys of the state that may authorise the event, by the auth events selection of the server-server
// specification. They include the create event.
func (r Rules) needed(e *Event) []Key {
	if e.Key() == createKey {
		return nil
	}
	keys := append(make([]Key, 0, 8), createKey, powerLevelsKey, Key{memberType, e.Sender})
	if e.Type != memberType {
		return keys
	}
	if e.StateKey != e.Sender {
		keys = append(keys, Key{memberType, e.StateKey})
	}
	content := parse(e.Content)
	switch membership, _ := content.text("membership"); membership {
	case "join":
		keys = append(keys, joinRulesKey)
		if user, ok := content.text("join_authorised_via_users_server"); ok && r.RestrictedJoins {
			keys = append(keys, Key{memberType, user})
		}
	case "invite":
		keys = append(keys, joinRulesKey)
		if token, ok := parse(parse(content["third_party_invite"])["signed"]).text("token"); ok {
			keys = append(keys, Key{thirdPartyInviteType, token})
		}
	case "knock":
		keys = append(keys, joinRulesKey)
	}
	return keys
}
