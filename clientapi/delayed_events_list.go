package clientapi

import (
	"cmp"
	"context"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	userapi "github.com/matrix-org/dendrite/userapi/api"
	"github.com/matrix-org/util"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
)

const (
	listMost    = 1000 // largest number of delayed events in one answer
	listDefault = 100  // default size of a page, and how many events are read from storage at a time; each may have 64 KiB

	listParams = "from next_batch limit dir status room_id type from_ts to_ts delay_id"
)

// listedEvent is one element of the list. It has the field names of all drafts side by side (docs/gen1-requirements.md,
// 5.2).
type listedEvent struct {
	delayedEvent
	Delay        int64 `json:"delay"`
	RunningSince int64 `json:"running_since"`
	ScheduledAt  int64 `json:"scheduled_at"`
}

// listDelayed serves GET …/delayed_events: the delayed events of the user, from all devices. Without parameters it
// lists the scheduled ones in the order in which they will be sent (docs/gen1-requirements.md, section 5). The
// parameters are delay_id and those of the draft MSC4486. With any of them the list comes in pages, in the order in
// which the events were scheduled, and next_batch leads to the next page.
func (h *handlers) listDelayed(req *http.Request, device *userapi.Device) util.JSONResponse {
	if retry := h.looks.take(device); retry > 0 {
		return limited("You are asking too often", retry)
	}
	w, fault := readWanted(req.URL.Query(), device.UserID)
	if fault != nil {
		return *fault
	}
	events, next, err := h.find(req.Context(), w)
	if err != nil {
		return failure(req.Context(), err, w.RoomID)
	}
	if w.plain {
		slices.SortStableFunc(events, func(a, b *api.Future) int { return cmp.Compare(a.Deadline, b.Deadline) })
	}
	list := make([]listedEvent, len(events)) // not nil: an empty list is []
	for i, f := range events {
		e := describe(f)
		list[i] = listedEvent{delayedEvent: e, Delay: e.Delay, RunningSince: e.Since, ScheduledAt: e.Since}
	}
	return answerOK(struct {
		Events    []listedEvent `json:"delayed_events"`
		NextBatch string        `json:"next_batch,omitempty"`
	}{list, next})
}

// wanted says which delayed events to list.
type wanted struct {
	api.DelayedFilter
	plain    bool     // the request has no parameters
	delayIDs []string // empty: any
	types    []string // empty: any
	from, to int64    // bounds on the deadline, Unix ms
}

func (w *wanted) has(f *api.Future) bool {
	return (len(w.delayIDs) == 0 || slices.Contains(w.delayIDs, f.GroupID)) &&
		(len(w.types) == 0 || slices.Contains(w.types, f.Type)) &&
		f.Deadline >= w.from && f.Deadline <= w.to
}

// find reads one page. next is the value of from for the next page, or "" on the last page.
func (h *handlers) find(ctx context.Context, w *wanted) (page []*api.Future, next string, err error) {
	filter := w.DelayedFilter
	filter.Limit = listDefault
	for {
		events, err := h.futures.QueryDelayedEvents(ctx, filter)
		if err != nil || len(events) == 0 {
			return page, "", err
		}
		for _, f := range events {
			if !w.has(f) {
				continue
			}
			if len(page) == w.Limit {
				return page, strconv.FormatInt(int64(page[len(page)-1].NID), 10), nil
			}
			page = append(page, f)
		}
		filter.After = events[len(events)-1].NID
	}
}

// statuses returns the states that a value of status stands for. In an older draft "finalised" stands for all ended
// events. An event that is being sent has no status.
func statuses(value string) []api.State {
	switch value {
	case "scheduled":
		return []api.State{api.Scheduled}
	case "sent":
		return []api.State{api.Sent}
	case "cancelled":
		return []api.State{api.Cancelled, api.Invalidated, api.Discarded}
	case "failed":
		return []api.State{api.Failed}
	case "finalised":
		return []api.State{api.Sent, api.Failed, api.Cancelled, api.Invalidated, api.Discarded}
	}
	return nil
}

// readNumbers reads the parameters that are numbers. Page tokens are numbers too, but that is not documented for
// clients.
func readNumbers(query url.Values, w *wanted) *util.JSONResponse {
	after, limit := int64(0), int64(w.Limit)
	for _, p := range []struct {
		name  string
		least int64
		to    *int64
	}{
		{"next_batch", 1, &after}, // the name that mautrix-go uses
		{"from", 1, &after},
		{"limit", 1, &limit},
		{"from_ts", 0, &w.from},
		{"to_ts", 0, &w.to},
	} {
		if !query.Has(p.name) {
			continue
		}
		n, err := strconv.ParseInt(query.Get(p.name), 10, 64)
		if err != nil || n < p.least {
			return invalidParam("%s is not valid", p.name)
		}
		*p.to = n
	}
	w.After, w.Limit = api.NID(after), int(min(limit, listMost))
	return nil
}

func readWanted(query url.Values, userID string) (w *wanted, fault *util.JSONResponse) {
	w = &wanted{
		DelayedFilter: api.DelayedFilter{UserID: userID, RoomID: query.Get("room_id"), Limit: listDefault},
		delayIDs:      query["delay_id"],
		types:         query["type"],
		to:            math.MaxInt64,
	}
	w.plain = !slices.ContainsFunc(strings.Fields(listParams), query.Has)
	if w.plain {
		w.Limit = listMost
	}
	for _, value := range query["status"] {
		states := statuses(value)
		if states == nil {
			return nil, invalidParam("status must be scheduled, sent, cancelled or failed")
		}
		w.States = append(w.States, states...)
	}
	if w.States == nil && w.delayIDs != nil { // a client that names events wants to see them in any state
		w.States = append(statuses("finalised"), api.Scheduled)
	}
	switch query.Get("dir") {
	case "", "f":
	case "b":
		w.Backwards = true
	default:
		return nil, invalidParam("dir must be f or b")
	}
	return w, readNumbers(query, w)
}
