package roomserver

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/matrix-org/dendrite/roomserver/storage/tables"
	"github.com/matrix-org/dendrite/setup/config"
	"github.com/matrix-org/gomatrixserverlib"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
	fconfig "github.com/matrix-org/dendrite/futures/setup/config"
)

// What scheduling needs to know about a room is one SQL query here. The roomserver itself needs seven, and reads whole
// events.

// standing describes a user and a piece of state in a room.
type standing struct {
	version gomatrixserverlib.RoomVersion
	joined  bool
	current string // ID of the event that sets the piece of state, or ""
}

// selectMembership has the parameters room ID and user ID.
const selectMembership = `
	r.room_version,
	COALESCE((SELECT m.membership_nid FROM roomserver_membership m
		JOIN roomserver_event_state_keys k ON k.event_state_key_nid = m.target_nid
		WHERE m.room_nid = r.room_nid AND k.event_state_key = $2), 0)`

// selectCurrent has two more parameters: type and state key. A snapshot is a list of blocks. If two blocks have the
// same piece of state, the later block counts.
const (
	selectCurrent = `
	COALESCE((SELECT e.event_id FROM roomserver_state_snapshots s, %s, roomserver_state_block b, %s, roomserver_events e
		WHERE s.state_snapshot_nid = r.state_snapshot_nid AND b.state_block_nid = block.%[3]s AND e.event_nid = entry.%[3]s
			AND e.event_type_nid = (SELECT event_type_nid FROM roomserver_event_types WHERE event_type = $3)
			AND e.event_state_key_nid = (SELECT event_state_key_nid FROM roomserver_event_state_keys WHERE event_state_key = $4)
		ORDER BY block.%[4]s DESC LIMIT 1), '')`
	// SQLite numbers parameters in order of their appearance. A room without a snapshot is known to this server, but
	// the server is not in it.
	withRoom = `
WITH r AS (SELECT room_nid, room_version, state_snapshot_nid FROM roomserver_rooms WHERE room_id = $1 AND state_snapshot_nid > 0)
SELECT`
)

// prepareStanding prepares both queries.
func prepareStanding(cfg *config.Dendrite, db *sql.DB) (message, state *sql.Stmt, err error) {
	current := fmt.Sprintf(selectCurrent, "json_each(s.state_block_nids) block", "json_each(b.event_nids) entry", "value", "key")
	if fconfig.RoomsDatabase(cfg).IsPostgres() {
		current = fmt.Sprintf(selectCurrent, "unnest(s.state_block_nids) WITH ORDINALITY block (value, key)",
			"unnest(b.event_nids) entry (value)", "value", "key")
	}
	if message, err = db.Prepare(withRoom + selectMembership + ", '' FROM r"); err != nil {
		return nil, nil, err
	}
	state, err = db.Prepare(withRoom + selectMembership + "," + current + " FROM r")
	return message, state, err
}

// standing looks up the draft's sender, and the event that its event would replace. Like snapshot it refuses rooms that
// cannot have futures.
func (r *Room) standing(ctx context.Context, d *draft) (s standing, err error) {
	query, args := r.messageStanding, []any{d.proto.RoomID, d.proto.SenderID}
	if d.isState() {
		query, args = r.stateStanding, append(args, d.key.EventType, d.key.StateKey)
	}
	var membership tables.MembershipState
	switch err := query.QueryRowContext(ctx, args...).Scan(&s.version, &membership, &s.current); {
	case errors.Is(err, sql.ErrNoRows):
		return s, unknownRoom()
	case err != nil:
		return s, err
	case s.version == gomatrixserverlib.RoomVersionPseudoIDs:
		return s, noPseudoIDs()
	}
	s.joined = membership == tables.MembershipStateJoin
	return s, nil
}

func noPseudoIDs() error {
	return refuse(api.BadEvent, "futures are not possible in rooms of version %s", gomatrixserverlib.RoomVersionPseudoIDs)
}
