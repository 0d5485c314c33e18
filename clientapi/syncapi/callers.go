package syncapi

import (
	"context"

	userapi "github.com/matrix-org/dendrite/userapi/api"
)

// callerKey finds, in the context of a request, where its caller is to be noted: a *string.
type callerKey struct{}

// NoteCallers returns users so that ShowDelayIDs learns, without asking again, whose request Dendrite has
// accepted. Of an application service that is the user for whom it acts.
func NoteCallers(users userapi.UserInternalAPI) userapi.UserInternalAPI { return callerNotes{users} }

type callerNotes struct{ userapi.UserInternalAPI }

// QueryAccessToken implements userapi.QueryAcccessTokenAPI.
func (n callerNotes) QueryAccessToken(ctx context.Context, req *userapi.QueryAccessTokenRequest, res *userapi.QueryAccessTokenResponse) error {
	err := n.UserInternalAPI.QueryAccessToken(ctx, req, res)
	if caller, ok := ctx.Value(callerKey{}).(*string); ok && err == nil && res.Device != nil {
		*caller = res.Device.UserID
	}
	return err
}
