package eventutil

import (
	"fmt"
	"slices"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/tidwall/gjson"
)

// CheckPowerLevels12 returns a Matrix error that says what is wrong with power levels that a client wants to set in a room
// of version 12 with these creators. The content may lack keys. The authorisation rules refuse the same, but their error
// does not help the client.
func CheckPowerLevels12(content []byte, creators []string) error {
	if _, err := gomatrixserverlib.EnforcedCanonicalJSON(content, gomatrixserverlib.RoomVersionV12); err != nil {
		return spec.BadJSON(err.Error())
	}
	levels := gjson.ParseBytes(content)
	if !levels.IsObject() {
		return spec.BadJSON("power levels must be an object")
	}
	for _, key := range []string{"users_default", "events_default", "state_default", "ban", "redact", "kick", "invite"} {
		if level := levels.Get(key); level.Exists() && level.Type != gjson.Number {
			return spec.BadJSON(fmt.Sprintf("%s must be an integer", key))
		}
	}
	for _, key := range []string{"users", "events", "notifications"} {
		if err := checkLevels(key, levels.Get(key)); err != nil {
			return err
		}
	}
	var err error
	levels.Get("users").ForEach(func(user, _ gjson.Result) bool {
		if _, invalid := spec.NewUserID(user.Str, true); invalid != nil {
			err = spec.BadJSON(fmt.Sprintf("users has %q, which is not a user ID", user.Str))
		} else if slices.Contains(creators, user.Str) {
			err = spec.InvalidParam(fmt.Sprintf("users must not name %s, who is a creator of the room", user.Str))
		}
		return err == nil
	})
	return err
}

// checkLevels checks that the value of the key, if there is one, is an object of integers.
func checkLevels(key string, levels gjson.Result) (err error) {
	if !levels.Exists() {
		return nil
	}
	if !levels.IsObject() {
		return spec.BadJSON(fmt.Sprintf("%s must be an object", key))
	}
	levels.ForEach(func(name, level gjson.Result) bool {
		if level.Type != gjson.Number {
			err = spec.BadJSON(fmt.Sprintf("%s of %q must be an integer", key, name.Str))
		}
		return err == nil
	})
	return err
}
