package routing

import (
	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/matrix-org/util"
	"github.com/tidwall/gjson"
)

// additionalCreators returns the creators that the new room gets in addition to the user who upgrades it, nil if the
// request names none. Room versions before 12 ignore them.
func (r *upgradeRoomRequest) additionalCreators() ([]string, *util.JSONResponse) {
	if r.NewVersion == "" {
		return nil, invalid(spec.MissingParam("new_version is missing"))
	}
	named := gjson.ParseBytes(r.AdditionalCreators)
	if !gomatrixserverlib.RoomVersion(r.NewVersion).IsDomainless() || !named.Exists() {
		return nil, nil
	}
	if err := gomatrixserverlib.CheckAdditionalCreators(named); err != nil {
		return nil, invalid(spec.InvalidParam(err.Error()))
	}
	creators := make([]string, 0, len(named.Array()))
	for _, user := range named.Array() {
		creators = append(creators, user.Str)
	}
	return creators, nil
}
