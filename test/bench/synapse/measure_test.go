package synapse_test

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/matrix-org/dendrite/futures/test/rig"
)

const (
	eachUser    = 500             // delayed events of one user
	callers     = 8               // who send heartbeats at a time
	turn        = 4 * time.Second // of heartbeats
	stormRooms  = 20
	stormEvents = 500
)

// schedule has that many delayed events pending, of many users, far in the future.
func (s *side) schedule(pending int) {
	s.Helper()
	for len(s.ids) < pending {
		user := s.register(fmt.Sprintf("user%d", len(s.users)))
		room := user.CreateRoom(nil)
		s.users = append(s.users, user)
		var mu sync.Mutex
		var scheduling sync.WaitGroup
		for caller := range callers {
			scheduling.Go(func() {
				for i := caller; i < eachUser; i += callers {
					id := user.Delay(room, "send/m.room.message/"+user.NextTxn(), rig.Text("I have left"), 20*time.Hour).JSON.Get("delay_id").Str
					mu.Lock()
					s.ids = append(s.ids, id)
					mu.Unlock()
				}
			})
		}
		scheduling.Wait()
	}
}

// heartbeats restarts pending events for a while and returns the server's processor time for one.
func (s *side) heartbeats() time.Duration {
	s.Helper()
	client := s.client()
	var sent atomic.Int64
	until, before := time.Now().Add(turn), s.cpu()
	var calling sync.WaitGroup
	for range callers {
		calling.Go(func() {
			for time.Now().Before(until) {
				id := s.ids[rand.IntN(len(s.ids))]
				r, err := client.Do(s.Context(), http.MethodPost, rig.UnstableDelayed+"/"+id, nil, `{"action":"restart"}`)
				if err != nil || r.Status != http.StatusOK {
					s.Errorf("%s: a heartbeat is answered %d %s %v", s.name, r.Status, r.Body, err)
					return
				}
				sent.Add(1)
			}
		})
	}
	calling.Wait()
	n := time.Duration(max(1, sent.Load()))
	s.Logf("%s: %d heartbeats a second", s.name, int64(n)*int64(time.Second)/int64(turn))
	return (s.cpu() - before) / n
}

// cpu returns the processor time that the server's process has used.
func (s *side) cpu() time.Duration {
	s.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.pid))
	if err != nil {
		s.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(data), ") ")
	fields := strings.Fields(rest)
	user, err1 := strconv.Atoi(fields[11])
	system, err2 := strconv.Atoi(fields[12])
	if err1 != nil || err2 != nil {
		s.Fatal(err1, err2)
	}
	return time.Duration(user+system) * 10 * time.Millisecond // a hundredth of a second, on Linux
}

func (s *side) prepareStorm() {
	s.Helper()
	s.storm = s.register("storm")
	for range stormRooms {
		s.rooms = append(s.rooms, s.storm.CreateRoom(nil))
	}
}

// runStorm schedules many events for the same moment, and returns how long after it the last has come in /sync.
func (s *side) runStorm() time.Duration {
	s.Helper()
	start := time.Now()
	query := url.Values{"filter": {`{"room":{"timeline":{"limit":100}}}`}}
	path := rig.Path("sync")
	since := s.must(s.storm.Client, http.MethodGet, path, query, nil).JSON.Get("next_batch").Str
	const notice = 30 * time.Second // to schedule them all
	due := start.Add(notice)
	var scheduling sync.WaitGroup
	for caller := range callers {
		scheduling.Go(func() {
			for i := caller; i < stormEvents; i += callers {
				s.storm.Delay(s.rooms[i%stormRooms], "send/m.room.message/"+s.storm.NextTxn(), rig.Text(fmt.Sprintf("storm %d", s.marks)), time.Until(due))
			}
		})
	}
	scheduling.Wait()
	if time.Now().After(due) {
		s.Fatalf("%s: %s are not enough to schedule %d events", s.name, notice, stormEvents)
	}
	mark := fmt.Sprintf("storm %d", s.marks)
	s.marks++
	query.Set("timeout", "1000")
	for seen := 0; seen < stormEvents; {
		query.Set("since", since)
		r := s.must(s.storm.Client, http.MethodGet, path, query, nil)
		since = r.JSON.Get("next_batch").Str
		for _, room := range r.JSON.Get("rooms.join").Map() {
			for _, e := range room.Get("timeline.events").Array() {
				if e.Get("content.body").Str == mark {
					seen++
				}
			}
		}
	}
	return time.Since(due)
}
