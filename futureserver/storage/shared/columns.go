package shared

import (
	"fmt"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
	"github.com/matrix-org/dendrite/futures/futureserver/storage"
)

// TimerGroupID is f's group ID as its timer stores it: empty if it is derived from f's secret, as most are.
func TimerGroupID(f *api.Future) string {
	if f.GroupID == f.Token(api.GroupToken).String() {
		return ""
	}
	return f.GroupID
}

// KeyHash is the digest of the piece of state that f would set, 0 for a message.
func KeyHash(f *api.Future) uint32 {
	if t, ok := f.Tuple(); ok {
		return storage.KeyHash(t.Type, t.StateKey)
	}
	return 0
}

// Failure returns the columns of a refusal; kind 0 stands for none.
func Failure(r *api.Refusal) (kind api.RefusalKind, message string) {
	if r == nil {
		return 0, ""
	}
	return r.Kind, r.Message
}

// Graced returns the deadlines that are the grace of a restart.
func Graced(exact []storage.Extend) (graced []storage.Extend) {
	for _, e := range exact {
		if e.Grace {
			graced = append(graced, e)
		}
	}
	return graced
}

// text scans a column of bytes. Some drivers return nil for an empty column, which a plain string cannot scan.
type text string

// Scan implements sql.Scanner.
func (t *text) Scan(value any) error {
	switch v := value.(type) {
	case nil:
		*t = ""
	case []byte:
		*t = text(v)
	default:
		return fmt.Errorf("a column of bytes holds %T", value)
	}
	return nil
}
