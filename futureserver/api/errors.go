package api

import (
	"errors"
	"fmt"
	"time"
)

var (
	// ErrGone: the token is not valid, or no longer (generation 0, 4.7).
	ErrGone = errors.New("the token is unknown or has been used up")
	// ErrUnknownGroup: an action future names a group without a running timeout future (generation 0, 3.2).
	ErrUnknownGroup = errors.New("there is no timeout future with this future_group_id")
	// ErrNewerState: another event has set the future's piece of state since the future was created.
	ErrNewerState = errors.New("newer state has been set since the future was created")
	// ErrStopping: the server is shutting down. Nothing was changed.
	ErrStopping = errors.New("the server is shutting down")
	// ErrOverloaded: the database or the room cannot keep up. The request may still take effect. It may be retried.
	ErrOverloaded = errors.New("too many requests are waiting for the database")
)

// LimitError: the user has too many futures. RetryAfter is the time until a new one fits, if no timer is restarted; 0 if
// timers alone will not make room.
type LimitError struct {
	Max        int
	Managed    bool // the limit is that of delayed events
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

// RefusalKind is why an event cannot enter a room. Package clientapi maps each kind to a Matrix errcode.
type RefusalKind uint8

const (
	Forbidden    RefusalKind = iota + 1 // the room's auth rules forbid it, or the user is not in the room
	RoomNotFound                        // the server does not know the room, or no longer does
	TooLarge                            // the built event exceeds 64 KiB
	BadEvent                            // the event can never be valid
	Internal                            // the server could not find out in time
)

// String returns the kind's name as it is spelled in the reason label of metrics and in the admin API.
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

// Refusal is a room's final rejection of an event, or of the request to schedule one.
type Refusal struct {
	Kind    RefusalKind
	Message string // for people to read; contains no token
}

// Error implements error.
func (r *Refusal) Error() string { return r.Message }
