package roomserver

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
	rsapi "github.com/matrix-org/dendrite/roomserver/api"
	"github.com/matrix-org/dendrite/roomserver/types"
	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
)

// submitLimit bounds a submission, whatever the caller allows. Dendrite loses sight of an event that comes
// in just as the room's worker retires, 60 s after the last one; nothing is lost, but the call would wait
// until the room's next event. Submitting the same PDU again is that next event.
const submitLimit = 5 * time.Second

// Submit implements api.Room. It returns after at most five seconds.
func (r *Room) Submit(ctx context.Context, f *api.Future) error {
	event, err := parse(f)
	if err != nil {
		return err
	}
	sender, err := spec.NewUserID(f.UserID, true)
	if err != nil {
		return fmt.Errorf("the sender of a stored event: %w", err)
	}
	domain := sender.Domain()
	if !r.cfg.Global.IsLocalServerName(domain) { // the configuration may have changed since it was built
		return refuse(api.Forbidden, "the sender is no longer a user of this server")
	}
	var echo *rsapi.TransactionID
	if f.TxnID != "" {
		echo = &rsapi.TransactionID{SessionID: f.SessionID, TransactionID: f.TxnID}
	}
	ctx, cancel := context.WithTimeout(ctx, submitLimit)
	defer cancel()
	err = rsapi.SendEvents(ctx, r.rsAPI, rsapi.KindNew, []*types.HeaderedEvent{event}, domain, domain, domain, echo, false)
	if err == nil {
		r.answered.add(f.Event.ID)
	}
	return err
}

// Verdict implements api.Room. Its rules:
//
//   - Proved: the roomserver has marked the event as sent to its output.
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
func (r *Room) Verdict(ctx context.Context, f *api.Future) (api.Verdict, error) {
	row, err := r.row(ctx, f.Event.ID)
	if err != nil {
		return api.Unknown, err
	}
	verdict := api.Unknown
	if row.sent {
		verdict = api.Proved
	} else if refusal, err := r.refusal(ctx, f); err != nil {
		return api.Unknown, err
	} else if refusal != nil {
		done := row.stored && (row.rejected || r.answered.has(f.Event.ID))
		if done || refusal.Kind == api.RoomNotFound {
			verdict = api.Refused
		}
	}
	if verdict != api.Unknown {
		r.answered.drop(f.Event.ID)
	}
	return verdict, nil
}

// refusal says why the room's current state forbids the future's event, nil if it does not.
func (r *Room) refusal(ctx context.Context, f *api.Future) (*api.Refusal, error) {
	event, err := parse(f)
	if err != nil {
		return nil, err
	}
	needed := gomatrixserverlib.StateNeededForAuth([]gomatrixserverlib.PDU{event.PDU})
	room, err := r.look(ctx, f.RoomID, needed.Tuples())
	if err != nil {
		return nil, err
	}
	if room.RoomExists {
		err = allowed(event.PDU, room.StateEvents)
	} else {
		err = unknownRoom()
	}
	refusal, _ := errors.AsType[*api.Refusal](err)
	return refusal, nil
}

// eventRow is what the roomserver knows of an event.
type eventRow struct {
	stored, sent, rejected bool
}

func (r *Room) row(ctx context.Context, eventID string) (row eventRow, err error) {
	const query = "SELECT sent_to_output, is_rejected FROM roomserver_events WHERE event_id = $1"
	err = r.db.QueryRowContext(ctx, query, eventID).Scan(&row.sent, &row.rejected)
	if errors.Is(err, sql.ErrNoRows) {
		return row, nil
	}
	row.stored = err == nil
	return row, err
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
