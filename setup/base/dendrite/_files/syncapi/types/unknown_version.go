package types

import (
	"errors"

	"github.com/matrix-org/gomatrixserverlib"
)

// OfUnknownVersion reports whether an event cannot be read because its room has a version that this server does not
// know, as after another homeserver program has used the database. Whoever reads many events leaves such ones out.
func OfUnknownVersion(err error) bool {
	var unknown gomatrixserverlib.UnsupportedRoomVersionError
	return errors.As(err, &unknown)
}
