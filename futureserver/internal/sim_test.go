package internal

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sirupsen/logrus"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
	"github.com/matrix-org/dendrite/futures/test/model"
)

// The simulation: random histories against the whole core on a real SQLite file, in virtual time, judged by the model.
// The program is drawn first and run in a bubble afterwards, so that rapid can shrink it.

const (
	slack = 30 * time.Second
	grace = 15 * time.Second // a room that was down is retried within its back-off
)

// op is one step of a history. The verb decides which fields have a meaning.
type op struct {
	verb          string
	user, room    int
	group, key    int
	ms            int
	future        int
	step          string
	mode          roomMode
	late, message bool
	managed       bool // a delayed event
}

func (o op) String() string {
	return fmt.Sprintf("%s{user:%d room:%d group:%d key:%d ms:%d future:%d step:%q mode:%v late:%v message:%v managed:%v}",
		o.verb, o.user, o.room, o.group, o.key, o.ms, o.future, o.step, o.mode, o.late, o.message, o.managed)
}

var verbs = []string{
	"create", "create", "create", "create", "action", "action", "wait", "wait", "wait", "refresh", "refresh", "refresh",
	"send", "cancel", "newer state", "crash", "crash at", "stop", "set clock", "room",
}

func drawOp(t *rapid.T) op {
	return op{
		verb:    rapid.SampledFrom(verbs).Draw(t, "verb"),
		user:    rapid.IntRange(0, 1).Draw(t, "user"),
		room:    rapid.IntRange(0, 2).Draw(t, "room"),
		group:   rapid.IntRange(0, 4).Draw(t, "group"), // 0: a group of its own
		key:     rapid.IntRange(1, 2).Draw(t, "key"),
		message: rapid.Bool().Draw(t, "message"),
		ms:      rapid.SampledFrom([]int{1, 3, 50, 1000, 8000, 20_000, 120_000}).Draw(t, "ms"),
		future:  rapid.IntRange(0, 30).Draw(t, "future"),
		step:    rapid.SampledFrom([]string{"accepted", "commit", "committed", "built", "claimed", "submitted", "proved", "finalised"}).Draw(t, "step"),
		mode:    roomMode(rapid.IntRange(0, int(modes)-1).Draw(t, "mode")),
		late:    rapid.Bool().Draw(t, "late"),
		managed: rapid.IntRange(0, 2).Draw(t, "managed") == 0,
	}
}

func TestMain(m *testing.M) {
	logrus.SetOutput(io.Discard)
	flag.Set("rapid.checks", "300") // unless the command line says otherwise
	goleak.VerifyTestMain(m)
}

func TestSimulation(t *testing.T) {
	n := 0
	rapid.Check(t, func(rt *rapid.T) {
		program := rapid.SliceOfN(rapid.Custom(drawOp), 1, 40).Draw(rt, "program")
		n++
		path := filepath.Join(t.TempDir(), fmt.Sprintf("futures-%d.db", n))
		var err error
		synctest.Test(t, func(t *testing.T) {
			err = newSimulation(t, path).run(program)
		})
		if err != nil {
			rt.Fatal(err)
		}
	})
}

// simulation is one running history.
type simulation struct {
	t       *testing.T
	path    string
	server  *Server
	rooms   *fakeRooms
	world   *model.World
	futures []*simFuture
	byNID   map[api.NID]*simFuture
	freezer *freezer
}

// simFuture is what the server and the model know of one future.
type simFuture struct {
	*api.Future
	seen *model.Future
}

func newSimulation(t *testing.T, path string) *simulation {
	return &simulation{
		t: t, path: path,
		rooms: newFakeRooms(),
		world: model.New(slack, grace),
		byNID: map[api.NID]*simFuture{},
	}
}

func (s *simulation) run(program []op) (err error) {
	if err := s.start(); err != nil {
		return err
	}
	defer func() {
		s.freezer.disarm()
		if stopErr := s.server.Stop(context.Background()); err == nil {
			err = stopErr
		}
	}()
	for i, o := range program {
		err := s.step(o)
		if err == nil {
			err = s.judge()
		}
		if err != nil {
			return fmt.Errorf("step %d, %v: %w", i, o, err)
		}
	}
	return s.finish()
}

// step does one step. If the process is to die during it, it dies there.
func (s *simulation) step(o op) error {
	done, freezer := make(chan error, 1), s.freezer
	go func() { done <- s.do(o) }()
	select {
	case err := <-done:
		synctest.Wait()
		if err != nil || !freezer.isFrozen() {
			return err
		}
		s.server.crash(freezer)
	case <-freezer.frozen:
		s.server.crash(freezer)
		if err := <-done; err != nil {
			return err
		}
	}
	time.Sleep(time.Duration(o.ms) * time.Millisecond)
	return s.start()
}

// start starts the server on the current disk.
func (s *simulation) start() error {
	s.freezer = newFreezer()
	db, err := openTestDatabase(s.path)
	if err != nil {
		return err
	}
	s.server, err = New(s.t.Context(), testConfig(), db, s.rooms, NewMetrics(nil), Hooks{Step: s.freezer.step})
	s.world.Restarted(time.Now())
	return err
}

// finish makes every room work again and waits until all timers have run out.
func (s *simulation) finish() error {
	s.rooms.setMode(working)
	s.freezer.disarm()
	time.Sleep(max(0, time.Until(s.world.Horizon())) + grace + time.Minute)
	synctest.Wait()
	if err := errors.Join(s.judge(), s.world.Late(time.Now())); err != nil {
		return err
	}
	if n := s.server.QueryFutureCounts(s.t.Context()); n != (api.Counts{}) {
		return fmt.Errorf("something is left in memory: %+v", n)
	}
	for _, f := range s.futures {
		if err := s.judgeOutcome(f); err != nil {
			return err
		}
		for _, k := range []api.TokenKind{api.SendToken, api.CancelToken, api.RefreshToken, api.GroupToken} {
			if err := s.server.PerformTokenAction(s.t.Context(), f.Token(k)); !errors.Is(err, api.ErrGone) {
				return fmt.Errorf("%s: a spent token answered %v", f.seen.Name, err)
			}
		}
	}
	return nil
}

// judgeOutcome checks that the outcome of a delayed event agrees with the room.
func (s *simulation) judgeOutcome(f *simFuture) error {
	if !f.Policy.Has(api.Managed) {
		return nil
	}
	found, err := s.server.QueryDelayedEvent(s.t.Context(), f.GroupID, f.UserID)
	if err != nil {
		return fmt.Errorf("%s: %w", f.seen.Name, err)
	}
	if found.State.Live() || (found.State == api.Sent) != !f.seen.Sent.IsZero() {
		return fmt.Errorf("%s: it is said to be %v, and its event came at %v", f.seen.Name, found.State, f.seen.Sent)
	}
	return nil
}

func (s *simulation) do(o op) error {
	switch o.verb {
	case "create":
		return s.create(o, time.Duration(o.ms)*time.Millisecond)
	case "action":
		return s.create(o, 0)
	case "wait":
		time.Sleep(time.Duration(o.ms) * time.Millisecond)
	case "newer state":
		return s.newerState(o)
	case "crash":
		s.freezer.freeze()
	case "stop":
		return s.stop(time.Duration(o.ms) * time.Millisecond)
	case "set clock":
		return s.setClock(time.Duration(o.ms)*time.Millisecond, o.late)
	case "crash at":
		s.freezer.arm(o.step)
	case "room":
		if s.rooms.setMode(o.mode); s.rooms.refuses() {
			for i := range 3 {
				s.world.RoomRefuses(roomName(i))
			}
		}
	default:
		if o.future < len(s.futures) {
			return s.useToken(o, s.futures[o.future])
		}
	}
	return nil
}

func roomName(n int) string { return fmt.Sprintf("!room%d:test", n) }
func userName(n int) string { return fmt.Sprintf("@user%d:test", n) }

func (s *simulation) create(o op, timeout time.Duration) error {
	f := &api.Future{
		UserID: userName(o.user), RoomID: roomName(o.room), Type: "m.test", Content: []byte(`{"a":1}`),
		Timeout: timeout, Policy: api.CancelOnNewerState,
	}
	seen := &model.Future{Name: fmt.Sprintf("future %d", len(s.futures)), Room: f.RoomID, Timeout: timeout}
	if !o.message {
		key := fmt.Sprintf("key%d", o.key)
		f.StateKey, seen.Sets, seen.Key = &key, key, key
	}
	group := fmt.Sprintf("own %d", len(s.futures))
	if o.managed && timeout != 0 {
		f.Policy, seen.Key = api.Managed, ""
		if o.key == 1 {
			f.Policy |= api.CancelOnOthersState
			seen.Key = seen.Sets
		}
	} else if o.group != 0 {
		f.GroupID = fmt.Sprintf("group%d", o.group)
		group = f.UserID + " " + f.GroupID
		if last := len(s.futures) - 1; o.group == 4 && last >= 0 && !s.futures[last].Policy.Has(api.Managed) { // a group that the server has named
			f.UserID, f.GroupID, group = s.futures[last].UserID, s.futures[last].GroupID, s.futures[last].seen.Group.Name
		}
	}
	open := s.world.GroupOpen(group, time.Now())
	asked := time.Now()
	made, err := s.server.PerformFutureCreation(s.t.Context(), f)
	switch {
	case errors.Is(err, api.ErrUnknownGroup):
		if open == 1 && o.group != 0 {
			return errors.New("its group is open, but it was told otherwise")
		}
		return nil
	case err != nil && (s.freezer.isFrozen() || s.rooms.ill()):
		s.world.Unanswered(group)
		return nil
	case err != nil:
		return err
	case open == -1 && timeout == 0:
		return errors.New("an action future was let into a group that is over")
	}
	x := &simFuture{Future: made, seen: seen}
	s.futures = append(s.futures, x)
	s.byNID[made.NID] = x
	s.world.Created(seen, group, asked, time.Now())
	if s.rooms.refuses() {
		s.world.RoomRefuses(f.RoomID)
	}
	return nil
}

func (s *simulation) useToken(o op, f *simFuture) error {
	ctx, cancel := context.WithTimeout(s.t.Context(), 20*time.Second)
	defer cancel()
	asked := time.Now()
	kind := map[string]api.TokenKind{"send": api.SendToken, "cancel": api.CancelToken, "refresh": api.RefreshToken}[o.verb]
	if kind == api.SendToken {
		s.world.Asked(f.seen)
	}
	err := s.act(ctx, f, kind)
	answered := time.Now()
	if judged := s.judge(); judged != nil {
		return judged
	}
	gone := errors.Is(err, api.ErrGone)
	if err != nil && !gone && !s.freezer.isFrozen() && !s.rooms.ill() {
		return err
	}
	_, refused := errors.AsType[*api.Refusal](err)
	switch {
	case kind == api.SendToken && err == nil:
		return s.world.Answered(f.seen, model.OK, asked)
	case kind == api.SendToken && gone:
		return s.world.Answered(f.seen, model.Gone, asked)
	case kind == api.SendToken && refused:
		return s.world.Answered(f.seen, model.Refused, asked)
	case kind == api.SendToken, err != nil && !gone:
		return nil
	case kind == api.CancelToken:
		return s.world.Cancelled(f.seen, !gone, asked)
	case f.Timeout == 0:
		if !gone {
			return errors.New("an action future has no refresh token")
		}
		return nil
	}
	return s.world.Refreshed(f.seen, !gone, asked, answered)
}

// act uses a token, or does the same action to a delayed event.
func (s *simulation) act(ctx context.Context, f *simFuture, kind api.TokenKind) error {
	if !f.Policy.Has(api.Managed) {
		return s.server.PerformTokenAction(ctx, f.Token(kind))
	}
	a := map[api.TokenKind]api.Action{api.SendToken: api.Send, api.CancelToken: api.Cancel, api.RefreshToken: api.Restart}[kind]
	err := s.server.PerformDelayedEventAction(ctx, f.GroupID, f.UserID, a)
	if _, over := errors.AsType[*api.FinishedError](err); over {
		return api.ErrGone
	}
	return err
}

// newerState sets a piece of state. The consumer of the room's output may learn of it late.
func (s *simulation) newerState(o op) error {
	room, key := roomName(o.room), fmt.Sprintf("key%d", o.key)
	s.rooms.setState(room, key)
	set := time.Now()
	heard := false
	defer func() { s.world.NewerState(room, key, heard, set) }()
	if o.late {
		return nil
	}
	err := s.server.PerformStateChange(s.t.Context(), room, []api.StateKeyTuple{{Type: "m.test", StateKey: key}})
	if err != nil && !s.freezer.isFrozen() && !s.rooms.ill() {
		return err
	}
	heard = err == nil
	return nil
}

// stop is a clean restart.
func (s *simulation) stop(downtime time.Duration) error {
	err := s.server.Stop(s.t.Context())
	if s.freezer.isFrozen() {
		return nil // it died during the stop; the code that froze it starts it again
	}
	if err != nil {
		return err
	}
	time.Sleep(downtime)
	return s.start()
}

// setClock sets the wall clock while the server is down. The deadlines on disk are in the old clock's time, so for the
// server it is as if all of them had moved the other way.
func (s *simulation) setClock(by time.Duration, back bool) error {
	err := s.server.Stop(s.t.Context())
	if s.freezer.isFrozen() {
		return nil
	}
	if err != nil {
		return err
	}
	if !back {
		by = -by
	}
	if err := moveDeadlines(s.path, by); err != nil {
		return err
	}
	if err := s.judge(); err != nil { // events sent during the stop were timed by the old clock
		return err
	}
	s.world.ClockSet(by, time.Now())
	return s.start()
}

// judge shows the model the new events of the rooms.
func (s *simulation) judge() error {
	for _, e := range s.rooms.fresh() {
		f, ok := s.byNID[e.nid]
		if !ok {
			continue // its creation was not answered
		}
		if err := s.world.Happened(f.seen, e.built, e.at); err != nil {
			return err
		}
	}
	return nil
}
