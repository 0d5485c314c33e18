package stateres

import (
	"errors"
	"fmt"
)

var (
	// ErrBadInput says that the arguments are invalid: no create event or a rejected one, an unknown algorithm, or a set
	// that has an event under a key that is not the event's own.
	ErrBadInput = errors.New("stateres: bad input")

	// ErrForeignEvent says that an event of a set or of an auth chain is not in the create event's room.
	ErrForeignEvent = errors.New("stateres: event of another room")

	// ErrAuthCycle says that an event is in its own auth chain. This cannot happen if event IDs are hashes.
	ErrAuthCycle = errors.New("stateres: auth events form a cycle")
)

// MissingError lists the events that the state sets or their auth chains name and that the caller has not given. The
// caller can fetch them and retry; then auth events of those may be missing.
type MissingError struct {
	IDs []string // sorted
}

// Error says how many events are missing, and names one.
func (e *MissingError) Error() string {
	if len(e.IDs) == 0 {
		return "stateres: events are missing"
	}
	return fmt.Sprintf("stateres: %d events of the auth chains are missing, the first is %q", len(e.IDs), e.IDs[0])
}

func checkArguments(alg Algorithm, rules Rules, create *Event) error {
	switch {
	case alg != V2 && alg != V21:
		return fmt.Errorf("%w: algorithm %d", ErrBadInput, alg)
	case rules.Allowed == nil:
		return fmt.Errorf("%w: no rules", ErrBadInput)
	case create == nil:
		return fmt.Errorf("%w: no create event", ErrBadInput)
	case create.Key() != createKey:
		return fmt.Errorf("%w: %s is not a create event", ErrBadInput, create.ID)
	case create.Rejected:
		return fmt.Errorf("%w: the create event %s was rejected", ErrBadInput, create.ID)
	}
	return nil
}
