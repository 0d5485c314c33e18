package setup

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"github.com/matrix-org/dendrite/roomserver/api"
	"github.com/matrix-org/gomatrixserverlib/spec"
)

// halfMade is a roomserver whose methods must not be called before it is complete.
type halfMade struct {
	api.FederationRoomserverAPI
	t        *testing.T
	complete *bool
}

func (h halfMade) check() {
	if !*h.complete {
		h.t.Error("a reader got through to a roomserver that is not complete")
	}
}

func (h halfMade) QueryEventsByID(context.Context, *api.QueryEventsByIDRequest, *api.QueryEventsByIDResponse) error {
	h.check()
	return nil
}

func (h halfMade) QueryMembershipsForRoom(context.Context, *api.QueryMembershipsForRoomRequest, *api.QueryMembershipsForRoomResponse) error {
	h.check()
	return nil
}

func (h halfMade) QueryRoomsForUser(context.Context, spec.UserID, string) ([]spec.RoomID, error) {
	h.check()
	return nil, nil
}

func (h halfMade) QueryUserIDForSender(context.Context, spec.RoomID, spec.SenderID) (*spec.UserID, error) {
	h.check()
	return nil, nil
}

// A waiting message at start must not reach an incomplete roomserver: it ended the process after a crash.
func TestReadersWaitForTheRoomserver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ready, complete := make(chan struct{}), false
		early := earlyCalls{halfMade{t: t, complete: &complete}, ready}
		calls := []func(context.Context) error{
			func(ctx context.Context) error { return early.QueryEventsByID(ctx, nil, nil) },
			func(ctx context.Context) error { return early.QueryMembershipsForRoom(ctx, nil, nil) },
			func(ctx context.Context) error {
				_, err := early.QueryRoomsForUser(ctx, spec.UserID{}, "")
				return err
			},
			func(ctx context.Context) error {
				_, err := early.QueryUserIDForSender(ctx, spec.RoomID{}, "")
				return err
			},
		}
		cancelled, cancel := context.WithCancel(t.Context())
		cancel()
		answers := make(chan error, len(calls))
		for _, call := range calls {
			if err := call(cancelled); !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
			go func() { answers <- call(t.Context()) }()
		}
		synctest.Wait()
		complete = true
		close(ready)
		for range calls {
			if err := <-answers; err != nil {
				t.Error(err)
			}
		}
	})
}
