package api

import (
	"context"
	"encoding/json"
	"errors"
	"time"
)

// A Delegation gives a delayed event to a watcher: a part of this server that sees whether the event's user is still
// connected to a call (MSC4195, delegated leave). The watcher restarts or sends the event by PerformDelayedEventAction.
type Delegation struct {
	DelayID string
	UserID  string
	RoomID  string
	// Key identifies what is watched. A new delegation with the same key replaces the old one.
	Key string
	// Job is what the watcher needs after a restart. It is stored unchanged.
	Job json.RawMessage
	// Starts is the number of server starts since the watcher last confirmed the delegation.
	Starts int
}

// Delegated is a delegation in force.
type Delegated struct {
	Delegation
	Timeout time.Duration // of the delayed event
	// Done is closed when the delegation ends: when another one replaces it, or when its delayed event ends or is claimed.
	Done <-chan struct{}
}

// Delegations stores delegations beside the futures, in the same database. The transaction that ends a delayed event also
// deletes its delegation.
type Delegations interface {
	// PerformDelegation stores a delegation, or confirms the one that the delayed event has. It is durable when it
	// returns. Errors: ErrGone if the delayed event is not scheduled, or is not that user's or that room's;
	// ErrShortDelay, ErrOverloaded, ErrStopping.
	PerformDelegation(ctx context.Context, d Delegation) (*Delegated, error)

	// QueryDelegations returns the delegations in force. When the server starts, it restarts the timer of each of their
	// delayed events before anything is sent, so that the watcher has time to ask the SFU. It does so for at most MaxStarts
	// consecutive starts without a confirmation, so a crash loop keeps no event alive for ever.
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
