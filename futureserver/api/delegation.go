package api

import (
	"context"
	"encoding/json"
	"errors"
	"time"
)

// A Delegation entrusts a delayed event to a part of this server that can watch what its user cannot end by themselves:
// the connection to a call (MSC4195, delegated leave). Whoever accepts it restarts the event's timer, or sends the event,
// by PerformDelayedEventAction.
type Delegation struct {
	DelayID string
	UserID  string
	RoomID  string
	// Key names what is watched. A newer delegation of the same key replaces an older one.
	Key string
	// Job is what the watcher needs to know after a restart. It is stored as it is.
	Job json.RawMessage
	// Starts counts the starts of the server since the watcher last confirmed the delegation.
	Starts int
}

// Delegated is a delegation in force.
type Delegated struct {
	Delegation
	Timeout time.Duration // of the delayed event
	// Done is closed when the delegation is over: another one has replaced it, or its delayed event has ended or is being
	// sent.
	Done <-chan struct{}
}

// Delegations keeps delegations with the futures: durable in the same database, and gone in the same transaction.
type Delegations interface {
	// PerformDelegation stores a delegation, or confirms the one that the delayed event has. It is durable when it
	// returns. Errors: ErrGone if the delayed event is not scheduled, or is not that user's or that room's;
	// ErrShortDelay, ErrOverloaded, ErrStopping.
	PerformDelegation(ctx context.Context, d Delegation) (*Delegated, error)

	// QueryDelegations returns the delegations in force. When the server starts, each of their delayed events gets its
	// whole timeout once more before anything is sent, so that the watcher has time to look. It gets that for at most
	// MaxStarts starts in a row without a confirmation: a crash loop keeps no event for ever.
	QueryDelegations() []*Delegated
}

const (
	// MaxStarts is described at QueryDelegations.
	MaxStarts = 5
	// ShortestDelay is the shortest delay of an event that can be delegated. It has to be restarted in time.
	ShortestDelay = 10 * time.Second
)

// ErrShortDelay is the answer to a delegation of an event whose delay is below ShortestDelay.
var ErrShortDelay = errors.New("the delay is too short to be delegated")
