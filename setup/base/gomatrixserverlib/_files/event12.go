package gomatrixserverlib

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/tidwall/gjson"
	"github.com/tidwall/sjson"
	"golang.org/x/crypto/ed25519"
)

const (
	// RoomVersionV12 is room version 12: room IDs are hashes (MSC4291), creators are above all power levels (MSC4289),
	// and state is resolved by state resolution 2.1 (MSC4297).
	RoomVersionV12 RoomVersion = "12"
	// StateResV2_1 is state resolution 2.1. It needs whole sets of state. ResolveConflicts, which gets their union,
	// refuses it: use ResolveSets of Dendrite's roomserver/state.
	StateResV2_1 StateResAlgorithm = 3
)

func init() {
	roomVersionMeta[RoomVersionV12] = RoomVersionImpl{
		ver:                                    RoomVersionV12,
		stable:                                 true,
		stateResAlgorithm:                      StateResV2_1,
		eventFormat:                            EventFormatV2,
		eventIDFormat:                          EventIDFormatV3,
		redactionAlgorithm:                     redactExactEventJSON12,
		signatureValidityCheckFunc:             StrictValiditySignatureCheck,
		canonicalJSONCheck:                     verifyCanonicalJSON12,
		notificationLevelCheck:                 noCheckLevels, // allowed12 does
		restrictedJoinServernameFunc:           extractAuthorisedViaServerName,
		checkRestrictedJoin:                    checkRestrictedJoin12,
		parsePowerLevelsFunc:                   parseIntegerPowerLevels,
		checkKnockingAllowedFunc:               checkKnocking,
		checkRestrictedJoinAllowedFunc:         allowRestrictedJoins,
		checkCreateEvent:                       noCheckCreateEvent, // allowed12 does
		newEventFromUntrustedJSONFunc:          newEventFromUntrustedJSON12,
		newEventFromTrustedJSONFunc:            newEventFromTrustedJSON12,
		newEventFromTrustedJSONWithEventIDFunc: newEventFromTrustedJSONWithEventID12,
	}
}

// IsDomainless reports whether room IDs of this version name no server, but are the IDs of the create events (MSC4291).
func (v RoomVersion) IsDomainless() bool { return v == RoomVersionV12 }

// CreateEventID is the ID of the create event of a room whose ID is one of version 12 (MSC4291).
func CreateEventID(roomID string) string { return "$" + strings.TrimPrefix(roomID, "!") }

// event12 is an event of room version 12. On the wire no event lists the create event among its auth events, and the
// create event has no room_id (MSC4291). The methods fill in both, so that auth chains and auth checks need not know about
// this. JSON returns the wire form.
type event12 struct {
	eventV2
	allAuthEvents []string // with the create event
}

func (e *event12) isCreate() bool { return e.Type() == spec.MRoomCreate && e.StateKeyEquals("") }

// RoomID returns the ID of the event's room. For a create event it is made of the event's own ID.
func (e *event12) RoomID() spec.RoomID {
	if e.isCreate() {
		return parsedRoomID("!" + e.EventID()[1:])
	}
	return parsedRoomID(e.eventFields.RoomID)
}

// Membership returns the membership of a member event. It looks for the exact key: Go's decoder ignores the case of keys,
// so the roomserver would see a member whom the rules do not see.
func (e *event12) Membership() (string, error) {
	if e.StateKey() == nil {
		return "", errors.New("gomatrixserverlib: a member event has a state key")
	}
	membership := gjson.GetBytes(e.Content(), "membership")
	if membership.Exists() && membership.Type != gjson.String {
		return "", errors.New("gomatrixserverlib: membership is not a string")
	}
	return membership.Str, nil
}

// AuthEventIDs returns the create event and the auth events that the event lists.
func (e *event12) AuthEventIDs() []string { return e.allAuthEvents }

// Sign adds a signature to this event and returns it.
func (e *event12) Sign(signingName string, keyID KeyID, privateKey ed25519.PrivateKey) PDU {
	e.eventV2.Sign(signingName, keyID, privateKey)
	return e
}

// SetUnsigned returns a copy of the event with another unsigned part.
func (e *event12) SetUnsigned(unsigned any) (PDU, error) {
	p, err := e.eventV2.SetUnsigned(unsigned)
	if err != nil {
		return nil, err
	}
	return &event12{eventV2: *p.(*eventV2), allAuthEvents: e.allAuthEvents}, nil
}

// parse12 reads the fields of an event and checks the form of its IDs.
func parse12(eventJSON []byte, redacted bool) (*event12, error) {
	e := &event12{}
	if err := json.Unmarshal(withoutLookalikes(eventJSON), &e.eventV2); err != nil {
		return nil, err
	}
	if !gjson.ParseBytes(e.eventFields.Content).IsObject() {
		return nil, BadJSONError{errors.New("content must be an object")} // otherwise it has no event ID
	}
	if e.eventV2.AuthEvents == nil || e.eventV2.PrevEvents == nil {
		return nil, BadJSONError{errors.New("auth_events and prev_events must be lists of event IDs")}
	}
	e.roomVersion, e.redacted, e.eventJSON = RoomVersionV12, redacted, eventJSON
	e.allAuthEvents = e.eventV2.AuthEvents
	if e.isCreate() {
		if gjson.GetBytes(eventJSON, "room_id").Exists() {
			return nil, BadJSONError{errors.New("a create event of room version 12 has no room_id")}
		}
		return e, nil
	}
	id, err := spec.NewRoomID(e.eventFields.RoomID)
	if err != nil || !id.IsDomainless() {
		return nil, BadJSONError{fmt.Errorf("room_id %q is not a room ID of room version 12", e.eventFields.RoomID)}
	}
	create := CreateEventID(e.eventFields.RoomID)
	if slices.Contains(e.eventV2.AuthEvents, create) {
		return nil, BadJSONError{errors.New("auth_events must not contain the create event")}
	}
	e.allAuthEvents = append([]string{create}, e.eventV2.AuthEvents...)
	return e, nil
}

func newEventFromTrustedJSON12(eventJSON []byte, redacted bool, _ IRoomVersion) (PDU, error) {
	e, err := parse12(eventJSON, redacted)
	if err != nil {
		return nil, err
	}
	return e, nil
}

func newEventFromTrustedJSONWithEventID12(eventID string, eventJSON []byte, redacted bool, _ IRoomVersion) (PDU, error) {
	e, err := parse12(eventJSON, redacted)
	if err != nil {
		return nil, err
	}
	e.EventIDRaw = eventID
	return e, nil
}

// newEventFromUntrustedJSON12 parses an event from another server. If its content hash is wrong, the event is redacted.
func newEventFromUntrustedJSON12(eventJSON []byte, roomVersion IRoomVersion) (PDU, error) {
	if gjson.GetBytes(eventJSON, "_*").Exists() {
		return nil, errors.New("gomatrixserverlib: the event has a top-level key that starts with '_'")
	}
	if err := roomVersion.CheckCanonicalJSON(eventJSON); err != nil {
		return nil, BadJSONError{err}
	}
	var err error
	eventJSON = withoutDuplicates(eventJSON)
	for _, key := range []string{"outlier", "destinations", "age_ts", "unsigned", "event_id"} {
		if eventJSON, err = sjson.DeleteBytes(eventJSON, key); err != nil {
			return nil, err
		}
	}
	eventJSON = CanonicalJSONAssumeValid(eventJSON)
	e, err := parse12(eventJSON, false)
	if err != nil {
		return nil, err
	}
	if checkEventContentHash(eventJSON) != nil {
		redactedJSON, err := roomVersion.RedactEventJSON(eventJSON)
		if err != nil {
			return nil, err
		}
		redactedJSON = CanonicalJSONAssumeValid(redactedJSON)
		if bytes.Equal(redactedJSON, eventJSON) {
			e.redacted = true
		} else if e, err = parse12(redactedJSON, true); err != nil {
			return nil, err
		}
	}
	return e, checkFields12(e)
}

func checkFields12(e *event12) error {
	if len(e.eventV2.AuthEvents) > 10 || len(e.eventV2.PrevEvents) > 20 {
		return BadJSONError{errors.New("an event has at most 10 auth_events and 20 prev_events")}
	}
	if !utf8.Valid(e.eventJSON) {
		return BadJSONError{errors.New("the event is not UTF-8")}
	}
	return CheckFields(e)
}

var eventFields12 = []string{
	"type", "room_id", "sender", "state_key", "content", "hashes", "signatures", "depth", "prev_events", "auth_events",
	"origin_server_ts", "redacts", "unsigned", "event_id",
}

// withoutLookalikes removes the members of an event whose names differ from a field's only in case. Go's decoder would
// take them for the field; no other server does.
func withoutLookalikes(eventJSON []byte) []byte {
	var kept []byte
	gjson.ParseBytes(eventJSON).ForEach(func(key, _ gjson.Result) bool {
		if slices.Contains(eventFields12, key.Str) ||
			!slices.ContainsFunc(eventFields12, func(name string) bool { return strings.EqualFold(name, key.Str) }) {
			return true
		}
		if kept == nil {
			kept = slices.Clone(eventJSON)
		}
		if without, err := sjson.DeleteBytes(kept, gjson.Escape(key.Str)); err == nil {
			kept = without
		}
		return true
	})
	if kept == nil {
		return eventJSON
	}
	return kept
}

// redactExactEventJSON12 is the redaction of room version 12.
func redactExactEventJSON12(eventJSON []byte) ([]byte, error) {
	return redactEventJSON12(withoutLookalikes(eventJSON))
}

// redactEventJSON12 keeps "signed" of third_party_invite, as room versions 11 and 12 require. redactEventJSONV5 does not,
// so the ID of such an event would differ from the one that other servers compute.
func redactEventJSON12(eventJSON []byte) ([]byte, error) {
	redacted, err := redactEventJSONV5(eventJSON)
	if err != nil || gjson.GetBytes(redacted, "type").Str != spec.MRoomMember {
		return redacted, err
	}
	invite := gjson.GetBytes(eventJSON, "content.third_party_invite")
	if !invite.IsObject() {
		return redacted, nil
	}
	kept := []byte("{}")
	if signed := invite.Get("signed"); signed.Exists() {
		if kept, err = sjson.SetRawBytes(kept, "signed", []byte(signed.Raw)); err != nil {
			return nil, err
		}
	}
	return sjson.SetRawBytes(redacted, "content.third_party_invite", kept)
}

// shape12 changes an event that EventBuilder.Build has assembled to the form of room version 12.
func shape12(eventJSON []byte, eb *EventBuilder) ([]byte, error) {
	var err error
	if eb.Type == spec.MRoomCreate && eb.StateKey != nil && *eb.StateKey == "" {
		return sjson.DeleteBytes(eventJSON, "room_id")
	}
	refs := gjson.GetBytes(eventJSON, "auth_events")
	listed := make([]string, 0, 8)
	for _, ref := range refs.Array() {
		if ref.Str != CreateEventID(eb.RoomID) {
			listed = append(listed, ref.Str)
		}
	}
	eventJSON, err = sjson.SetBytes(eventJSON, "auth_events", listed)
	return eventJSON, err
}

// ListedAuthEvents returns the auth events of a template in their wire form: from room version 12 on without the create
// event (MSC4291).
func ListedAuthEvents(version RoomVersion, roomID string, refs []string) []string {
	if !version.IsDomainless() {
		return refs
	}
	create := CreateEventID(roomID)
	return slices.DeleteFunc(slices.Clone(refs), func(id string) bool { return id == create })
}

// parsedRoomID parses the ID of a room. It never panics: a malformed ID becomes one of no room.
func parsedRoomID(id string) spec.RoomID {
	roomID, err := spec.NewRoomID(id)
	if err != nil {
		return spec.UnverifiedRoomID(id)
	}
	return *roomID
}
