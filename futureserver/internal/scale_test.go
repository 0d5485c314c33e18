package internal

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
	"github.com/matrix-org/dendrite/futures/futureserver/storage"
)

var (
	participants = flag.Int("participants", 2000, "of TestScale")
	minutes      = flag.Int("minutes", 2, "of virtual time that TestScale lasts")
)

const (
	heartbeat   = 5 * time.Second // matrix-js-sdk's defaults
	leaveDelay  = 8 * time.Second
	roomSize    = 20
	eventTime   = 12 * time.Millisecond // time of Dendrite for one event in one room, on a small machine
	hangUps     = 60                    // in each minute one of so many participants hangs up without a word
	serverEvent = 10                    // ms for one event in the whole server: a hundred a second
)

// TestScale is the arithmetic of docs/performance.md as a simulation: the real core on a real database, in virtual
// time, with participants that refresh every five seconds and sometimes vanish. It counts what reaches the database and
// how late leaves are. At the end a media server crashes, and a tenth of the participants vanish at once.
//
//	go test ./futureserver/internal -run TestScale -v -timeout 0 -participants 100000 -minutes 10
func TestScale(t *testing.T) {
	path := filepath.Join(t.TempDir(), "futures.db")
	synctest.Test(t, func(t *testing.T) {
		r := &busyRooms{fakeRooms: newFakeRooms(), due: map[api.NID]time.Time{}, free: make(chan struct{}, 6)}
		db, err := openTestDatabase(path)
		if err != nil {
			t.Fatal(err)
		}
		counted := &countingDatabase{Database: db}
		cfg := testConfig()
		cfg.RoomsInFlight = cap(r.free)
		s, err := New(t.Context(), cfg, counted, r, NewMetrics(nil), Hooks{})
		if err != nil {
			t.Fatal(err)
		}
		crowd := newCallers(t, s, r, *participants)
		created := counted.commits.Load()
		for range *minutes {
			crowd.live(time.Minute, nil)
		}
		refreshes := crowd.refreshes
		rows, commits := counted.extends.Load(), counted.commits.Load()-created
		ordinary := r.lateness()

		gone, missed := len(crowd.alive)/10, 0
		for _, f := range crowd.alive[:gone] {
			if f != nil {
				missed++
			}
		}
		crashed := time.Now()
		crowd.live(leaveDelay+5*time.Minute, func(i int) bool { return i < gone })
		storm := r.lateness()
		if err := s.Stop(context.Background()); err != nil {
			t.Fatal(err)
		}
		seconds := float64(*minutes) * 60
		t.Logf("%d participants, %d min: %.0f refreshes/s, %.0f rows/s in %.1f commits/s, %.2f rows a refresh",
			*participants, *minutes, float64(refreshes)/seconds, float64(rows)/seconds, float64(commits)/seconds, float64(rows)/float64(refreshes))
		t.Logf("leaves in ordinary life: %d, late by %v (p50), %v (p99), %v at most", len(ordinary), quantile(ordinary, 50), quantile(ordinary, 99), quantile(ordinary, 100))
		t.Logf("a tenth vanish at once: %d leaves, the last %v after the crash, late by %v (p50), %v (p99)",
			len(storm), r.last.Sub(crashed).Round(time.Millisecond), quantile(storm, 50), quantile(storm, 99))
		if rows > int64(refreshes)/4 {
			t.Errorf("%d rows for %d refreshes", rows, refreshes)
		}
		if len(ordinary) == 0 || len(storm) < missed {
			t.Errorf("%d and %d leaves; %d participants vanished at once", len(ordinary), len(storm), missed)
		}
		// With six rooms at a time and a hundred events a second no machine could be faster.
		if most := time.Duration(len(storm)) * serverEvent * time.Millisecond; r.last.Sub(crashed) > leaveDelay+heartbeat+most+time.Minute {
			t.Errorf("the last leave came after %v", r.last.Sub(crashed))
		}
	})
}

// callers are the participants' clients.
type callers struct {
	*testing.T
	s         *Server
	rooms     *busyRooms
	alive     []*api.Future
	random    *rand.Rand
	refreshes int
}

func newCallers(t *testing.T, s *Server, r *busyRooms, n int) *callers {
	c := &callers{T: t, s: s, rooms: r, random: rand.New(rand.NewPCG(1, 2)), alive: make([]*api.Future, n)}
	var all sync.WaitGroup
	slots := make(chan struct{}, 500)
	for i := range c.alive {
		slots <- struct{}{}
		all.Go(func() {
			key := fmt.Sprintf("_@user%d:test_DEVICE_m.call", i)
			f, err := s.PerformFutureCreation(t.Context(), &api.Future{
				UserID: fmt.Sprintf("@user%d:test", i), RoomID: fmt.Sprintf("!call%d:test", i/roomSize), Type: "m.call", StateKey: &key,
				Content: []byte(`{}`), Timeout: leaveDelay, Policy: api.CancelOnNewerState,
			})
			if err != nil {
				t.Error(err)
			}
			c.alive[i] = f
			r.expect(f.NID, time.UnixMilli(f.Deadline))
			<-slots
		})
	}
	all.Wait()
	return c
}

// live lets time pass. Each participant has its own moment for its heartbeat. Participants that are gone are silent. If
// gone is nil, one of hangUps falls silent each minute and is replaced by another.
func (c *callers) live(d time.Duration, gone func(i int) bool) {
	const steps = 50 // heartbeat moments within an interval
	for range int(d / heartbeat) {
		for step := range steps {
			time.Sleep(heartbeat / steps)
			for i := step; i < len(c.alive); i += steps {
				f := c.alive[i]
				if f == nil || gone != nil && gone(i) {
					continue
				}
				if gone == nil && c.random.IntN(hangUps*int(time.Minute/heartbeat)) == 0 {
					c.alive[i] = nil
					continue
				}
				c.rooms.expect(f.NID, time.Now().Add(leaveDelay))
				c.refreshes++
				if err := c.s.PerformTokenAction(c.Context(), f.Token(api.RefreshToken)); err != nil {
					c.Fatal(err)
				}
			}
		}
	}
	synctest.Wait()
}

// busyRooms take as long for an event as Dendrite does.
type busyRooms struct {
	*fakeRooms
	free chan struct{} // as many as the core may have in flight

	times sync.Mutex
	due   map[api.NID]time.Time
	late  []time.Duration
	last  time.Time
}

func (r *busyRooms) expect(nid api.NID, due time.Time) {
	r.times.Lock()
	defer r.times.Unlock()
	r.due[nid] = due
}

// Submit takes the time of one room and of the whole server: six rooms at a time finish one event each in six times
// serverEvent.
func (r *busyRooms) Submit(ctx context.Context, fs []*api.Future) error {
	r.free <- struct{}{}
	defer func() { <-r.free }()
	for _, f := range fs {
		busy := len(r.free)
		time.Sleep(max(eventTime, time.Duration(busy*serverEvent)*time.Millisecond))
		r.times.Lock()
		r.last = time.Now()
		r.late = append(r.late, r.last.Sub(r.due[f.NID]))
		r.times.Unlock()
	}
	return r.fakeRooms.Submit(ctx, fs)
}

// lateness returns how late events were since the last call, sorted.
func (r *busyRooms) lateness() []time.Duration {
	r.times.Lock()
	defer r.times.Unlock()
	late := r.late
	r.late = nil
	slices.Sort(late)
	return late
}

func quantile(sorted []time.Duration, percent int) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(len(sorted)-1, len(sorted)*percent/100)].Round(time.Millisecond)
}

var _ storage.Database = (*countingDatabase)(nil)
