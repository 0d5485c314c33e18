package roomserver

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
	"github.com/matrix-org/dendrite/internal/sqlutil"
	rsapi "github.com/matrix-org/dendrite/roomserver/api"
	"github.com/matrix-org/dendrite/roomserver/types"
	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
)

// submitLimit and submitEach limit a submission, whatever the caller allows. If an event arrives just when the room's
// worker retires, 60 s after the last event, Dendrite does not process it before the room's next event. Nothing is
// lost, but the call would wait for so long. Submitting the same PDU again is that next event.
const (
	submitLimit = 5 * time.Second
	submitEach  = time.Second // added for each event after the first
)

// Submit implements api.Room. It returns after at most five seconds, plus one for each event after the first.
func (r *Room) Submit(ctx context.Context, fs []*api.Future) error {
	ctx, cancel := context.WithTimeout(ctx, submitLimit+time.Duration(len(fs)-1)*submitEach)
	defer cancel()
	inputs := make([]rsapi.InputRoomEvent, 0, len(fs))
	var errs []error
	for _, f := range fs {
		input, err := r.input(f)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		inputs = append(inputs, input)
	}
	// After a restart nobody knows in which order the events were built.
	slices.SortStableFunc(inputs, func(a, b rsapi.InputRoomEvent) int { return cmp.Compare(a.Event.Depth(), b.Event.Depth()) })
	for len(inputs) > 0 {
		origin, n := inputs[0].Origin, 1
		for n < len(inputs) && inputs[n].Origin == origin {
			n++
		}
		if err := rsapi.SendInputRoomEvents(ctx, r.rsAPI, origin, inputs[:n], false); err != nil {
			errs = append(errs, err)
		} else {
			for _, input := range inputs[:n] {
				r.answered.add(input.Event.EventID())
			}
		}
		inputs = inputs[n:]
	}
	return errors.Join(errs...)
}

// input returns the future's event as input for the roomserver.
func (r *Room) input(f *api.Future) (input rsapi.InputRoomEvent, err error) {
	event, err := parse(f)
	if err != nil {
		return input, err
	}
	sender, err := spec.NewUserID(f.UserID, true)
	if err != nil {
		return input, fmt.Errorf("the sender of a stored event: %w", err)
	}
	domain := sender.Domain()
	if !r.cfg.Global.IsLocalServerName(domain) { // the configuration may have changed since the event was built
		return input, refuse(api.Forbidden, "the sender is no longer a user of this server")
	}
	input = rsapi.InputRoomEvent{Kind: rsapi.KindNew, Event: event, Origin: domain, SendAsServer: string(domain)}
	if f.TxnID != "" {
		input.TransactionID = &rsapi.TransactionID{SessionID: f.SessionID, TransactionID: f.TxnID}
	}
	return input, nil
}

// Verdict implements api.Room. Its rules:
//
//   - Confirmed: the roomserver has marked the event as sent to its output. Or it has not, but an event that was built
//     on it has made it current state.
//   - Refused: the room is gone. Or the event is stored but not sent, the room's current state forbids it, and the
//     roomserver has finished with it: it has marked it as rejected, or this process has had an answer to its
//     submission (then it was soft-failed).
//   - Unknown: everything else.
//
// That an event is stored but not sent does not suffice for Refused, because after a crash an event may be half
// processed, and is finished after the restart. That is why an answer counts only if this process received it: copies
// of one event are processed in order, so the answer to the last copy means that the earlier ones are finished. The
// state is checked because Dendrite also rejects and soft-fails events when its database fails. Then the next
// submission of the same event succeeds. The caller submits again after Unknown, and never after Refused, since a
// soft-failed event would enter the room as soon as its sender got the power back.
func (r *Room) Verdict(ctx context.Context, fs []*api.Future) ([]api.Verdict, error) {
	ids := make([]string, len(fs))
	for i, f := range fs {
		ids[i] = f.Event.ID
	}
	rows, err := r.rows(ctx, ids)
	if err != nil {
		return nil, err
	}
	verdicts := make([]api.Verdict, len(fs))
	for i, f := range fs {
		if verdicts[i], err = r.verdict(ctx, f, rows[f.Event.ID]); err != nil {
			return nil, err
		}
		if verdicts[i] != api.Unknown {
			r.answered.drop(f.Event.ID)
		}
	}
	return verdicts, nil
}

func (r *Room) verdict(ctx context.Context, f *api.Future, row eventRow) (api.Verdict, error) {
	if row.sent {
		return api.Confirmed, nil
	}
	event, err := parse(f)
	if err != nil {
		return api.Unknown, err
	}
	tuples := gomatrixserverlib.StateNeededForAuth([]gomatrixserverlib.PDU{event.PDU}).Tuples()
	if f.StateKey != nil {
		tuples = append(tuples, gomatrixserverlib.StateKeyTuple{EventType: f.Type, StateKey: *f.StateKey})
	}
	room, err := r.look(ctx, f.RoomID, tuples)
	switch {
	case err != nil:
		return api.Unknown, err
	case !room.RoomExists:
		return api.Refused, nil
	case slices.ContainsFunc(room.StateEvents, func(e *types.HeaderedEvent) bool { return e.EventID() == f.Event.ID }):
		return api.Confirmed, nil
	case allowed(event.PDU, room.StateEvents) == nil:
		return api.Unknown, nil
	case row.stored && (row.rejected || r.answered.has(f.Event.ID)):
		return api.Refused, nil
	}
	return api.Unknown, nil
}

// eventRow is what the roomserver's database knows of an event.
type eventRow struct {
	stored, sent, rejected bool
}

// rows reads the rows of these events.
func (r *Room) rows(ctx context.Context, eventIDs []string) (map[string]eventRow, error) {
	args := make([]any, len(eventIDs))
	for i, id := range eventIDs {
		args[i] = id
	}
	query := "SELECT event_id, sent_to_output, is_rejected FROM roomserver_events WHERE event_id IN " + sqlutil.QueryVariadic(len(args))
	rows, err := r.db.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	known := make(map[string]eventRow, len(args))
	for rows.Next() {
		var id string
		row := eventRow{stored: true}
		if err := rows.Scan(&id, &row.sent, &row.rejected); err != nil {
			return nil, err
		}
		known[id] = row
	}
	return known, rows.Err()
}

func parse(f *api.Future) (*types.HeaderedEvent, error) {
	var event types.HeaderedEvent
	if err := json.Unmarshal(f.Event.PDU, &event); err != nil {
		return nil, fmt.Errorf("the stored PDU of event %s: %w", f.Event.ID, err)
	}
	return &event, nil
}

// answered records which submissions were answered without an error, until their verdict. When it is full it forgets an
// arbitrary one, which costs one more submission.
type answered struct {
	mu  sync.Mutex
	ids map[string]struct{}
}

const maxAnswered = 4096 // many times the number of events in flight

func (a *answered) add(id string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.ids == nil {
		a.ids = make(map[string]struct{})
	}
	for old := range a.ids {
		if len(a.ids) < maxAnswered {
			break
		}
		delete(a.ids, old)
	}
	a.ids[id] = struct{}{}
}

func (a *answered) has(id string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	_, ok := a.ids[id]
	return ok
}

func (a *answered) drop(id string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.ids, id)
}
