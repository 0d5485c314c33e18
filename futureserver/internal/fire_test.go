package internal

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
	"github.com/matrix-org/dendrite/futures/futureserver/storage"
)

// From the deadline, or a send token, into the room, and what can go wrong on the way.

// Invariant 1, and 5.4: two send tokens at the same time get one 200 and one 410.
func TestTwoSendTokensAtOnce(t *testing.T) {
	inBubble(t, func(b *bench) {
		for round := range 50 {
			timeout := b.create(inGroup(message(time.Hour), fmt.Sprint(round)))
			action := inGroup(message(0), fmt.Sprint(round))
			action.RoomID = "!other:test" // 5.17
			action = b.create(action)
			var wg sync.WaitGroup
			results := make([]error, 4)
			for i := range results {
				f := []*api.Future{timeout, action}[i%2]
				wg.Go(func() { results[i] = b.PerformTokenAction(b.Context(), f.Token(api.SendToken)) })
			}
			wg.Wait()
			sent := 0
			for _, err := range results {
				if err == nil {
					sent++
				} else if !errors.Is(err, api.ErrGone) {
					b.Fatal(err)
				}
			}
			if sent != 1 || len(b.rooms.all()) != round+1 {
				b.Fatalf("round %d: %d tokens worked, %d events", round, sent, len(b.rooms.all()))
			}
		}
	})
}

// Futures that became due while the server was down are sent at once, in order (generation 0, 5.11).
func TestOverdueInOrder(t *testing.T) {
	inBubble(t, func(b *bench) {
		const n = 300 // more than the wheel returns at a time
		cfg := testConfig()
		cfg.Futures.MaxPerUser, cfg.RoomsInFlight = n, 1
		if err := b.Stop(b.Context()); err != nil {
			b.Fatal(err)
		}
		b.start(cfg)
		for i := range n {
			f := message(time.Duration(n-i) * time.Minute)
			f.RoomID = fmt.Sprintf("!%d:test", i%7)
			b.create(f)
		}
		b.die()
		time.Sleep(n * time.Minute)
		b.start(cfg)
		b.after(time.Minute, n)
		for i, e := range b.rooms.all() {
			if want := api.NID(n - i); e.nid != want {
				b.Fatalf("%d was sent in place %d, where %d belongs", e.nid, i, want)
			}
		}
	})
}

// A storm begins when a room must wait for other rooms, and ends when no room waits.
func TestStormsAreTold(t *testing.T) {
	inBubble(t, func(b *bench) {
		var told []bool
		b.locked(func() {
			b.hooks.Storm = func(begins bool) {
				b.isStorm() // the lock is free: otherwise a slow hook would stop every heartbeat
				told = append(told, begins)
			}
		})()
		most, sent := testConfig().RoomsInFlight, 0
		for _, c := range []struct {
			rooms int
			told  []bool
		}{{most, nil}, {most + 3, []bool{true, false}}} {
			for i := range c.rooms {
				f := message(time.Second)
				f.RoomID = fmt.Sprintf("!%d:test", i)
				b.create(f)
			}
			sent += c.rooms
			b.after(2*time.Second, sent)
			if !slices.Equal(told, c.told) {
				b.Errorf("with %d rooms: %v instead of %v", c.rooms, told, c.told)
			}
		}
	})
}

// A refresh that comes when the future is due but not claimed wins.
func TestRefreshBeforeTheClaimWins(t *testing.T) {
	inBubble(t, func(b *bench) {
		f := b.create(message(10 * time.Second))
		b.use(f, api.RefreshToken, nil)
		b.rooms.setMode(down)
		b.after(15*time.Second, 0)
		b.use(f, api.RefreshToken, nil)
		b.rooms.setMode(working)
		b.after(9*time.Second, 0)
		b.after(time.Second, 1)
	})
}

// An event's origin_server_ts is not before its deadline, even if the future was refreshed while the event was being
// built and is due again when it is claimed.
func TestRefreshWhileItIsBuilt(t *testing.T) {
	inBubble(t, func(b *bench) {
		due := make(chan *api.Future, 1)
		b.die()
		b.startStepping(testConfig(), func(step string) {
			if step == "built" && len(due) > 0 {
				b.use(<-due, api.RefreshToken, nil)
				time.Sleep(3 * time.Second)
			}
		})
		began := time.Now()
		due <- b.create(message(time.Second))
		b.after(5*time.Second, 1)
		if e := b.rooms.all()[0]; e.built.Before(began.Add(2 * time.Second)) {
			b.Errorf("refreshed after a second, due after two, and dated %v after its creation", e.built.Sub(began))
		}
	})
}

func TestRefusals(t *testing.T) {
	inBubble(t, func(b *bench) {
		f := b.create(message(time.Minute))
		action := b.create(inGroup(message(0), f.GroupID))
		b.rooms.setMode(refusing)
		for _, x := range []*api.Future{f, action} { // 4.11: the future and its group stay unchanged
			err := b.PerformTokenAction(b.Context(), x.Token(api.SendToken))
			if r, ok := errors.AsType[*api.Refusal](err); !ok || r.Kind != api.Forbidden {
				b.Fatal(err)
			}
		}
		b.use(f, api.RefreshToken, nil)
		b.after(time.Minute, 0) // 5.2: the timer ends the group
		b.use(action, api.SendToken, api.ErrGone)
		b.rooms.setMode(working)
		b.after(time.Hour, 0)
		stored, err := b.db.Load(b.Context(), f.NID)
		if err != nil || stored == nil || stored.State != api.Failed || stored.Failure == nil || stored.Failure.Kind != api.Forbidden {
			b.Errorf("%+v, %v", stored, err)
		}
	})
}

// One event in flight in a room, a few rooms at a time, in order of the deadlines.
func TestStorm(t *testing.T) {
	inBubble(t, func(b *bench) {
		for i := range 20 {
			f := message(time.Duration(2000-i) * time.Millisecond)
			f.RoomID = fmt.Sprintf("!%d:test", i/7)
			b.create(f)
		}
		b.rooms.setMode(slow)
		time.Sleep(time.Hour)
		synctest.Wait()
		last := map[string]api.NID{}
		if len(b.rooms.all()) != 20 {
			b.Fatalf("%d events", len(b.rooms.all()))
		}
		for _, e := range b.rooms.all() {
			if before, ok := last[e.room]; ok && e.nid > before {
				b.Errorf("%s: %d was sent after %d, which was due later", e.room, e.nid, before)
			}
			last[e.room] = e.nid
		}
		if b.rooms.most > 2 || b.rooms.mostInRoom > 1 {
			b.Errorf("%d in flight at once, %d in one room", b.rooms.most, b.rooms.mostInRoom)
		}
	})
}

// Invariant 7: every token is spent with the claim, long before the room has confirmed the event.
func TestTokensAreSpentByTheClaim(t *testing.T) {
	inBubble(t, func(b *bench) {
		f := b.create(message(time.Second))
		action := b.create(inGroup(message(0), f.GroupID))
		b.rooms.setUnclear(f.NID)
		b.after(2*time.Second, 0)
		for k := range api.GroupToken {
			b.use(f, k, api.ErrGone)
			b.use(action, k, api.ErrGone)
		}
		b.rooms.setUnclear(0)
		b.after(time.Minute, 1)
		if n := b.ledger.Tokens(); n != 0 {
			b.Errorf("%d tokens are left", n)
		}
	})
}

// A row that the database refuses affects no other row, and every decision is written in the end.
func TestDatabaseTrouble(t *testing.T) {
	inBubble(t, func(b *bench) {
		var broken atomic.Bool
		b.db = &countingDatabase{Database: b.db, fail: func(batch *storage.Batch) error {
			for _, f := range batch.Inserts {
				if f.Type == "poison" {
					return errors.New("poison")
				}
			}
			if broken.Load() {
				return errors.New("broken")
			}
			return nil
		}}
		kept := b.create(message(time.Hour))
		var wg sync.WaitGroup
		for i := range 10 {
			wg.Go(func() {
				f := message(time.Hour)
				if i == 5 {
					f.Type = "poison"
				}
				if _, err := b.PerformFutureCreation(b.Context(), f); (err != nil) != (i == 5) {
					b.Errorf("%d: %v", i, err)
				}
			})
		}
		wg.Wait()
		if n := b.QueryFutureCounts(b.Context()).Scheduled; n != 10 {
			b.Errorf("%d futures", n)
		}
		broken.Store(true)
		if _, err := b.PerformFutureCreation(b.Context(), message(time.Hour)); err == nil {
			b.Error("stored in a broken database")
		}
		done := make(chan error)
		go func() { done <- b.PerformTokenAction(b.Context(), kept.Token(api.CancelToken)) }()
		time.Sleep(5 * time.Second)
		broken.Store(false)
		if err := <-done; err != nil {
			b.Error(err)
		}
		b.die()
		b.start(testConfig())
		if n := b.QueryFutureCounts(b.Context()).Scheduled; n != 9 {
			b.Errorf("%d futures after the restart", n)
		}
	})
}

// A server that loses its database to another server must not touch it again.
func TestLosesItsDatabase(t *testing.T) {
	inBubble(t, func(b *bench) {
		var lost atomic.Bool
		b.db = &countingDatabase{Database: b.db, fail: func(*storage.Batch) error {
			if lost.Load() {
				return fmt.Errorf("no: %w", storage.ErrLockLost)
			}
			return nil
		}}
		f := b.create(message(time.Second))
		lost.Store(true)
		time.Sleep(time.Minute)
		<-b.Done()
		if err := b.Err(); !errors.Is(err, storage.ErrLockLost) {
			b.Error(err)
		}
		if len(b.rooms.all()) != 0 {
			b.Error("it has sent an event that may be another's")
		}
		b.use(f, api.CancelToken, api.ErrStopping)
	})
}

// The server stops while something is in flight, and accepts nothing more.
func TestStop(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.rooms.setMode(slow)
		b.create(message(time.Second))
		f := b.create(message(time.Hour))
		time.Sleep(1100 * time.Millisecond)
		if err := b.Stop(b.Context()); err != nil {
			b.Fatal(err)
		}
		if len(b.rooms.all()) != 1 {
			b.Error("the event in flight was not waited for")
		}
		b.use(f, api.RefreshToken, api.ErrStopping)
		if _, err := b.PerformFutureCreation(b.Context(), message(time.Second)); !errors.Is(err, api.ErrStopping) {
			b.Error(err)
		}
		b.start(testConfig())
		b.use(f, api.RefreshToken, nil)
	})
}

// An event that fails again and again does not block its room for ever.
func TestStuckEventStepsAside(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.create(message(time.Second))
		b.rooms.setMode(softFailing)
		b.rooms.setUnclear(1)
		time.Sleep(5 * time.Second)
		b.rooms.setMode(working)
		b.create(message(time.Second))
		b.after(5*time.Minute, 1)
		b.rooms.setUnclear(0)
		b.after(time.Minute, 2)
	})
}

// A room that strands an event or loses the answer has the event once in the end, and no other room waits.
func TestStrandedEvent(t *testing.T) {
	for _, mode := range []roomMode{stranding, deaf, down} {
		t.Run(fmt.Sprint(mode), func(t *testing.T) {
			inBubble(t, func(b *bench) {
				b.create(message(time.Second))
				b.rooms.setMode(mode)
				time.Sleep(5 * time.Second)
				b.rooms.setMode(working)
				b.after(time.Minute, 1)
				if n := b.QueryFutureCounts(b.Context()); n != (api.Counts{}) {
					b.Errorf("%+v", n)
				}
			})
		})
	}
}

// stuckRooms never answer about one of the futures.
type stuckRooms struct {
	*fakeRooms
	stuck string
}

func (r *stuckRooms) Submit(ctx context.Context, fs []*api.Future) error {
	if fs[0].RoomID == r.stuck {
		<-ctx.Done()
		return ctx.Err()
	}
	return r.fakeRooms.Submit(ctx, fs)
}

func (r *stuckRooms) Verdict(ctx context.Context, fs []*api.Future) ([]api.Verdict, error) {
	if fs[0].RoomID == r.stuck {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return r.fakeRooms.Verdict(ctx, fs)
}

// A room that does not answer delays the others for a moment only, even if one room at a time is in flight.
func TestOneRoomIsStuck(t *testing.T) {
	inBubble(t, func(b *bench) {
		if err := b.Stop(b.Context()); err != nil {
			b.Fatal(err)
		}
		cfg := testConfig()
		cfg.RoomsInFlight = 1
		b.start(cfg)
		b.room = &stuckRooms{b.rooms, "!stuck:test"}
		stuck := message(time.Second)
		stuck.RoomID = "!stuck:test"
		b.create(stuck)
		time.Sleep(time.Second)
		const others = 50
		for i := range others {
			f := message(time.Second)
			f.RoomID = fmt.Sprintf("!other%d:test", i)
			b.create(f)
		}
		b.after(4*time.Second, others)
	})
}
