package perform

import (
	"strings"

	"github.com/matrix-org/gomatrixserverlib"
)

// isOfUser reports whether a state event other than m.room.member says something of one user. In a copy it would have
// another sender. Memberships of calls stay behind in any form: nobody would ever take them back in the new room.
func isOfUser(event gomatrixserverlib.PDU) bool {
	switch event.Type() {
	case "org.matrix.msc3401.call.member", "org.matrix.msc4143.rtc.member", "m.call.member", "m.rtc.member":
		return true
	}
	key := *event.StateKey()
	return strings.HasPrefix(key, "@") || strings.HasPrefix(key, "_@") // the second is how calls write it in most rooms
}
