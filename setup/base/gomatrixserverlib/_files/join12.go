package gomatrixserverlib

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/tidwall/gjson"
	"github.com/tidwall/sjson"
)

// checkRestrictedJoin12 returns the local user who authorises a restricted join into a room of version 12, "" if none is
// needed. This is a creator who is in the room or, if there is none, a member with the power to invite.
func checkRestrictedJoin12(
	ctx context.Context, localServer spec.ServerName, rooms RestrictedRoomJoinQuerier, roomID spec.RoomID, sender spec.SenderID,
) (string, error) {
	rules, err := rooms.CurrentStateEvent(ctx, roomID, spec.MRoomJoinRules, "")
	if err != nil || rules == nil {
		return "", err
	}
	var content JoinRuleContent
	if err := json.Unmarshal(rules.Content(), &content); err != nil {
		return "", fmt.Errorf("join rules: %w", err)
	}
	if content.JoinRule != spec.Restricted && content.JoinRule != spec.KnockRestricted {
		return "", nil
	}
	if invited, err := rooms.InvitePending(ctx, roomID, sender); err != nil || invited {
		return "", err
	}
	allowed, resident := isInAllowedRoom(ctx, localServer, rooms, content.Allow, sender)
	switch {
	case allowed:
		return authorisingUser(ctx, localServer, rooms, roomID, sender)
	case !resident:
		return "", spec.UnableToAuthoriseJoin("This server cannot see the members of all rooms that allow the join.")
	}
	return "", spec.Forbidden("You are not joined to any matching rooms.")
}

// isInAllowedRoom reports whether the user is in one of the rooms, and whether this server is in all of them.
func isInAllowedRoom(
	ctx context.Context, localServer spec.ServerName, rooms RestrictedRoomJoinQuerier,
	allow []JoinRuleContentAllowRule, sender spec.SenderID,
) (allowed, resident bool) {
	resident = true
	for _, rule := range allow {
		id, err := spec.NewRoomID(rule.RoomID)
		if rule.Type != spec.MRoomMembership || err != nil {
			continue
		}
		info, err := rooms.RestrictedRoomJoinInfo(ctx, *id, sender, localServer)
		if err != nil || info == nil || !info.LocalServerInRoom {
			resident = false
			continue
		}
		if info.UserJoinedToRoom {
			return true, resident
		}
	}
	return false, resident
}

func authorisingUser(
	ctx context.Context, localServer spec.ServerName, rooms RestrictedRoomJoinQuerier, roomID spec.RoomID, sender spec.SenderID,
) (string, error) {
	create, err := rooms.CurrentStateEvent(ctx, roomID, spec.MRoomCreate, "")
	if err != nil {
		return "", err
	}
	var levels PowerLevelContent
	levels.Defaults()
	power, err := rooms.CurrentStateEvent(ctx, roomID, spec.MRoomPowerLevels, "")
	if err != nil {
		return "", err
	}
	if power != nil {
		if levels, err = NewPowerLevelContentFromEvent(power); err != nil {
			return "", err
		}
	}
	info, err := rooms.RestrictedRoomJoinInfo(ctx, roomID, sender, localServer)
	if err != nil || info == nil {
		return "", err
	}
	creators, found := PrivilegedCreators(create), ""
	for _, member := range info.JoinedUsers {
		user := member.StateKey()
		switch {
		case user == nil:
		case slices.Contains(creators, *user):
			return *user, nil
		case found == "" && levels.UserLevel(spec.SenderID(*user)) >= levels.Invite:
			found = *user
		}
	}
	if found == "" {
		return "", spec.UnableToGrantJoin("Nobody on this server has the power to let you into the room.")
	}
	return found, nil
}

// listWithoutCreate removes the create event from the auth events of a template, if the room version requires it.
func listWithoutCreate(proto *ProtoEvent, version RoomVersion) {
	if refs, ok := proto.AuthEvents.([]string); ok {
		proto.AuthEvents = ListedAuthEvents(version, proto.RoomID, refs)
	}
}

// checkCreateOfRoom checks that the response to a join has the create event of the room and no other. In room version 12
// the room ID determines the create event (MSC4291).
func checkCreateOfRoom(version RoomVersion, roomID *spec.RoomID, authEvents []PDU, state EventJSONs) error {
	if !version.IsDomainless() {
		return nil
	}
	found := false
	for _, e := range append(state.UntrustedEvents(version), authEvents...) {
		if e.Type() != spec.MRoomCreate || !e.StateKeyEquals("") {
			continue
		}
		if e.RoomID().String() != roomID.String() {
			return fmt.Errorf("the response has the create event of another room, %s", e.RoomID().String())
		}
		if RoomVersion(gjson.GetBytes(e.Content(), "room_version").Str) != version {
			return fmt.Errorf("the create event does not have room version %s", version)
		}
		found = true
	}
	if !found {
		return fmt.Errorf("the response lacks the create event of %s", roomID.String())
	}
	return nil
}

// fullState is the rest of an entry of invite_room_state, beyond the four fields of stripped state.
type fullState struct {
	raw  spec.RawJSON // the entry as it was received, nil if this server made it
	pdu  spec.RawJSON // replaces the four fields when the entry is passed on, nil if they suffice
	wire spec.RawJSON // the event that the entry was made from, nil if it came from another server
}

// newFullState keeps the whole event. From room version 12 on, clients too get the whole create event.
func newFullState(event PDU) fullState {
	var full fullState
	if wire, err := sjson.DeleteBytes(slices.Clone(event.JSON()), "unsigned"); err == nil {
		full.wire = wire
	}
	if event.Version().IsDomainless() && event.Type() == spec.MRoomCreate {
		full.pdu = event.JSON()
	}
	return full
}

// WholeInviteState returns the state for the invited server: whole events, in all room versions, so that the server can
// check the invite (MSC4311). A future Synapse will refuse stripped events.
func WholeInviteState(state []InviteStrippedState) []InviteStrippedState {
	state = slices.Clone(state)
	for i := range state {
		if state[i].full.wire != nil {
			state[i].full.pdu = state[i].full.wire
		}
	}
	return state
}

// receivedFullState keeps a create event that was received whole, if it has the form of room version 12.
func receivedFullState(entry []byte) fullState {
	full := fullState{raw: slices.Clone(entry)}
	e := gjson.ParseBytes(entry)
	if e.Get("type").Str == spec.MRoomCreate && RoomVersion(e.Get("content.room_version").Str).IsDomainless() &&
		e.Get("hashes").IsObject() && !e.Get("room_id").Exists() {
		full.pdu = full.raw
	}
	return full
}

// checkInviteState checks the state that comes with an invite into a room of version 12 (MSC4311). No entry may be of
// another room. A whole create event must have the hash that is the room's ID, and be signed by its sender's server.
// Stripped entries cannot be checked and are accepted.
func checkInviteState(ctx context.Context, input HandleInviteInput) error {
	if !input.RoomVersion.IsDomainless() {
		return nil
	}
	for _, entry := range input.StrippedState {
		if id := gjson.GetBytes(entry.full.raw, "room_id"); id.Exists() && id.Str != input.RoomID.String() {
			return spec.InvalidParam("invite_room_state has an event of another room")
		}
		if entry.full.pdu == nil || entry.full.raw == nil {
			continue
		}
		create, err := MustGetRoomVersion(input.RoomVersion).NewEventFromUntrustedJSON(entry.full.pdu)
		if err != nil {
			return spec.InvalidParam("the create event in invite_room_state is invalid: " + err.Error())
		}
		if create.RoomID().String() != input.RoomID.String() {
			return spec.InvalidParam("the create event in invite_room_state is that of another room")
		}
		if err := VerifyEventSignatures(ctx, create, input.Verifier, input.UserIDQuerier); err != nil {
			return spec.InvalidParam("the create event in invite_room_state is not signed by its sender's server")
		}
	}
	return nil
}
