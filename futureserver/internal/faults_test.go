package internal

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
	"github.com/matrix-org/dendrite/futures/futureserver/storage"
)

// Tests for the faults that a review found. All of them failed before the ledger existed.

var joins = flag.Duration("joins", 3*time.Second, "how long TestNoGroupTakesAMemberWhenItEnds tries")

// setRooms replaces the rooms.
func (b *bench) setRooms(r api.Room) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.Server.room = r
}

// The database stalls for longer than `patience`: the request was answered 200 although its future had been withdrawn.
func TestAWithdrawnFutureIsNotAnswered(t *testing.T) {
	for _, stall := range []time.Duration{40 * time.Second, 70 * time.Second} {
		t.Run(stall.String(), func(t *testing.T) {
			inBubble(t, func(b *bench) {
				release := b.holdCommits()
				time.AfterFunc(stall, release)
				made, err := b.PerformFutureCreation(b.Context(), transaction("txn", message(time.Hour)))
				t.Logf("first request: made=%v err=%v", made != nil, err)
				if err != nil { // the client retries, as the 503 tells it
					time.Sleep(time.Minute)
					made, err = b.PerformFutureCreation(b.Context(), transaction("txn", message(time.Hour)))
					t.Logf("repeat: made=%v err=%v", made != nil, err)
				}
				synctest.Wait()
				if err == nil {
					if rerr := b.PerformTokenAction(b.Context(), made.Token(api.RefreshToken)); rerr != nil {
						t.Errorf("answered with a future (state %v), but its refresh token says %v: nothing will ever be sent", made.State, rerr)
					}
				}
				time.Sleep(2 * time.Hour)
				synctest.Wait()
				if n := len(b.rooms.all()); err == nil && n != 1 {
					t.Errorf("answered 200, but %d events were sent", n)
				}
			})
		})
	}
}

// The group of a withdrawn future was taken for an ended group.
func TestAWithdrawnFutureClosesNoName(t *testing.T) {
	inBubble(t, func(b *bench) {
		release := b.holdCommits()
		time.AfterFunc(40*time.Second, release)
		_, err := b.PerformFutureCreation(b.Context(), inGroup(state(time.Hour, "k"), "mygroup"))
		t.Logf("first: %v", err)
		time.Sleep(time.Minute)
		_, err = b.PerformFutureCreation(b.Context(), inGroup(state(time.Hour, "k"), "mygroup"))
		if err != nil {
			t.Errorf("the retry that the 503 asked for: %v", err)
		}
	})
}

// The process dies right after the row of a withdrawn future is deleted: nothing is left of it, and the retry is new.
func TestAWithdrawnFutureAfterACrash(t *testing.T) {
	inBubble(t, func(b *bench) {
		if err := b.Stop(b.Context()); err != nil {
			t.Fatal(err)
		}
		freezer := newFreezer()
		b.startStepping(testConfig(), freezer.step)
		freezer.arm("withdrawn")
		time.AfterFunc(40*time.Second, b.holdCommits())
		if _, err := b.PerformFutureCreation(b.Context(), inGroup(state(time.Hour, "k"), "mygroup")); err == nil {
			t.Error("a future was answered that is not on disk")
		}
		<-freezer.frozen
		b.crash(freezer)
		b.start(testConfig())
		if _, err := b.PerformFutureCreation(b.Context(), inGroup(state(2*time.Hour, "k"), "mygroup")); err != nil {
			t.Errorf("the retry: %v", err)
		}
		time.Sleep(90 * time.Minute)
		synctest.Wait()
		if n := len(b.rooms.all()); n != 0 {
			t.Errorf("%d events of the withdrawn future", n)
		}
	})
}

// The insert of a sibling and the claim of the group are in one transaction, and the process dies right after it.
func TestOneEventOfAGroupAfterACrash(t *testing.T) {
	inBubble(t, func(b *bench) {
		if err := b.Stop(b.Context()); err != nil {
			t.Fatal(err)
		}
		freezer := newFreezer()
		b.startStepping(testConfig(), freezer.step)
		first := b.create(inGroup(message(10*time.Second), "g"))
		_ = first
		// Hold the writer in another transaction.
		gate := make(chan struct{})
		held := make(chan struct{}, 1)
		whole := b.db
		b.Server.mu.Lock()
		b.db = &countingDatabase{Database: whole, fail: func(batch *storage.Batch) error {
			t.Logf("commit: %d inserts %d claims %d ends", len(batch.Inserts), len(batch.Claims), len(batch.Ends))
			if len(batch.Claims) > 0 {
				freezer.arm("committed") // right after the transaction with insert and claim
			}
			select {
			case held <- struct{}{}:
				<-gate
			default:
			}
			return nil
		}}
		b.Server.mu.Unlock()
		go b.PerformFutureCreation(b.Context(), state(time.Hour, "other")) //nolint
		synctest.Wait()
		// The sibling is being stored ...
		go b.PerformFutureCreation(b.Context(), inGroup(message(60*time.Second), "g")) //nolint
		synctest.Wait()
		// ... when the first future is due: its claim joins the same batch.
		time.Sleep(11 * time.Second)
		synctest.Wait()
		close(gate)
		<-freezer.frozen
		b.crash(freezer)
		b.start(testConfig())
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if n := len(b.rooms.all()); n != 1 {
			t.Errorf("%d events of one group are in the room: %v", n, b.rooms.all())
		}
	})
}

// The last timeout future of a group is cancelled while another one is being admitted, which is then refused: the
// action future lived for ever.
type refusingRooms struct {
	*fakeRooms
	gate chan struct{}
}

func (r *refusingRooms) Admit(ctx context.Context, f *api.Future) (string, error) {
	if f.Type == "refuse" {
		<-r.gate
		return "", &api.Refusal{Kind: api.TooLarge, Message: "too large"}
	}
	return r.fakeRooms.Admit(ctx, f)
}

func TestNoOrphanedActionFuture(t *testing.T) {
	inBubble(t, func(b *bench) {
		gate := make(chan struct{})
		b.setRooms(&refusingRooms{b.rooms, gate})
		first := b.create(inGroup(message(time.Hour), "g"))
		action := b.create(inGroup(message(0), "g"))
		refused := inGroup(message(time.Hour), "g")
		refused.Type = "refuse"
		answer := b.later(refused)
		b.use(first, api.CancelToken, nil)
		close(gate)
		_, err := answer()
		t.Log(err)
		time.Sleep(72 * time.Hour)
		synctest.Wait()
		if n := b.QueryFutureCounts(b.Context()); n.Scheduled != 0 {
			t.Errorf("the group has no timeout future, but %d future(s) live on", n.Scheduled)
		}
		if err := b.PerformTokenAction(b.Context(), action.Token(api.SendToken)); !errors.Is(err, api.ErrGone) {
			t.Errorf("the action future's send token: %v, and %d events", err, len(b.rooms.all()))
		}
	})
}

// The same with a crash.
func TestNoOrphanedActionFutureAfterACrash(t *testing.T) {
	inBubble(t, func(b *bench) {
		gate := make(chan struct{})
		b.setRooms(&refusingRooms{b.rooms, gate})
		first := b.create(inGroup(message(time.Hour), "g"))
		action := b.create(inGroup(message(0), "g"))
		slow := inGroup(message(time.Hour), "g")
		slow.Type = "refuse"
		answer := b.later(slow)
		b.use(first, api.CancelToken, nil)
		close(gate)
		go answer()
		f := newFreezer()
		b.crash(f)
		b.start(testConfig())
		synctest.Wait()
		if err := b.PerformTokenAction(b.Context(), action.Token(api.SendToken)); !errors.Is(err, api.ErrGone) {
			t.Errorf("the action future's send token: %v", err)
		}
	})
}

// A refresh waits for its commit while the server stops.
func TestARefreshSurvivesAStopBesideIt(t *testing.T) {
	inBubble(t, func(b *bench) {
		f := b.create(message(10 * time.Minute))
		b.use(f, api.RefreshToken, nil)
		time.Sleep(2 * time.Minute) // longer than the slack, so the next refresh must wait for its commit
		release := b.holdCommits()
		// Something else keeps the writer busy.
		go b.PerformFutureCreation(b.Context(), state(time.Hour, "other")) //nolint
		synctest.Wait()
		refreshed := make(chan error, 1)
		at := time.Now()
		go func() { refreshed <- b.PerformTokenAction(b.Context(), f.Token(api.RefreshToken)) }()
		synctest.Wait()
		stopped := make(chan error, 1)
		go func() { stopped <- b.Stop(context.Background()) }()
		synctest.Wait()
		release()
		err := <-refreshed
		t.Logf("refresh: %v, stop: %v", err, <-stopped)
		b.start(testConfig())
		for len(b.rooms.all()) == 0 {
			time.Sleep(time.Second)
		}
		if fired := b.rooms.all()[0].at.Sub(at); err == nil && fired < 10*time.Minute {
			t.Errorf("the refresh was answered 200, but the future fired %v early", 10*time.Minute-fired)
		}
	})
}

// A panic after Stop.
func TestNothingIsBegunAfterAStop(t *testing.T) {
	inBubble(t, func(b *bench) {
		cfg := testConfig()
		cfg.RoomsInFlight = 1
		if err := b.Stop(b.Context()); err != nil {
			t.Fatal(err)
		}
		b.start(cfg)
		stuck := b.create(message(time.Second))
		b.rooms.setUnclear(stuck.NID)
		for {
			time.Sleep(100 * time.Millisecond)
			synctest.Wait()
			b.Server.mu.Lock()
			aside := 0
			for _, rm := range b.working {
				aside += len(rm.aside)
			}
			b.Server.mu.Unlock()
			if aside > 0 {
				break
			}
		}
		// Two more rooms have work: one is in flight, the other waits.
		gate := make(chan struct{})
		b.setRooms(&hangingRooms{b.rooms, gate})
		for _, room := range []string{"!b:test", "!c:test"} {
			f := message(time.Hour)
			f.RoomID = room
			f = b.create(f)
			go b.PerformTokenAction(b.Context(), f.Token(api.SendToken)) //nolint
			synctest.Wait()
		}
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		defer cancel()
		go func() { time.Sleep(200 * time.Millisecond); close(gate) }()
		t.Log("stop:", b.Stop(ctx))
		time.Sleep(time.Minute) // other parts of the process take long to stop
	})
}

type hangingRooms struct {
	*fakeRooms
	gate chan struct{}
}

func (r *hangingRooms) Build(ctx context.Context, fs []*api.Future) []api.Built {
	<-r.gate
	return r.fakeRooms.Build(ctx, fs)
}

// A delayed event that had just been sent was in no list.
func TestASentEventIsInTheListAtOnce(t *testing.T) {
	inBubble(t, func(b *bench) {
		f := message(time.Hour)
		f.Policy = api.Managed
		f = b.create(f)
		step := 0
		whole := b.db
		gate := make(chan struct{})
		b.Server.mu.Lock()
		b.db = &countingDatabase{Database: whole, fail: func(batch *storage.Batch) error {
			if len(batch.Ends) > 0 {
				step++
				<-gate
			}
			return nil
		}}
		b.Server.mu.Unlock()
		if err := b.PerformDelayedEventAction(b.Context(), f.GroupID, "@alice:test", api.Send); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		fs, err := b.QueryDelayedEvents(b.Context(), api.DelayedFilter{UserID: "@alice:test",
			States: []api.State{api.Scheduled, api.Sending, api.Sent, api.Failed, api.Cancelled, api.Invalidated, api.Discarded}})
		if err != nil || len(fs) != 1 {
			t.Errorf("send was answered 200; of all states the list has %d events, %v", len(fs), err)
		}
		close(gate)
	})
}

// A group got a member at the moment at which it ended.
func TestNoGroupTakesAMemberWhenItEnds(t *testing.T) {
	b := &bench{T: t, rooms: newFakeRooms(), path: filepath.Join(t.TempDir(), "futures.db")}
	b.start(testConfig())
	defer b.Stop(context.Background())
	deadline := time.Now().Add(*joins)
	tries, calls, violations := 0, atomic.Int64{}, 0
	for ; time.Now().Before(deadline) && violations == 0; tries++ {
		group := fmt.Sprint("g", tries)
		first := b.create(inGroup(message(3*time.Millisecond), group))
		var wg sync.WaitGroup
		var second atomic.Pointer[api.Future]
		ended := func() bool {
			return b.QueryFutureCounts(b.Context()) == api.Counts{}
		}
		time.Sleep(3 * time.Millisecond)
		var stop atomic.Bool
		for range 2 {
			wg.Go(func() {
				for !stop.Load() && second.Load() == nil {
					calls.Add(1)
					f, err := b.PerformFutureCreation(context.Background(), inGroup(message(time.Millisecond), group))
					if err == nil {
						second.Store(f)
					} else if !errors.Is(err, api.ErrUnknownGroup) {
						t.Error(err)
					}
				}
			})
		}
		for !ended() && second.Load() == nil {
			time.Sleep(200 * time.Microsecond)
		}
		time.Sleep(time.Millisecond)
		stop.Store(true)
		wg.Wait()
		if f := second.Load(); f != nil {
			time.Sleep(100 * time.Millisecond)
			n := 0
			for _, e := range b.rooms.all() {
				if e.nid == first.NID || e.nid == f.NID {
					n++
				}
			}
			if n > 1 {
				violations++
				t.Errorf("after %d groups and %d calls: two events of group %s", tries, calls.Load(), group)
			}
		}
	}
	t.Logf("%d groups, %d calls", tries, calls.Load())
}

// keep_per_user belongs to delayed_events, but it also made generation 0 forget transactions and closed groups.
func TestKeepPerUserLeavesGroupsAlone(t *testing.T) {
	inBubble(t, func(b *bench) {
		if err := b.Stop(b.Context()); err != nil {
			t.Fatal(err)
		}
		cfg := testConfig()
		cfg.Retention = 7 * 24 * time.Hour
		cfg.KeepPerUser = 3
		b.start(cfg)
		b.create(inGroup(message(time.Second), "named"))
		b.after(time.Minute, 1)
		for i := range 3 {
			f := message(time.Second)
			f.Policy |= api.Managed
			b.create(f)
			b.after(time.Minute, 2+i)
		}
		time.Sleep(30 * time.Minute)
		synctest.Wait()
		if _, err := b.PerformFutureCreation(b.Context(), inGroup(message(time.Second), "named")); !errors.Is(err, api.ErrUnknownGroup) {
			t.Errorf("half an hour after the group fired, with a retention of 7 days: %v", err)
		}
	})
}

// Requests that named the same group waited one after the other, each with the time limit of a whole request, and did
// not notice that their clients had hung up.
func TestNamedGroupsDoNotQueueUp(t *testing.T) {
	b := &bench{T: t, rooms: newFakeRooms(), path: t.TempDir() + "/f.db"}
	b.start(testConfig())
	defer b.Stop(context.Background()) //nolint:errcheck // the test looks at the answers
	func() {
		b.create(inGroup(message(time.Hour), "named"))
		gate := make(chan struct{})
		b.Server.mu.Lock()
		b.db = &countingDatabase{Database: b.db, fail: func(*storage.Batch) error { <-gate; return nil }}
		b.Server.mu.Unlock()
		release := func() { close(gate) }
		go b.PerformUserRemoval(b.Context(), "@alice:test") //nolint
		time.Sleep(50 * time.Millisecond)
		start := time.Now()
		took := make(chan time.Duration, 20)
		for i := range 20 {
			go func() {
				_, _ = b.PerformFutureCreation(b.Context(), inGroup(message(time.Minute), fmt.Sprint("g", i)))
				took <- time.Since(start)
			}()
		}
		var longest time.Duration
		for range 20 {
			longest = max(longest, <-took)
		}
		release()
		if longest > 2*patience {
			t.Errorf("the last of 20 requests was answered after %v; patience is %v", longest, patience)
		}
	}()
}

// The removal of an account was answered before the end of a future that was being created was on disk.
func TestARemovalIsDurableForWhatIsBeingCreated(t *testing.T) {
	inBubble(t, func(b *bench) {
		if err := b.Stop(b.Context()); err != nil {
			t.Fatal(err)
		}
		freezer := newFreezer()
		commits := 0
		b.startStepping(testConfig(), func(step string) {
			if step == "commit" {
				if commits++; commits == 3 { // the one that ends it
					freezer.arm("commit")
				}
			}
			freezer.step(step)
		})
		release := b.holdCommits()
		go b.PerformFutureCreation(b.Context(), state(time.Hour, "other")) //nolint
		synctest.Wait()
		go b.PerformFutureCreation(b.Context(), message(time.Minute)) //nolint
		synctest.Wait()
		removed := make(chan error, 1)
		go func() { removed <- b.PerformUserRemoval(b.Context(), "@alice:test") }()
		synctest.Wait()
		release()
		err := <-removed
		<-freezer.frozen
		t.Log("removal:", err)
		b.crash(freezer)
		b.start(testConfig())
		if c := b.QueryFutureCounts(b.Context()); c.Scheduled > 0 {
			t.Errorf("the removal was durable, but %d future(s) of the account are scheduled", c.Scheduled)
		}
	})
}

// closingDatabase is slow to close.
type closingDatabase struct {
	storage.Database
	closed atomic.Bool
}

func (d *closingDatabase) Close() error {
	time.Sleep(time.Second)
	d.closed.Store(true)
	return d.Database.Close()
}

// A caller of Stop may open the database afterwards, even if somebody else called Stop before.
func TestTheSecondStopWaits(t *testing.T) {
	inBubble(t, func(b *bench) {
		db := &closingDatabase{Database: b.db}
		b.locked(func() { b.Server.db = db })()
		var stops sync.WaitGroup
		for range 2 {
			stops.Go(func() {
				if err := b.Stop(b.Context()); err != nil || !db.closed.Load() {
					t.Errorf("Stop returned, the database is closed: %v, %v", db.closed.Load(), err)
				}
			})
		}
		stops.Wait()
		b.start(testConfig())
	})
}
