package shared

import (
	"context"

	"github.com/matrix-org/dendrite/roomserver/api"
	"github.com/matrix-org/dendrite/roomserver/state"
	"github.com/matrix-org/dendrite/roomserver/types"
	"github.com/matrix-org/dendrite/syncapi/synctypes"
	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
)

// redactArrived applies a redaction that arrived before the event that it redacts. There may be several, because everybody
// in the room can send one. It applies the first one whose sender has the power.
func (d *EventDatabase) redactArrived(
	ctx context.Context, roomInfo *types.RoomInfo, event gomatrixserverlib.PDU, levels state.PowerLevelResolver,
	querier api.QuerySenderIDAPI,
) (redaction, redacted gomatrixserverlib.PDU, err error) {
	waiting, err := d.redactionsOf(ctx, event.EventID())
	if err != nil {
		return nil, nil, err
	}
	for _, id := range waiting {
		e := d.loadEvent(ctx, roomInfo, id)
		if e == nil {
			continue
		}
		redaction, redacted, err = d.MaybeRedactEvent(ctx, roomInfo, e.EventNID, e.PDU, levels, querier)
		if err != nil || redacted != nil {
			return redaction, redacted, err
		}
	}
	return nil, nil, nil
}

// redactionsOf lists the redactions of an event that have arrived so far.
func (d *EventDatabase) redactionsOf(ctx context.Context, target string) (ids []string, err error) {
	const query = "SELECT redaction_event_id FROM roomserver_redactions WHERE redacts_event_id = $1"
	rows, err := d.DB.QueryContext(ctx, query, target)
	if err != nil {
		return nil, err
	}
	defer rows.Close() // nolint: errcheck
	for rows.Next() {
		var id string
		if err = rows.Scan(&id); err != nil {
			return nil, err
		}
		ids = append(ids, id)
	}
	return ids, rows.Err()
}

// redactedBecause is the value of unsigned.redacted_because: the redaction in the client format, as eventutil.RedactEvent
// writes it.
func redactedBecause(ctx context.Context, redaction gomatrixserverlib.PDU, querier api.QuerySenderIDAPI) any {
	sender := func(roomID spec.RoomID, senderID spec.SenderID) (*spec.UserID, error) {
		return querier.QueryUserIDForSender(ctx, roomID, senderID)
	}
	event, err := synctypes.ToClientEvent(redaction, synctypes.FormatSync, sender)
	if err != nil {
		return redaction
	}
	return event
}
