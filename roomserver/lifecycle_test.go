package roomserver

import (
	"context"
	"errors"
	"testing"

	userapi "github.com/matrix-org/dendrite/userapi/api"
)

type accounts struct {
	userapi.UserInternalAPI
	err     error
	deleted []string // devices
}

func (a *accounts) PerformAccountDeactivation(context.Context, *userapi.PerformAccountDeactivationRequest, *userapi.PerformAccountDeactivationResponse) error {
	return a.err
}

func (a *accounts) PerformDeviceDeletion(_ context.Context, req *userapi.PerformDeviceDeletionRequest, _ *userapi.PerformDeviceDeletionResponse) error {
	a.deleted = append(a.deleted, req.DeviceIDs...)
	return nil
}

func TestWrapUserAPI(t *testing.T) {
	var reported []string
	inner := &accounts{err: errors.New("the database is down")}
	wrapped := WrapUserAPI(inner, func(userID string) { reported = append(reported, userID) })
	req := &userapi.PerformAccountDeactivationRequest{Localpart: "alice", ServerName: "test"}
	if err := wrapped.PerformAccountDeactivation(t.Context(), req, &userapi.PerformAccountDeactivationResponse{}); err != inner.err {
		t.Errorf("got error %v", err)
	}
	logout := &userapi.PerformDeviceDeletionRequest{UserID: "@alice:test", DeviceIDs: []string{"A"}}
	if err := wrapped.PerformDeviceDeletion(t.Context(), logout, &userapi.PerformDeviceDeletionResponse{}); err != nil || len(inner.deleted) != 1 {
		t.Errorf("logging out: %v, %v", inner.deleted, err)
	}
	if len(reported) != 0 {
		t.Fatalf("reported %q", reported)
	}
	inner.err = nil
	if err := wrapped.PerformAccountDeactivation(t.Context(), req, &userapi.PerformAccountDeactivationResponse{}); err != nil {
		t.Fatal(err)
	}
	if len(reported) != 1 || reported[0] != "@alice:test" {
		t.Errorf("reported %q", reported)
	}
}
