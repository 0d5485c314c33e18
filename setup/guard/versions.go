package guard

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/sirupsen/logrus"
)

// The fault: the database has rooms of a version that this server does not know, for example because another homeserver
// program has used it. Dendrite starts, and members of such a room get an empty first sync, without an error.
// Reproduced by: test/unknownrooms. Can go when Dendrite reports such rooms itself.

const mostNamed = 10 // rooms named in the error

// CheckRoomVersions returns an error that names the rooms of unknown versions; with ignore it only logs a warning. The
// database is the roomserver's, and may be empty.
func CheckRoomVersions(ctx context.Context, db *sql.DB, isSQLite, ignore bool) error {
	text, err := unknownRooms(ctx, db, isSQLite)
	switch {
	case err != nil:
		return fmt.Errorf("looking for rooms of unknown versions: %w", err)
	case text == "":
		return nil
	case ignore:
		logrus.Warn(text + " They are left out, by future_server.ignore_unknown_rooms")
		return nil
	}
	return errors.New(text + " Another program has made or joined them with this database. Start that program again, or" +
		" a later release of this server that knows them; or set future_server.ignore_unknown_rooms to true to start without" +
		" these rooms")
}

// unknownRooms returns a sentence, or "" if there are none.
func unknownRooms(ctx context.Context, db *sql.DB, isSQLite bool) (string, error) {
	look := "SELECT COUNT(*) FROM pg_catalog.pg_class WHERE oid = to_regclass('roomserver_rooms')"
	if isSQLite {
		look = "SELECT COUNT(*) FROM sqlite_master WHERE type = 'table' AND name = 'roomserver_rooms'"
	}
	var n int
	if err := db.QueryRowContext(ctx, look).Scan(&n); err != nil || n == 0 {
		return "", err // a new database
	}
	var known []string
	for version := range gomatrixserverlib.RoomVersions() {
		known = append(known, "'"+string(version)+"'")
	}
	slices.Sort(known)
	unknown := " FROM roomserver_rooms WHERE room_version NOT IN (" + strings.Join(known, ", ") + ")"
	if err := db.QueryRowContext(ctx, "SELECT COUNT(*)"+unknown).Scan(&n); err != nil || n == 0 {
		return "", err
	}
	rows, err := db.QueryContext(ctx, fmt.Sprintf("SELECT room_id, room_version%s ORDER BY room_nid LIMIT %d", unknown, mostNamed))
	if err != nil {
		return "", err
	}
	defer rows.Close()
	var names []string
	for rows.Next() {
		var id, version string
		if err := rows.Scan(&id, &version); err != nil {
			return "", err
		}
		names = append(names, fmt.Sprintf("%s (version %q)", id, version))
	}
	if more := n - len(names); more > 0 {
		names = append(names, fmt.Sprintf("and %d more", more))
	}
	return fmt.Sprintf("The database has %d rooms of versions that this server does not know: %s.", n, strings.Join(names, ", ")), rows.Err()
}
