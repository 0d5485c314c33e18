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

// submitLimit and submitEach bound a submission, whatever the caller allows. Dendrite loses sight of an event
// that comes in just as the room's worker retires, 60 s after the last one; nothing is lost, but the call would
// wait until the room's next event. Submitting the same PDU again is that next event.
const (
	submitLimit = 5 * time.Second
	submitEach  = time.Second // for each event after the first
)

// Submit implements api.Room. It returns after at most five seconds, and one more for each event after the first.
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

// input is the future's event as the roomserver takes it in.
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
	if !r.cfg.Global.IsLocalServerName(domain) { // the configuration may have changed since it was built
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
//   - Confirmed: the roomserver has marked the event as sent to its output; or it has not, but what was built on
//     the event has made it the room's current state.
//   - Refused: the room is gone; or the event is stored but not sent, the room's current state forbids it,
//     and the roomserver is known to be done with it, because it has marked it as rejected or because this
//     process has had an answer to its submission (so it was soft-failed).
//   - Unknown: everything else.
//
// An event that is stored and not sent proves nothing by itself: a crash can leave one half processed, to be
// finished after the restart. That is why an answer counts only if this process got it: copies of one event
// are processed in order, so the answer to the last means that the earlier ones are done. And the state is
// asked because Dendrite also rejects and soft-fails when its database fails: then the next submission of
// the same event goes through. The caller submits again on Unknown, and never again after Refused, since
// a soft-failed event would enter the room as soon as its sender got the power back.
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

// eventRow is what the roomserver knows of an event.
type eventRow struct {
	stored, sent, rejected bool
}

// rows returns what it knows of these events.
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

// answered remembers which submissions this process has had answered without an error, until their verdict.
// When it is full it forgets any of them; the only harm is one more submission.
type answered struct {
	mu  sync.Mutex
	ids map[string]struct{}
}

const maxAnswered = 4096 // many times what can be in flight

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
