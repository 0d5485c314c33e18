package clientapi

import (
	"context"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
)

// disabled takes the place of the futureserver if the configuration switches it off. It has no futures, and every token
// and ID is unknown to it.
type disabled struct{}

var _ api.ClientAPI = disabled{}

// PerformFutureCreation is never called, because dialect.off refuses such requests earlier.
func (disabled) PerformFutureCreation(context.Context, *api.Future) (*api.Future, error) {
	return nil, &api.Refusal{Kind: api.Forbidden, Message: "Futures are switched off on this server"}
}

func (disabled) QueryFutureByTransaction(context.Context, string, []byte) (*api.Future, error) {
	return nil, nil
}

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
