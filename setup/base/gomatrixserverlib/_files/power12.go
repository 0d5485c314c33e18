package gomatrixserverlib

import (
	"fmt"

	"github.com/tidwall/gjson"
)

// checkPowerLevels is rule 10 for a sender with this level.
func (r *rules12) checkPowerLevels(level int64) error {
	if r.event.StateKey() == nil { // the text does not mention this case; Synapse fails
		return errorf("power levels have a state key")
	}
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
	if !r.levels.Exists() || !r.event.StateKeyEquals("") { // 10.5: an event with another state key replaces no levels
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
			// NewUserID is too strict: other servers accept more, and a server that rejects their events loses the room.
			if _, _, bad := SplitID('@', key.Str); bad != nil {
				err = errorf("users has %q, which is no user ID", key.Str)
			}
		}
		return err == nil
	})
	return err
}

// checkChange checks a change of a level. To add, change or remove a level, the sender needs at least the old and the new
// one.
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
