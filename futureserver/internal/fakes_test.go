package internal

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"
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
	down                 // nothing can be asked or done
	refusing             // the auth rules forbid every event
	softFailing          // events are taken in and kept out of the timeline
	deaf                 // events arrive, but the answer is lost
	stranding            // an event appears only when it is submitted a second time
	slow                 // everything takes its time
	modes
)

// fakeRooms is api.Room with rooms that are maps.
type fakeRooms struct {
	mu        sync.Mutex
	mode      roomMode
	sick      bool // has ever been anything but working
	state     map[[2]string]api.StateEvent
	submitted map[string]int
	arrived   map[string]bool
	events    []fakeEvent
	shown     int
	builds    int

	unclear          api.NID        // its events vanish without a trace
	inFlight         map[string]int // submissions by room
	most, mostInRoom int
}

type fakeEvent struct {
	nid  api.NID
	id   string
	room string
	at   time.Time
}

var errDown = errors.New("the room is down")

func newFakeRooms() *fakeRooms {
	return &fakeRooms{state: map[[2]string]api.StateEvent{}, submitted: map[string]int{}, arrived: map[string]bool{}, inFlight: map[string]int{}}
}

func (r *fakeRooms) setMode(m roomMode) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.mode = m
	r.sick = r.sick || m != working
}

// ill reports whether an error may come from the rooms.
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

// refuses reports whether events come to nothing.
func (r *fakeRooms) refuses() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.mode == refusing || r.mode == softFailing
}

// setState is somebody's ordinary state event.
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

// enter is the beginning of every call.
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

func (r *fakeRooms) Build(ctx context.Context, f *api.Future) (*api.Event, error) {
	if err := r.enter(ctx); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.mode == refusing {
		return nil, &api.Refusal{Kind: api.Forbidden, Message: "no"}
	}
	if f.StateKey != nil && f.Policy.Outdated(f.Base, f.UserID, r.current(f)) {
		return nil, api.ErrNewerState
	}
	r.builds++
	return &api.Event{ID: fmt.Sprintf("$%d-%d", f.NID, r.builds), PDU: []byte(`{}`)}, nil
}

// fly counts what is in flight.
func (r *fakeRooms) fly(room string, n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.inFlight[room] += n
	all := 0
	for _, n := range r.inFlight {
		all += n
	}
	r.most, r.mostInRoom = max(r.most, all), max(r.mostInRoom, r.inFlight[room])
}

func (r *fakeRooms) Submit(ctx context.Context, f *api.Future) error {
	r.fly(f.RoomID, 1)
	defer r.fly(f.RoomID, -1)
	if err := r.enter(ctx); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.submitted[f.Event.ID]++
	if r.unclear == f.NID || r.mode == softFailing || r.mode == stranding && r.submitted[f.Event.ID] < 2 {
		return nil
	}
	if !r.arrived[f.Event.ID] {
		r.arrived[f.Event.ID] = true
		r.events = append(r.events, fakeEvent{f.NID, f.Event.ID, f.RoomID, time.Now()})
		if f.StateKey != nil {
			r.state[[2]string{f.RoomID, *f.StateKey}] = api.StateEvent{ID: f.Event.ID, Sender: f.UserID}
		}
	}
	if r.mode == deaf {
		return errDown
	}
	return nil
}

func (r *fakeRooms) Verdict(ctx context.Context, f *api.Future) (api.Verdict, error) {
	if err := r.enter(ctx); err != nil {
		return api.Unknown, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.unclear == f.NID:
		return api.Unknown, nil
	case r.arrived[f.Event.ID] && r.mode != deaf:
		return api.Proved, nil
	case r.mode == softFailing:
		return api.Refused, nil
	}
	return api.Unknown, nil
}

// freezer stops the server at a named step, as if the process had died there: what comes after the step finds
// its contexts cancelled and its database closed.
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

// freeze dies here and now.
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

// crash is the end of a process as the disk sees it: nothing is written any more.
func (s *Server) crash(f *freezer) {
	s.mu.Lock()
	stopping := s.stopCalled
	s.stopCalled, s.stopping = true, true
	s.mu.Unlock()
	s.cancel()
	f.thaw()
	if stopping { // it was about to stop anyhow
		<-s.stopped
		return
	}
	close(s.stopRun)
	s.work.Wait()
	s.loops.Wait()
	s.dismiss()
	s.db.Close()
}

// moveDeadlines changes all deadlines in a database that nobody uses.
func moveDeadlines(path string, by time.Duration) error {
	db, err := sql.Open("sqlite3", path)
	if err != nil {
		return err
	}
	_, err = db.Exec("UPDATE futureserver_timers SET deadline_ts = deadline_ts + ? WHERE timeout_ms > 0", by.Milliseconds())
	return errors.Join(err, db.Close())
}

func openTestDatabase(path string) (storage.Database, error) {
	return sqlite3.Open(context.Background(), &config.DatabaseOptions{ConnectionString: config.DataSource("file:" + path)})
}
