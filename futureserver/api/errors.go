package api

import (
	"errors"
	"fmt"
	"time"
)

var (
	// ErrGone: the token stands for nothing, now or any more (generation 0, 4.7).
	ErrGone = errors.New("the token is unknown or has been used up")
	// ErrUnknownGroup: an action future names a group without a running timeout future (generation 0, 3.2).
	ErrUnknownGroup = errors.New("there is no timeout future with this future_group_id")
	// ErrNewerState: the piece of state that a future would set has been set by another event since.
	ErrNewerState = errors.New("the state has been set anew since the future was made")
	// ErrStopping: the server is shutting down. Nothing was changed.
	ErrStopping = errors.New("the server is shutting down")
	// ErrOverloaded: the database or the room cannot keep up. What was asked for may still be done; the request
	// may be tried again.
	ErrOverloaded = errors.New("too many requests are waiting for the database")
)

// LimitError: the user has too many futures. RetryAfter is the time until the next of them is due, 0 if
// none has a timer.
type LimitError struct {
	Max        int
	Managed    bool // they are delayed events
	RetryAfter time.Duration
}

// Error implements error.
func (e *LimitError) Error() string {
	if e.Managed {
		return fmt.Sprintf("at most %d delayed events may be scheduled at a time", e.Max)
	}
	return fmt.Sprintf("at most %d futures may be scheduled at a time", e.Max)
}

// TimeoutError: the timeout is longer than the server allows.
type TimeoutError struct {
	Max time.Duration
}

// Error implements error.
func (e *TimeoutError) Error() string {
	return fmt.Sprintf("The requested timeout exceeds the allowed maximum of %d ms.", e.Max.Milliseconds())
}

// RefusalKind is why an event cannot enter a room. The north adapter gives each its Matrix errcode.
type RefusalKind uint8

const (
	Forbidden    RefusalKind = iota + 1 // by the room's auth rules, or the user is not in the room
	RoomNotFound                        // the server does not know the room, or no longer
	TooLarge                            // the built event exceeds 64 KiB
	BadEvent                            // the event can never be valid
	Internal                            // the server could not find out in the time it gives itself
)

// String returns the kind's name as the reason label of metrics and the admin API spell it.
func (k RefusalKind) String() string {
	switch k {
	case Forbidden:
		return "forbidden"
	case RoomNotFound:
		return "room_not_found"
	case TooLarge:
		return "too_large"
	case BadEvent:
		return "bad_event"
	case Internal:
		return "internal"
	}
	return "unknown"
}

// Refusal is the final answer of a room to an event, or to the wish to schedule one.
type Refusal struct {
	Kind    RefusalKind
	Message string // for the person who reads it; holds no token
}

// Error implements error.
func (r *Refusal) Error() string { return r.Message }
