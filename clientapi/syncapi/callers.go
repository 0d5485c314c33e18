package syncapi

import (
	"context"

	userapi "github.com/matrix-org/dendrite/userapi/api"
)

// callerKey is the context key for a *string in which the caller of a request is noted.
type callerKey struct{}

// NoteCallers returns users, wrapped so that ShowDelayIDs learns whose request Dendrite has accepted. For an
// application service it is the user for whom it acts.
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
