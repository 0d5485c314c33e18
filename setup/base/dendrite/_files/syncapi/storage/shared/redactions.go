package shared

import (
	"context"
	"database/sql"
	"encoding/json"

	"github.com/matrix-org/dendrite/internal/eventutil"
	"github.com/matrix-org/dendrite/roomserver/api"
	rstypes "github.com/matrix-org/dendrite/roomserver/types"
)

// redactCurrentState redacts an event in the table of current state, if it is current. Clients get state from this table,
// for example in their first sync.
func (d *Database) redactCurrentState(
	ctx context.Context, eventID string, because *rstypes.HeaderedEvent, querier api.QuerySenderIDAPI,
) error {
	events, err := d.CurrentRoomState.SelectEventsWithEventIDs(ctx, nil, []string{eventID})
	if err != nil || len(events) == 0 {
		return err
	}
	event := events[0].HeaderedEvent
	if err = eventutil.RedactEvent(ctx, because.PDU, event.PDU, querier); err != nil {
		return err
	}
	data, err := json.Marshal(event)
	if err != nil {
		return err
	}
	return d.Writer.Do(d.DB, nil, func(txn *sql.Tx) error {
		const update = "UPDATE syncapi_current_room_state SET headered_event_json = $1 WHERE event_id = $2"
		_, err := txn.ExecContext(ctx, update, string(data), eventID)
		return err
	})
}
