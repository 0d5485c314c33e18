package perform

import (
	"context"

	"github.com/matrix-org/dendrite/roomserver/api"
	"github.com/matrix-org/dendrite/roomserver/state"
	"github.com/matrix-org/dendrite/roomserver/storage"
	"github.com/matrix-org/dendrite/roomserver/types"
	"github.com/matrix-org/gomatrixserverlib"
	"github.com/sirupsen/logrus"
)

// redactBackfilled applies the redactions among the events, and earlier redactions of one of them. The state before a
// redaction decides whether it is applied, so that state must be stored already.
func redactBackfilled(
	ctx context.Context, db storage.Database, querier api.QuerySenderIDAPI, room *types.RoomInfo,
	events []gomatrixserverlib.PDU, stored map[string]types.Event,
) {
	levels := state.NewStateResolution(db, room, querier)
	at := make(map[string]int, len(events))
	for i, event := range events {
		at[event.EventID()] = i
	}
	for _, event := range events {
		e, ok := stored[event.EventID()]
		if !ok {
			continue
		}
		_, redacted, err := db.MaybeRedactEvent(ctx, room, e.EventNID, event, &levels, querier)
		if err != nil {
			logrus.WithError(err).WithField("event_id", event.EventID()).Error("Failed to redact a backfilled event")
		} else if redacted != nil {
			if i, ok := at[redacted.EventID()]; ok {
				events[i] = redacted
			}
		}
	}
}
