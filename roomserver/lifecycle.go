package roomserver

import (
	"context"

	userapi "github.com/matrix-org/dendrite/userapi/api"
)

// WrapUserAPI returns inner with a hook that is called with the user's ID after an account has been
// deactivated, before the request is answered: Dendrite tells nobody else of it. Logging out is not
// reported, since futures outlive the device that made them (generation 0, 5.10). The purge of a room needs
// no hook: it comes over the roomserver's output.
func WrapUserAPI(inner userapi.UserInternalAPI, onDeactivated func(userID string)) userapi.UserInternalAPI {
	return &deactivations{inner, onDeactivated}
}

type deactivations struct {
	userapi.UserInternalAPI
	report func(userID string)
}

// PerformAccountDeactivation implements userapi.ClientUserAPI. Dendrite's clients always name the server.
func (d *deactivations) PerformAccountDeactivation(ctx context.Context, req *userapi.PerformAccountDeactivationRequest, res *userapi.PerformAccountDeactivationResponse) error {
	if err := d.UserInternalAPI.PerformAccountDeactivation(ctx, req, res); err != nil {
		return err
	}
	d.report("@" + req.Localpart + ":" + string(req.ServerName))
	return nil
}
