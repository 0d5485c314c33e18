package roomserver

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
	rsapi "github.com/matrix-org/dendrite/roomserver/api"
	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
)

// Rules that are not those of the room: which events can be futures at all, and what the client API forbids although
// the auth rules would allow it.

func refuse(kind api.RefusalKind, format string, args ...any) error {
	return &api.Refusal{Kind: kind, Message: fmt.Sprintf(format, args...)}
}

func unknownRoom() error { return refuse(api.RoomNotFound, "this server does not know the room") }

func notInRoom() error { return refuse(api.Forbidden, "the sender is not in the room") }

// harmless reports whether the event can be built in any room that its sender is in, provided that its content is
// canonical JSON. Then it need not be built to be checked, and most of the room's state need not be read. This is true
// for most scheduled events: messages, and the state of calls. Events with rules of their own, and events near a size
// limit, are built.
func (d *draft) harmless() bool {
	const short, small = 128, 32 << 10 // the limits are 255 bytes and 64 KiB
	switch d.proto.Type {
	case "m.room.message", "m.room.encrypted":
	default:
		if strings.HasPrefix(d.proto.Type, "m.room.") {
			return false
		}
	}
	return len(d.proto.Type) <= short && (d.proto.StateKey == nil || len(*d.proto.StateKey) <= short) &&
		len(d.proto.SenderID) <= short && len(d.proto.RoomID) <= short && len(d.proto.Content) <= small
}

// sendable refuses events that a single PDU built here cannot stand for, and events that /state refuses in any room.
func (r *Room) sendable(f *api.Future, content map[string]any) error {
	switch f.Type {
	case spec.MRoomCreate:
		return refuse(api.BadEvent, "a future cannot create a room")
	case "m.room.tombstone":
		if content["replacement_room"] == f.RoomID {
			return refuse(api.BadEvent, "a room cannot be replaced by itself")
		}
	case spec.MRoomMember:
		return r.sendableMembership(f, content)
	}
	return nil
}

// sendableMembership accepts the changes that need no other server's help: profile changes, leave, kick, ban, unban,
// and the invitation of a user of this server.
func (r *Room) sendableMembership(f *api.Future, content map[string]any) error {
	if f.StateKey == nil {
		return refuse(api.BadEvent, "a membership needs a state key")
	}
	switch membership := content["membership"]; membership {
	case nil:
		return refuse(api.BadEvent, "the content has no membership")
	case spec.Leave, spec.Ban:
		return nil
	case spec.Join:
		if *f.StateKey != f.UserID {
			return refuse(api.BadEvent, "nobody can join for somebody else")
		}
		return nil // the sender is in the room, so this is a change of profile
	case spec.Invite:
		if user, err := spec.NewUserID(*f.StateKey, true); err != nil || !r.cfg.Global.IsLocalServerName(user.Domain()) {
			return refuse(api.BadEvent, "only users of this server can be invited by a future")
		}
		return nil
	default:
		return refuse(api.BadEvent, "a future cannot set the membership %v", membership)
	}
}

// aliasesExist refuses an m.room.canonical_alias with an alias that does not point to its room, as /state does.
func (r *Room) aliasesExist(ctx context.Context, d *draft) error {
	if d.proto.Type != spec.MRoomCanonicalAlias || d.proto.StateKey == nil || *d.proto.StateKey != "" {
		return nil
	}
	wanted := []any{}
	if alias := d.content["alias"]; alias != nil && alias != "" {
		wanted = append(wanted, alias)
	}
	switch alt := d.content["alt_aliases"].(type) {
	case nil:
	case []any:
		wanted = append(wanted, alt...)
	default:
		return refuse(api.BadEvent, "alt_aliases is not a list")
	}
	if len(wanted) == 0 {
		return nil
	}
	var res rsapi.GetAliasesForRoomIDResponse
	if err := r.rsAPI.GetAliasesForRoomID(ctx, &rsapi.GetAliasesForRoomIDRequest{RoomID: d.proto.RoomID}, &res); err != nil {
		return err
	}
	for _, w := range wanted {
		if alias, ok := w.(string); !ok || !slices.Contains(res.Aliases, alias) {
			return refuse(api.BadEvent, "the alias %v does not point to this room", w)
		}
	}
	return nil
}

// mayRedact refuses a redaction of another user's event by a user without the power for it. The auth rules leave this
// check to the server: they let a user redact every event of the same server. If the target is unknown or gone, the
// redaction is accepted (generation 0, 5.14).
func (r *Room) mayRedact(ctx context.Context, d *draft, room *snapshot) error {
	if d.proto.Redacts == "" {
		return nil
	}
	var res rsapi.QueryEventsByIDResponse
	// Without a room ID the event is parsed by the version of its own room.
	req := rsapi.QueryEventsByIDRequest{EventIDs: []string{d.proto.Redacts}}
	if err := r.rsAPI.QueryEventsByID(ctx, &req, &res); err != nil {
		return err
	}
	if len(res.Events) == 0 {
		return nil
	}
	target := res.Events[0]
	if target.RoomID() != d.roomID {
		return refuse(api.Forbidden, "the event to redact is in another room")
	}
	if string(target.SenderID()) == d.proto.SenderID {
		return nil
	}
	power, err := rsapi.PowerLevelsOf(room.StateEvents)
	if err != nil || power.UserLevel(spec.SenderID(d.proto.SenderID)) < power.Redact {
		return refuse(api.Forbidden, "the sender may not redact other users' events")
	}
	return nil
}

func compareTuples(a, b gomatrixserverlib.StateKeyTuple) int {
	return cmp.Or(cmp.Compare(a.EventType, b.EventType), cmp.Compare(a.StateKey, b.StateKey))
}
