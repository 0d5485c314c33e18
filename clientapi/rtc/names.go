package rtc

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"

	"github.com/matrix-org/gomatrixserverlib"
)

// legacySlot is the slot of those who name none: the call of the whole room.
const legacySlot = "m.call#ROOM"

// roomAlias is what a Matrix room's slot is called on the SFU. lk-jwt-service computes the same, so that its clients
// and ours meet.
func roomAlias(roomID, slotID string) string { return pseudonym(roomID, slotID) }

// A participant is who asks for a token, with what the request says about the membership.
type participant struct {
	userID   string
	deviceID string // claimed by the client; "" if the request does not say
	memberID string // "" for memberships by state event
}

// identity is what a participant is called on the SFU. Other clients compute it from the membership, so it follows
// from the shape of the request which of them can see this participant: without a member ID those that read state
// events, with a device those of MSC4195 in July 2026, else those of today's text.
func (p participant) identity() string {
	switch {
	case p.memberID == "":
		return p.userID + ":" + p.deviceID
	case p.deviceID != "":
		return pseudonym(p.userID, p.deviceID, p.memberID)
	}
	return pseudonym(p.userID, p.memberID)
}

// pseudonym hashes the parts as canonical JSON.
func pseudonym(parts ...string) string {
	var encoded bytes.Buffer
	e := json.NewEncoder(&encoded)
	e.SetEscapeHTML(false) // canonical JSON has < and > as they are
	// Strings can always be encoded.
	_ = e.Encode(parts)
	sum := sha256.Sum256(gomatrixserverlib.CanonicalJSONAssumeValid(encoded.Bytes()))
	return base64.RawStdEncoding.EncodeToString(sum[:])
}
