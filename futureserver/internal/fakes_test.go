package internal

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/matrix-org/dendrite/setup/config"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
	"github.com/matrix-org/dendrite/futures/futureserver/storage"
	"github.com/matrix-org/dendrite/futures/futureserver/storage/sqlite3"
)

// roomMode is how the rooms behave.
type roomMode int

const (
	working     roomMode = iota
	down                 // every call fails
	refusing             // the auth rules forbid every event
	softFailing          // events are accepted and kept out of the timeline
	deaf                 // events arrive, but the answer is lost
	stranding            // an event appears only when it is submitted a second time
	slow                 // every call is slow
	modes
)

// fakeRooms is api.Room with rooms that are maps.
type fakeRooms struct {
	mu        sync.Mutex
	mode      roomMode
	sick      bool // has ever had another mode
	state     map[[2]string]api.StateEvent
	submitted map[string]int
	arrived   map[string]bool
	refused   map[string]bool // accepted, but kept out of the timeline
	events    []fakeEvent
	shown     int
	builds    int
	asked     int // how often to build

	submissions int

	inside           atomic.Int64   // turns of all rooms that are inside the gate
	submittedInside  atomic.Int64   // while a turn was inside the gate
	unclear          api.NID        // its events vanish
	inFlight         map[string]int // current submissions by room
	most, mostInRoom int
}

type fakeEvent struct {
	nid   api.NID
	id    string
	room  string
	built time.Time // its origin_server_ts
	at    time.Time
}

var errDown = errors.New("the room is down")

func newFakeRooms() *fakeRooms {
	return &fakeRooms{state: map[[2]string]api.StateEvent{}, submitted: map[string]int{}, arrived: map[string]bool{}, refused: map[string]bool{}, inFlight: map[string]int{}}
}

func (r *fakeRooms) Enter(context.Context, string) (leave func()) {
	r.inside.Add(1)
	return sync.OnceFunc(func() { r.inside.Add(-1) })
}

func (r *fakeRooms) setMode(m roomMode) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.mode = m
	r.sick = r.sick || m != working
}

// ill reports whether the rooms may return an error.
func (r *fakeRooms) ill() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.mode != working
}

func (r *fakeRooms) setUnclear(nid api.NID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.unclear = nid
}

// refuses reports whether events are refused.
func (r *fakeRooms) refuses() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.mode == refusing || r.mode == softFailing
}

// setState sends an ordinary state event of another user.
func (r *fakeRooms) setState(room, key string) { r.setStateAs("@somebody:test", room, key) }

func (r *fakeRooms) setStateAs(sender, room, key string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.builds++
	r.state[[2]string{room, key}] = api.StateEvent{ID: fmt.Sprintf("$outside%d", r.builds), Sender: sender}
}

// fresh returns the events that have arrived since the last call.
func (r *fakeRooms) fresh() []fakeEvent {
	r.mu.Lock()
	defer r.mu.Unlock()
	defer func() { r.shown = len(r.events) }()
	return r.events[r.shown:]
}

// enter begins every call.
func (r *fakeRooms) enter(ctx context.Context) error {
	r.mu.Lock()
	mode := r.mode
	r.mu.Unlock()
	if mode == slow {
		select {
		case <-time.After(300 * time.Millisecond):
		case <-ctx.Done():
		}
	}
	if mode == down {
		return errDown
	}
	return ctx.Err()
}

func (r *fakeRooms) current(f *api.Future) api.StateEvent {
	if f.StateKey == nil {
		return api.StateEvent{}
	}
	return r.state[[2]string{f.RoomID, *f.StateKey}]
}

func (r *fakeRooms) Admit(ctx context.Context, f *api.Future) (string, error) {
	if err := r.enter(ctx); err != nil {
		return "", err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.current(f).ID, nil
}

func (r *fakeRooms) Current(ctx context.Context, room string, keys []api.StateKeyTuple) ([]api.StateEvent, error) {
	if len(keys) == 0 {
		return nil, nil
	}
	if err := r.enter(ctx); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	now := make([]api.StateEvent, len(keys))
	for i, k := range keys {
		now[i] = r.state[[2]string{room, k.StateKey}]
	}
	return now, nil
}

// fakePDU records how an event was built.
type fakePDU struct {
	Prev  string // "": it has no predecessor
	Depth int
	Built time.Time
}

// Build builds each event on the one before. A chain ends if the same state is set again, and sometimes at random.
func (r *fakeRooms) Build(ctx context.Context, fs []*api.Future) []api.Built {
	built := make([]api.Built, len(fs))
	r.mu.Lock()
	r.asked++
	r.mu.Unlock()
	last := fakePDU{Built: time.Now()}
	err := r.enter(ctx)
	r.mu.Lock()
	defer r.mu.Unlock()
	set := map[string]bool{}
	for i, f := range fs {
		switch {
		case err != nil:
			built[i].Err = err
			continue
		case r.mode == refusing:
			built[i].Err = &api.Refusal{Kind: api.Forbidden, Message: "no"}
			continue
		case f.StateKey != nil && set[*f.StateKey], i > 0 && r.builds%11 == 10:
			r.builds++
			return built
		case f.StateKey != nil && f.Policy.Outdated(f.Base, f.UserID, r.current(f)):
			built[i].Err = api.ErrNewerState
			continue
		}
		r.builds++
		if f.StateKey != nil {
			set[*f.StateKey] = true
		}
		last.Depth++
		pdu, _ := json.Marshal(last)
		built[i].Event = &api.Event{ID: fmt.Sprintf("$%d-%d", f.NID, r.builds), PDU: pdu}
		last.Prev = built[i].Event.ID
	}
	return built
}

// timesAsked returns how often the rooms have been asked to build.
func (r *fakeRooms) timesAsked() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.asked
}

// fly counts what is in flight.
func (r *fakeRooms) fly(room string, n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.submissions += max(n, 0)
	r.inFlight[room] += n
	all := 0
	for _, n := range r.inFlight {
		all += n
	}
	r.most, r.mostInRoom = max(r.most, all), max(r.mostInRoom, r.inFlight[room])
}

func (r *fakeRooms) Submit(ctx context.Context, fs []*api.Future) error {
	if r.inside.Load() == 1 {
		r.submittedInside.Add(1)
	}
	r.fly(fs[0].RoomID, 1)
	defer r.fly(fs[0].RoomID, -1)
	if err := r.enter(ctx); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	pdus := make(map[*api.Future]fakePDU, len(fs))
	for _, f := range fs {
		var pdu fakePDU
		if err := json.Unmarshal(f.Event.PDU, &pdu); err != nil {
			return err
		}
		pdus[f] = pdu
	}
	inOrder := slices.SortedStableFunc(slices.Values(fs), func(a, b *api.Future) int { return cmp.Compare(pdus[a].Depth, pdus[b].Depth) })
	for _, f := range inOrder {
		r.take(f, pdus[f])
	}
	if r.mode == deaf {
		return errDown
	}
	return nil
}

// take handles one submitted event. If its predecessor is missing, nothing happens.
func (r *fakeRooms) take(f *api.Future, pdu fakePDU) {
	id, prev := f.Event.ID, pdu.Prev
	r.submitted[id]++
	if r.unclear == f.NID || r.mode == stranding && r.submitted[id] < 2 || prev != "" && !r.arrived[prev] && !r.refused[prev] {
		return
	}
	if r.mode == softFailing {
		r.refused[id] = true
		return
	}
	if !r.arrived[id] {
		r.arrived[id] = true
		r.events = append(r.events, fakeEvent{f.NID, id, f.RoomID, pdu.Built, time.Now()})
		if f.StateKey != nil {
			r.state[[2]string{f.RoomID, *f.StateKey}] = api.StateEvent{ID: id, Sender: f.UserID}
		}
	}
}

func (r *fakeRooms) Verdict(ctx context.Context, fs []*api.Future) ([]api.Verdict, error) {
	if err := r.enter(ctx); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	verdicts := make([]api.Verdict, len(fs))
	for i, f := range fs {
		switch {
		case r.unclear == f.NID:
		case r.arrived[f.Event.ID] && r.mode != deaf:
			verdicts[i] = api.Confirmed
		case r.refused[f.Event.ID] && r.mode == softFailing:
			verdicts[i] = api.Refused
		}
	}
	return verdicts, nil
}

// freezer stops the server at a named step, as if the process had died there: after the step its contexts are cancelled
// and its database is closed.
type freezer struct {
	frozen chan struct{} // closed when the step is reached

	mu    sync.Mutex
	at    string
	did   bool
	thawn chan struct{}
}

func newFreezer() *freezer {
	return &freezer{frozen: make(chan struct{}), thawn: make(chan struct{})}
}

func (f *freezer) arm(step string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.at = step
}

func (f *freezer) disarm() { f.arm("") }

// freeze stops the server here.
func (f *freezer) freeze() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.did {
		f.did = true
		close(f.frozen)
	}
}

func (f *freezer) isFrozen() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.did
}

func (f *freezer) thaw() { close(f.thawn) }

func (f *freezer) step(name string) {
	f.mu.Lock()
	hit := f.at == name && !f.did
	f.mu.Unlock()
	if hit {
		f.freeze()
	}
	if f.isFrozen() {
		<-f.thawn
	}
}

// crash ends a process as the disk sees it: nothing more is written.
func (s *Server) crash(f *freezer) {
	s.mu.Lock()
	stopping := s.stopCalled
	s.stopCalled, s.stopping = true, true
	s.mu.Unlock()
	s.cancel()
	f.thaw()
	if stopping { // it was about to stop in any case
		<-s.stopped
		return
	}
	close(s.stopRun)
	s.work.Wait()
	s.loops.Wait()
	s.dismiss()
	s.db.Close()
}

// moveDeadlines changes all deadlines in a database that is not in use.
func moveDeadlines(path string, by time.Duration) error {
	db, err := sql.Open("sqlite3", path)
	if err != nil {
		return err
	}
	for _, table := range []string{"futureserver_timers", "futureserver_raised"} {
		_, failed := db.Exec("UPDATE "+table+" SET deadline_ts = deadline_ts + ? WHERE deadline_ts > 0", by.Milliseconds())
		err = errors.Join(err, failed)
	}
	return errors.Join(err, db.Close())
}

func openTestDatabase(path string) (storage.Database, error) {
	return sqlite3.Open(context.Background(), &config.DatabaseOptions{ConnectionString: config.DataSource("file:" + path)})
}
