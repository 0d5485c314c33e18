package clientapi

import (
	"context"
	"slices"
	"time"

	rstypes "github.com/matrix-org/dendrite/roomserver/types"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/tidwall/gjson"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
)

// A ghost is a membership in a call that has expired and that no scheduled future will end. Clients leave ghosts when they die
// on a server without futures.

// CallRooms is where memberships in calls are found and ended.
type CallRooms struct {
	// Members returns at most limit current state events of these types whose senders are in the room, in order of
	// event IDs and after one of them. A user or a room that is "" stands for all.
	Members func(ctx context.Context, types []string, userID, roomID, after string, limit int) ([]*rstypes.HeaderedEvent, error)
	// Send sends the event of f as its user, unless the state is newer than f.Base. It returns once it is in the room.
	Send func(ctx context.Context, f *api.Future) error
	// IsLocal reports whether a server name is ours.
	IsLocal func(spec.ServerName) bool
}

// callMemberTypes returns the types of state events that say that somebody is in a call.
func callMemberTypes() []string {
	return []string{"org.matrix.msc3401.call.member", "org.matrix.msc4143.rtc.member", "m.rtc.member"}
}

// ghostFilter selects ghosts.
type ghostFilter struct {
	userID, roomID string
	after          string        // the event ID of the last that the caller knows
	maxAge         time.Duration // of memberships that do not say when they end
	limit          int
}

// ghosts finds ghosts.
type ghosts struct {
	rooms   CallRooms
	futures api.AdminAPI
	now     func() time.Time
}

// ghost is a membership and the time at which it expired.
type ghost struct {
	*rstypes.HeaderedEvent
	over int64 // Unix ms
}

// find returns at most filter.limit ghosts, in order of their event IDs. next is the event ID after which to go on, or ""
// if there are no more.
func (g *ghosts) find(ctx context.Context, filter ghostFilter) (found []ghost, next string, err error) {
	const page = 500
	after := filter.after
	for {
		events, err := g.rooms.Members(ctx, callMemberTypes(), filter.userID, filter.roomID, after, page)
		if err != nil {
			return nil, "", err
		}
		for _, e := range events {
			after = e.EventID()
			over, member := callEnd(e.Content(), int64(e.OriginServerTS()), filter.maxAge)
			if !member || over > g.now().UnixMilli() {
				continue
			}
			if kept, err := g.kept(ctx, e); err != nil {
				return nil, "", err
			} else if kept {
				continue
			}
			if found = append(found, ghost{e, over}); len(found) == filter.limit {
				return found, after, nil
			}
		}
		if len(events) < page {
			return found, "", nil
		}
	}
}

// kept reports whether the membership must be left alone: it belongs to a user of another server, or a future will end it.
func (g *ghosts) kept(ctx context.Context, e *rstypes.HeaderedEvent) (bool, error) {
	sender, err := spec.NewUserID(string(e.SenderID()), true)
	if err != nil || !g.rooms.IsLocal(sender.Domain()) {
		return true, nil
	}
	live, err := g.futures.QueryFutures(ctx, api.Filter{UserID: sender.String(), RoomID: e.RoomID().String()})
	return slices.ContainsFunc(live, func(f *api.Future) bool {
		return f.Type == e.Type() && f.StateKey != nil && e.StateKeyEquals(*f.StateKey)
	}), err
}

// leave sends the leave as the user, unless the user has changed the membership meanwhile.
func (g *ghosts) leave(ctx context.Context, e ghost) error {
	return g.rooms.Send(ctx, &api.Future{
		Policy: api.CancelOnNewerState, Base: e.EventID(),
		UserID: string(e.SenderID()), RoomID: e.RoomID().String(), Type: e.Type(), StateKey: e.StateKey(), Content: []byte("{}"),
	})
}

// callEnd returns when a membership in a call expires, in Unix ms. If the content does not say, that is maxAge after it was
// sent. member is false if the content is a leave.
func callEnd(content []byte, sent int64, maxAge time.Duration) (end int64, member bool) {
	c := gjson.ParseBytes(content)
	sessions := []gjson.Result{c}
	if list := c.Get("memberships"); list.IsArray() { // as clients had it until 2024
		sessions = list.Array()
	}
	for _, s := range sessions {
		if s.Get("application").Exists() {
			member = true
			end = max(end, sessionEnd(s, sent, maxAge))
		}
	}
	return end, member
}

func sessionEnd(session gjson.Result, sent int64, maxAge time.Duration) int64 {
	if at, ok := positive(session.Get("expires_ts")); ok {
		return at
	}
	if created, ok := positive(session.Get("created_ts")); ok {
		sent = created // the event is sent again whenever its end is moved
	}
	if expires, ok := positive(session.Get("expires")); ok {
		return sent + expires
	}
	return sent + maxAge.Milliseconds()
}

// positive reads a positive number, which is limited to what JSON can hold exactly.
func positive(v gjson.Result) (int64, bool) {
	return int64(min(v.Num, 1<<53)), v.Type == gjson.Number && v.Num > 0
}
