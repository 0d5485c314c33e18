package roomserver

import (
	"errors"
	"strings"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
	"github.com/matrix-org/dendrite/internal/eventutil"
	"github.com/matrix-org/dendrite/roomserver/types"
	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
)

// What differs between versions of Dendrite: the call of the auth rules and the meaning of errors. Nothing here does
// I/O, so every error is caused by the event and is final.

// allowed checks an event against these pieces of state. An error is a *api.Refusal.
func allowed(event gomatrixserverlib.PDU, state []*types.HeaderedEvent) error {
	pdus := make([]gomatrixserverlib.PDU, len(state))
	for i, e := range state {
		pdus[i] = e.PDU
	}
	auth := gomatrixserverlib.NewAuthEvents(pdus)
	if err := gomatrixserverlib.Allowed(event, &auth, userIDForSender); err != nil {
		return refuse(api.Forbidden, "%s", strings.TrimPrefix(err.Error(), "eventauth: "))
	}
	return nil
}

// userIDForSender is right in all rooms that futures can be in, where a sender ID is a user ID. Dendrite's own function
// would query the database for a malformed ID.
func userIDForSender(_ spec.RoomID, sender spec.SenderID) (*spec.UserID, error) {
	return spec.NewUserID(string(sender), true)
}

// buildRefusal returns the refusal for an event that could not be built.
func buildRefusal(err error) error {
	message := strings.TrimPrefix(err.Error(), "gomatrixserverlib: ")
	invalid, ok := errors.AsType[gomatrixserverlib.EventValidationError](err)
	switch {
	case errors.Is(err, eventutil.ErrRoomNoExists{}):
		return unknownRoom()
	case ok && invalid.Code == gomatrixserverlib.EventValidationTooLarge:
		return refuse(api.TooLarge, "%s", message)
	default:
		return refuse(api.BadEvent, "%s", message)
	}
}
