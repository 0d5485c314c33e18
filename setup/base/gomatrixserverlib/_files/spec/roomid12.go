package spec

const hashLength = 43 // of a SHA-256 in base64 without padding

// IsDomainless reports whether the room ID names no server, as in room version 12 and later (MSC4291). Then Domain is
// empty, and OpaqueID is the ID of the create event without its sigil.
func (room RoomID) IsDomainless() bool { return room.domain == "" }

// UnverifiedRoomID is the room ID of an event whose room_id is malformed. No such room can exist, so lookups by this ID
// find nothing.
func UnverifiedRoomID(id string) RoomID { return RoomID{raw: id} }

// isHashRoomID reports whether the ID has the form of room version 12: "!" and a URL-safe base64 hash (MSC4291).
func isHashRoomID(id string) bool {
	if len(id) != 1+hashLength || id[0] != roomSigil {
		return false
	}
	for _, c := range []byte(id[1:]) {
		switch {
		case 'A' <= c && c <= 'Z', 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '-', c == '_':
		default:
			return false
		}
	}
	return true
}
