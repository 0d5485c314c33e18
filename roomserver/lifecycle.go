package roomserver

import (
	"context"

	userapi "github.com/matrix-org/dendrite/userapi/api"
)

// WrapUserAPI returns inner with a hook. After an account has been deactivated, and before the request is answered, the
// hook is called with the user's ID; Dendrite notifies nobody else. A logout does not matter, because futures outlive
// the device that created them (generation 0, 5.10). The purge of a room needs no hook, because the roomserver's output
// contains it.
func WrapUserAPI(inner userapi.UserInternalAPI, onDeactivated func(userID string)) userapi.UserInternalAPI {
	return &deactivations{inner, onDeactivated}
}

type deactivations struct {
	userapi.UserInternalAPI
	report func(userID string)
}

// PerformAccountDeactivation implements userapi.ClientUserAPI. Dendrite always names the server.
func (d *deactivations) PerformAccountDeactivation(ctx context.Context, req *userapi.PerformAccountDeactivationRequest, res *userapi.PerformAccountDeactivationResponse) error {
	if err := d.UserInternalAPI.PerformAccountDeactivation(ctx, req, res); err != nil {
		return err
	}
	d.report("@" + req.Localpart + ":" + string(req.ServerName))
	return nil
}
