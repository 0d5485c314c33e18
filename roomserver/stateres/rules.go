package stateres

import (
	"fmt"
	"strconv"
)

// Creators says who the creators of a room are in a room version, and what power they have.
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

// Rules are what state resolution needs to know about a room version.
type Rules struct {
	// Allowed returns nil if the state authorises the event by the rules of the room version that depend on the room's
	// state: m.federate, memberships, join rules, power levels. It need not check the event's form, its signatures or
	// its list of auth events; that was done when the event was received.
	//
	// state holds what the rules may need for this event: the auth events selection of the server-server specification,
	// and the create event, which in room version 12 is always there. If a key is absent, the room has no such state.
	// The map is reused for the next event, so Allowed must not keep it.
	Allowed func(event *Event, state map[Key]*Event) error

	// Creators says who has power without being named in the power levels.
	Creators Creators

	// RestrictedJoins is true for room versions 8 and above: a join may be authorised by another user (MSC3083).
	RestrictedJoins bool
}

// ForRoomVersion returns the algorithm and the rules of a room version, "2" to "12"; allowed becomes Rules.Allowed. The
// error is [ErrBadInput] for unknown versions and for version "1", whose algorithm this package does not have.
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
