package rig

import (
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/tidwall/gjson"
)

// Helpers for the tests of delayed events, generations 1 and 2 of MSC4140.

// The two paths of delayed events.
const (
	StableDelayed   = "/_matrix/client/v1/delayed_events"
	UnstableDelayed = "/_matrix/client/unstable/org.matrix.msc4140/delayed_events"
)

// ID returns the delay_id of an answer, which must contain nothing else.
func (s *Scene) ID(r Response) string {
	s.Helper()
	id := r.JSON.Get("delay_id").String()
	if r.Status != http.StatusOK || id == "" || len(r.JSON.Map()) != 1 {
		s.Fatalf("scheduling is answered %d %s", r.Status, r.Body)
	}
	return id
}

// Message schedules Alice's message with generation 1 and returns its delay_id.
func (s *Scene) Message(body string, delay time.Duration) string {
	s.Helper()
	return s.ID(s.Alice.Delay(s.Room, "send/m.room.message/"+s.Alice.NextTxn(), Text(body), delay))
}

// State schedules Alice's piece of state with generation 1 and returns its delay_id.
func (s *Scene) State(eventType, key, body string, delay time.Duration) string {
	s.Helper()
	return s.ID(s.Alice.Delay(s.Room, "state/"+eventType+"/"+url.PathEscape(key), Text(body), delay))
}

// Delay sends a request on the room's /send or /state with the parameter of generation 1.
func (u *User) Delay(room, rest string, content any, delay time.Duration) Response {
	u.t.Helper()
	query := url.Values{"org.matrix.msc4140.delay": {strconv.FormatInt(delay.Milliseconds(), 10)}}
	return u.Do(http.MethodPut, Path("rooms", room)+"/"+rest, query, content)
}

// Listed returns the delay_ids in the user's list, with that query.
func (s *Scene) Listed(u *User, query string) []string {
	s.Helper()
	ids := []string{}
	for _, e := range s.Wants(u.Do(http.MethodGet, UnstableDelayed+query, nil, nil), 200, "").JSON.Get("delayed_events").Array() {
		ids = append(ids, e.Get("delay_id").String())
	}
	return ids
}

// Lookup returns Alice's delayed event by the stable path.
func (s *Scene) Lookup(id string) gjson.Result {
	s.Helper()
	return s.Wants(s.Alice.Do(http.MethodGet, StableDelayed+"/"+id, nil, nil), 200, "").JSON
}

// Finalised waits until Alice's delayed event has ended, and returns its finalised.
func (s *Scene) Finalised(id string) (f gjson.Result) {
	s.Helper()
	s.Eventually("the end of the delayed event", func() bool {
		f = s.Lookup(id).Get("finalised")
		return f.Exists()
	})
	return f
}

// Passes lets time pass: it schedules a message and waits for it. Events of the room that were due earlier have arrived
// too, or never will.
func (s *Scene) Passes(d time.Duration) {
	s.Helper()
	marker := fmt.Sprint("marker ", s.Alice.NextTxn())
	s.Message(marker, d)
	s.Sees(marker)
}
