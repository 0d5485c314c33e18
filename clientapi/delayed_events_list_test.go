package clientapi

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
)

func TestListDelayed(t *testing.T) {
	t.Run("gen1 5.1, 5.2 one element", func(t *testing.T) {
		h := newHarness(unlimited)
		f := h.event(api.Scheduled)
		f.StateKey = ptr("k")
		want := `{"delayed_events":[{"delay_id":"` + f.GroupID + `","room_id":"!r:test","type":"m.room.message","state_key":"k",` +
			`"delay_ms":10000,"delayed_since_ts":1700000000000,"content":{"body":"bye"},` +
			`"delay":10000,"running_since":1700000000000,"scheduled_at":1700000000000}]}`
		for _, body := range []string{"", "{}"} { // mautrix-go sends a body with GET
			if a := h.do("GET", listAt, "alice2", body).wantOK(t); a.body != want {
				t.Errorf("got  %s\nwant %s", a.body, want)
			}
		}
		for _, other := range []string{"bob", "guest"} {
			if a := h.do("GET", listAt, other, ""); a.body != `{"delayed_events":[]}` {
				t.Errorf("%s: %s", other, a.body)
			}
		}
		h.do("GET", listAt, "", "").want(t, 401, "M_MISSING_TOKEN")
		h.do("GET", listAt, "nobody", "").want(t, 401, "M_UNKNOWN_TOKEN")
		if a := h.do("OPTIONS", listAt, "", ""); a.code != 200 || a.header.Get("Access-Control-Allow-Origin") != "*" {
			t.Errorf("CORS: %d", a.code)
		}
		h.fail = errors.New("disk full")
		h.do("GET", listAt, "alice", "").want(t, 500, "M_UNKNOWN")
	})
}

func TestListParameters(t *testing.T) {
	h := newHarness(unlimited)
	for i, state := range []api.State{api.Scheduled, api.Sent, api.Failed, api.Cancelled, api.Scheduled, api.Sending, api.Invalidated, api.Discarded} {
		f := h.event(state)
		f.Deadline -= int64(i) * 1000 // events that are scheduled later are due earlier
	}
	h.events[4].RoomID, h.events[4].Type = "!s:test", "m.room.topic"
	id := func(i int) string { return "delay_id=" + h.events[i].GroupID }
	for _, c := range []struct {
		name, query string
		want        []int
	}{
		{"gen1 5.1 scheduled ones by send time", "", []int{4, 0}},
		{"parameters of others mean nothing", "?user_id=x&foo=bar", []int{4, 0}},
		{"limit: by scheduling", "?limit=5", []int{0, 4}},
		{"dir=f", "?dir=f", []int{0, 4}},
		{"dir=b", "?dir=b", []int{4, 0}},
		{"status=scheduled", "?status=scheduled", []int{0, 4}},
		{"status=sent", "?status=sent", []int{1}},
		{"status=failed", "?status=failed", []int{2}},
		{"status=cancelled", "?status=cancelled", []int{3, 6, 7}},
		{"status=finalised", "?status=finalised", []int{1, 2, 3, 6, 7}},
		{"two of status", "?status=sent&status=failed&dir=b", []int{2, 1}},
		{"room_id", "?room_id=%21s%3Atest", []int{4}},
		{"type", "?type=m.room.message", []int{0}},
		{"from_ts", "?from_ts=1700000007000", []int{0}},
		{"to_ts", "?to_ts=1700000006000", []int{4}},
		{"both", "?to_ts=1700000006000&from_ts=1700000006000", []int{4}},
		{"gen1 1.3 delay_id", "?" + id(0), []int{0}},
		{"gen1 1.3 delay_id of any status", "?" + id(0) + "&" + id(1) + "&delay_id=unknown", []int{0, 1}},
		{"gen1 1.3 delay_id and status", "?status=finalised&" + id(0) + "&" + id(1), []int{1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := h.do("GET", listAt+c.query, "alice", "")
			if got := h.listedIDs(t, a); !slices.Equal(got, c.want) || a.json["next_batch"] != nil {
				t.Errorf("got %v %v, want %v", got, a.json["next_batch"], c.want)
			}
		})
	}
	t.Run("bad parameters", func(t *testing.T) {
		for _, query := range []string{
			"status=", "status=oops", "status=sent&status=oops", "dir=x", "limit=0", "limit=x", "limit=-1", "limit=", "from=x", "from=0",
			"next_batch=x", "from_ts=x", "from_ts=-1", "to_ts=x",
		} {
			h.do("GET", listAt+"?"+query, "alice", "").want(t, 400, "M_INVALID_PARAM")
		}
	})
}

func TestListDelayedPages(t *testing.T) {
	h := newHarness(unlimited)
	for range 250 {
		h.event(api.Scheduled)
	}
	var forwards, backwards []int
	for i := range h.events {
		if i%5 == 0 {
			h.events[i].Type = "fifth"
		}
		forwards, backwards = append(forwards, i), append(backwards, len(h.events)-1-i)
	}
	for _, c := range []struct {
		query       string
		from        string
		pages, want int
		order       []int
	}{
		{"limit=7", "from", 36, 250, forwards},
		{"limit=7&dir=b", "from", 36, 250, backwards},
		{"limit=250", "next_batch", 1, 250, forwards},
		{"dir=f", "next_batch", 3, 250, forwards}, // 100 by default
		{"limit=9999", "from", 1, 250, forwards},
		{"type=fifth&limit=7", "from", 8, 50, nil},
		{"type=fifth&limit=50", "from", 1, 50, nil},
	} {
		t.Run("gen1 5.4 "+c.query, func(t *testing.T) {
			var all []int
			pages, next := 0, ""
			for {
				a := h.do("GET", listAt+"?"+c.query+next, "alice", "")
				page := h.listedIDs(t, a)
				pages++
				all = append(all, page...)
				batch, more := a.json["next_batch"].(string)
				if !more || len(page) == 0 {
					break
				}
				next = fmt.Sprintf("&%s=%s", c.from, batch)
			}
			if pages != c.pages || len(all) != c.want || c.order != nil && !slices.Equal(all, c.order) {
				t.Errorf("%d pages, %d events: %v", pages, len(all), all)
			}
		})
	}
	t.Run("without parameters all of them", func(t *testing.T) {
		if n := len(h.listedIDs(t, h.do("GET", listAt, "alice", ""))); n != 250 {
			t.Error(n)
		}
		for range 800 {
			h.event(api.Scheduled)
		}
		a := h.do("GET", listAt, "alice", "")
		if n := len(h.listedIDs(t, a)); n != 1000 || a.json["next_batch"] == nil {
			t.Errorf("%d, then %v", n, a.json["next_batch"])
		}
	})
}
