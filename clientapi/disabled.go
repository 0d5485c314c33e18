package clientapi

import (
	"context"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
)

// disabled stands for the futureserver where the configuration switches it off: there is no future, and no
// token or ID stands for one. Creating never gets this far (dialect.off); the methods without a body here are
// not called from this package.
type disabled struct{ api.FutureInternalAPI }

func (disabled) PerformTokenAction(context.Context, api.Token) error { return api.ErrGone }

func (disabled) PerformDelayedEventAction(context.Context, string, string, api.Action) error {
	return api.ErrGone
}

func (disabled) QueryDelayedEvent(context.Context, string, string) (*api.Future, error) {
	return nil, api.ErrGone
}

func (disabled) QueryDelayedEvents(context.Context, api.DelayedFilter) ([]*api.Future, error) {
	return nil, nil
}

func (disabled) QueryFuturesByUser(context.Context, string) ([]*api.Future, error) { return nil, nil }

func (disabled) QueryFutures(context.Context, api.Filter) ([]*api.Future, error) { return nil, nil }

func (disabled) QueryFutureCounts(context.Context) api.Counts { return api.Counts{} }

func (disabled) QueryStatistics(context.Context) api.Statistics { return api.Statistics{} }

func (disabled) PerformAdminCancellation(context.Context, api.Filter) (int, error) { return 0, nil }
