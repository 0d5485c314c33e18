package stateres

import (
	"fmt"
	"strconv"
)

// Creators says whom a room version holds for the creators of a room, and what power they have.
type Creators int

const (
	// CreatorInContent is for room versions 1 to 10: "creator" in the create event's content. While no power levels
	// are set, the creator has 100.
	CreatorInContent Creators = iota
	// CreatorIsSender is for room version 11: the sender of the create event. While no power levels are set, the
	// creator has 100.
	CreatorIsSender
	// CreatorsAboveAll is for room version 12: the sender of the create event and its additional_creators are above
	// every power level, always (MSC4289).
	CreatorsAboveAll
)

// Rules are what state resolution needs to know of a room version.
type Rules struct {
	// Allowed returns nil if the state authorises the event, by those rules of the room version that depend on the
	// room's state: m.federate, memberships, join rules, power levels. It is not asked to check the event's shape, its
	// signatures or its list of auth events; that was done when the event was received.
	//
	// State holds at most what the rules may need for this event: what the auth events selection of the server-server
	// specification names, and the create event, which in room version 12 is always there. A key that is absent means
	// that the room has no such state. The map is used again for the next event, so Allowed must not keep it.
	Allowed func(event *Event, state map[Key]*Event) error

	// Creators says who has power without the power levels event.
	Creators Creators

	// RestrictedJoins is true for room versions 8 and above: a join may be authorised by another user (MSC3083).
	RestrictedJoins bool
}

// ForRoomVersion returns the algorithm of a room version, "2" to "12", and its rules with the given function for
// Allowed. Room version "1" has an algorithm of its own that is not here; for it and for unknown versions the error is
// [ErrBadInput].
func ForRoomVersion(version string, allowed func(event *Event, state map[Key]*Event) error) (Algorithm, Rules, error) {
	n, err := strconv.Atoi(version)
	if err != nil || strconv.Itoa(n) != version || n < 2 || n > 12 {
		return 0, Rules{}, fmt.Errorf("%w: room version %q", ErrBadInput, version)
	}
	rules := Rules{Allowed: allowed, RestrictedJoins: n >= 8}
	switch {
	case n >= 12:
		rules.Creators = CreatorsAboveAll
		return V21, rules, nil
	case n == 11:
		rules.Creators = CreatorIsSender
	}
	return V2, rules, nil
}
