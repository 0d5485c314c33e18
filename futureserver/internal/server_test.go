package internal

import (
	"context"
	"errors"
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

// bench is a running server with rooms that work, in virtual time.
type bench struct {
	*testing.T
	*Server
	rooms *fakeRooms
	path  string
}

func testConfig() Config {
	return Config{
		Futures: Limits{MaxTimeout: 24 * time.Hour, MaxPerUser: 100},
		Delayed: Limits{MaxTimeout: 48 * time.Hour, MaxPerUser: 50},
		Slack:   slack, RoomsInFlight: 2, Retention: time.Hour,
	}
}

// inBubble runs f against a server on a fresh database; time passes only when everybody waits for it.
func inBubble(t *testing.T, f func(b *bench)) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "futures.db")
	synctest.Test(t, func(t *testing.T) {
		b := &bench{T: t, rooms: newFakeRooms(), path: path}
		b.start(testConfig())
		defer func() {
			if err := b.Stop(context.Background()); err != nil {
				t.Error(err)
			}
		}()
		f(b)
	})
}

func (b *bench) start(cfg Config) {
	b.Helper()
	db, err := openTestDatabase(b.path)
	if err != nil {
		b.Fatal(err)
	}
	if b.Server, err = New(b.Context(), cfg, db, b.rooms, NewMetrics(nil), nil); err != nil {
		b.Fatal(err)
	}
}

// die ends the server as SIGKILL would.
func (b *bench) die() { b.crash(newFreezer()) }

func message(timeout time.Duration) *api.Future {
	return &api.Future{UserID: "@alice:test", RoomID: "!a:test", Type: "m.room.message", Content: []byte(`{}`),
		Timeout: timeout, Policy: api.CancelOnNewerState}
}

func state(timeout time.Duration, key string) *api.Future {
	f := message(timeout)
	f.Type, f.StateKey = "m.test", &key
	return f
}

func inGroup(f *api.Future, group string) *api.Future {
	f.GroupID = group
	return f
}

func (b *bench) create(f *api.Future) *api.Future {
	b.Helper()
	made, err := b.PerformFutureCreation(b.Context(), f)
	if err != nil {
		b.Fatal(err)
	}
	return made
}

func (b *bench) use(f *api.Future, k api.TokenKind, want error) {
	b.Helper()
	if err := b.PerformTokenAction(b.Context(), f.Token(k)); !errors.Is(err, want) {
		b.Fatalf("token of kind %d: %v, want %v", k, err, want)
	}
}

// after lets time pass and says how many events the rooms have.
func (b *bench) after(d time.Duration, want int) {
	b.Helper()
	time.Sleep(d)
	synctest.Wait()
	if got := len(b.rooms.all()); got != want {
		b.Fatalf("%d events after %v, want %d", got, d, want)
	}
}

func (r *fakeRooms) all() []fakeEvent {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.events
}

func TestFiresExactlyAtItsDeadline(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.create(message(500 * time.Millisecond))
		b.after(499*time.Millisecond, 0)
		b.after(time.Millisecond, 1)
	})
}

func TestRefreshPushesTheDeadlineBack(t *testing.T) {
	inBubble(t, func(b *bench) {
		f := b.create(message(10 * time.Second))
		for range 20 {
			b.after(6*time.Second, 0)
			b.use(f, api.RefreshToken, nil)
		}
		b.after(9999*time.Millisecond, 0)
		b.after(time.Millisecond, 1)
		b.use(f, api.RefreshToken, api.ErrGone)
	})
}

// Invariant 1, and 5.4: two send tokens at once are one 200 and one 410.
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

func TestGroups(t *testing.T) {
	inBubble(t, func(b *bench) {
		first := b.create(message(time.Minute))
		second := b.create(inGroup(message(2*time.Minute), first.GroupID))
		action := b.create(inGroup(message(0), first.GroupID))
		b.use(first, api.CancelToken, nil) // 4.5: one future, not the group
		b.after(time.Minute, 0)
		b.use(second, api.RefreshToken, nil)
		b.use(second, api.CancelToken, nil) // the last timeout future takes the group with it
		b.use(action, api.SendToken, api.ErrGone)
		b.after(time.Hour, 0)

		for _, f := range []*api.Future{inGroup(message(0), first.GroupID), inGroup(message(time.Second), first.GroupID), message(0)} {
			if _, err := b.PerformFutureCreation(b.Context(), f); !errors.Is(err, api.ErrUnknownGroup) {
				b.Errorf("a group that is over took a member: %v", err)
			}
		}
		stranger := inGroup(message(0), "x")
		b.create(inGroup(message(time.Hour), "x"))
		stranger.UserID = "@bob:test"
		if _, err := b.PerformFutureCreation(b.Context(), stranger); !errors.Is(err, api.ErrUnknownGroup) {
			b.Errorf("a group of another user took a member: %v", err) // 3.5
		}
	})
}

// A group remembers that it is over as long as its futures are remembered, over restarts too.
func TestAGroupThatHasFiredStaysClosed(t *testing.T) {
	inBubble(t, func(b *bench) {
		f := b.create(message(time.Second))
		b.create(inGroup(message(time.Second), "named"))
		b.after(2*time.Second, 2)
		b.die()
		b.start(testConfig())
		for _, g := range []string{f.GroupID, "named"} {
			if _, err := b.PerformFutureCreation(b.Context(), inGroup(message(time.Second), g)); !errors.Is(err, api.ErrUnknownGroup) {
				b.Errorf("%s: %v", g, err)
			}
		}
	})
}

// Invariant 4, and the arithmetic of the stored deadline (design, section 6).
func TestDeadlinesAfterACrash(t *testing.T) {
	for name, c := range map[string]struct {
		timeout, refreshAt, crashAt, downtime time.Duration
		earliest, latest                      time.Duration // from the creation
	}{
		"never refreshed: exact":               {10 * time.Second, 0, 4 * time.Second, 3 * time.Second, 10 * time.Second, 10 * time.Second},
		"never refreshed, overdue: at once":    {10 * time.Second, 0, 4 * time.Second, time.Minute, 64 * time.Second, 64 * time.Second},
		"refreshed: late by at most T + down":  {8 * time.Second, 5 * time.Second, 6 * time.Second, time.Second, 13 * time.Second, 15 * time.Second},
		"refreshed a moment before":            {8 * time.Second, 5 * time.Second, 5 * time.Second, 4 * time.Second, 13 * time.Second, 17 * time.Second},
		"refreshed: late by at most the slack": {time.Hour, time.Minute, 2 * time.Minute, time.Minute, 61 * time.Minute, 61*time.Minute + slack},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(b *bench) {
				start := time.Now()
				f := b.create(message(c.timeout))
				if c.refreshAt > 0 {
					time.Sleep(c.refreshAt)
					b.use(f, api.RefreshToken, nil)
				}
				time.Sleep(c.crashAt - time.Since(start))
				b.die()
				time.Sleep(c.downtime)
				b.start(testConfig())
				time.Sleep(c.latest - time.Since(start))
				synctest.Wait()
				events := b.rooms.all()
				if len(events) != 1 {
					b.Fatalf("%d events", len(events))
				}
				if at := events[0].at.Sub(start); at < c.earliest || at > c.latest {
					b.Errorf("fired at %v, want %v to %v", at, c.earliest, c.latest)
				}
			})
		})
	}
}

// What became due while the server was down goes out at once, in order (generation 0, 5.11).
func TestOverdueInOrder(t *testing.T) {
	inBubble(t, func(b *bench) {
		const n = 300 // more than the wheel hands out at once
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

// A crash loop cannot keep a future alive.
func TestCrashLoop(t *testing.T) {
	inBubble(t, func(b *bench) {
		f := b.create(message(8 * time.Second))
		time.Sleep(4 * time.Second)
		b.use(f, api.RefreshToken, nil)
		for range 30 {
			time.Sleep(3 * time.Second)
			b.die()
			b.start(testConfig())
		}
		b.after(0, 1)
	})
}

func TestCleanRestartIsExact(t *testing.T) {
	inBubble(t, func(b *bench) {
		f := b.create(message(time.Minute))
		time.Sleep(30 * time.Second)
		b.use(f, api.RefreshToken, nil)
		if err := b.Stop(b.Context()); err != nil {
			b.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		b.start(testConfig())
		b.after(49_999*time.Millisecond, 0)
		b.after(time.Millisecond, 1)
	})
}

// The price of a heartbeat: one row for several refreshes.
func TestHeartbeatsAreRarelyWritten(t *testing.T) {
	inBubble(t, func(b *bench) {
		counted := &countingDatabase{Database: b.db}
		b.db = counted
		f := b.create(message(8 * time.Second))
		const beats = 200
		for range beats {
			time.Sleep(5 * time.Second)
			b.use(f, api.RefreshToken, nil)
		}
		if n := counted.extends.Load(); n > beats/5+1 {
			b.Errorf("%d rows written for %d refreshes", n, beats)
		}
		b.after(8*time.Second, 1)
	})
}

type countingDatabase struct {
	storage.Database
	extends atomic.Int64 // rows
	commits atomic.Int64
	fail    func(*storage.Batch) error
}

func (d *countingDatabase) Commit(ctx context.Context, b *storage.Batch) (storage.Result, error) {
	if d.fail != nil {
		if err := d.fail(b); err != nil {
			return storage.Result{}, err
		}
	}
	d.extends.Add(int64(len(b.Extends)))
	d.commits.Add(1)
	return d.Database.Commit(ctx, b)
}

// Invariant 6: the user's own earlier state does not kill the future, however late the consumer hears of it.
// Invariant 5: newer state does, at once or, if nobody tells us, when the future is due.
func TestNewerState(t *testing.T) {
	tuple := []api.StateKeyTuple{{Type: "m.test", StateKey: "k"}}
	inBubble(t, func(b *bench) {
		b.rooms.setState("!a:test", "k")
		f := b.create(state(time.Minute, "k"))
		if err := b.PerformStateChange(b.Context(), "!a:test", tuple); err != nil {
			b.Fatal(err)
		}
		b.use(f, api.RefreshToken, nil)
		b.rooms.setState("!a:test", "k")
		other := []api.StateKeyTuple{{Type: "m.test", StateKey: "other"}, {Type: "m.other", StateKey: "k"}}
		if err := b.PerformStateChange(b.Context(), "!a:test", other); err != nil {
			b.Fatal(err)
		}
		b.use(f, api.RefreshToken, nil)
		if err := b.PerformStateChange(b.Context(), "!a:test", tuple); err != nil {
			b.Fatal(err)
		}
		b.use(f, api.RefreshToken, api.ErrGone)

		unheard := b.create(state(time.Minute, "k"))
		msg := b.create(message(2 * time.Minute))
		b.rooms.setState("!a:test", "k")
		b.after(time.Minute, 0)
		b.use(unheard, api.CancelToken, api.ErrGone)
		b.use(msg, api.RefreshToken, nil)

		pending := b.create(state(time.Hour, "k"))
		b.die()
		b.rooms.setState("!a:test", "k") // while nobody listens
		b.start(testConfig())
		synctest.Wait()
		b.use(pending, api.RefreshToken, api.ErrGone)
	})
}

// State that changes while the future is being stored is not missed.
func TestNewerStateDuringCreation(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.db = &countingDatabase{Database: b.db, fail: func(batch *storage.Batch) error {
			if len(batch.Inserts) == 1 {
				b.rooms.setState("!a:test", "k")
				return b.PerformStateChange(b.Context(), "!a:test", []api.StateKeyTuple{{Type: "m.test", StateKey: "k"}})
			}
			return nil
		}}
		f := b.create(state(time.Minute, "k"))
		b.use(f, api.RefreshToken, api.ErrGone)
	})
}

// A state future that fires is newer state itself (5.7).
func TestFiredStateClosesOthersOfItsKey(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.create(state(time.Second, "k"))
		f := b.create(state(time.Minute, "k"))
		b.after(time.Second, 1)
		if err := b.PerformStateChange(b.Context(), "!a:test", nil); err != nil {
			b.Fatal(err)
		}
		b.use(f, api.SendToken, api.ErrGone)
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

func TestRefusals(t *testing.T) {
	inBubble(t, func(b *bench) {
		f := b.create(message(time.Minute))
		action := b.create(inGroup(message(0), f.GroupID))
		b.rooms.setMode(refusing)
		for _, x := range []*api.Future{f, action} { // 4.11: the future and its group stay as they were
			err := b.PerformTokenAction(b.Context(), x.Token(api.SendToken))
			if r, ok := errors.AsType[*api.Refusal](err); !ok || r.Kind != api.Forbidden {
				b.Fatal(err)
			}
		}
		b.use(f, api.RefreshToken, nil)
		b.after(time.Minute, 0) // 5.2: the timer consumes the group
		b.use(action, api.SendToken, api.ErrGone)
		b.rooms.setMode(working)
		b.after(time.Hour, 0)
		stored, err := b.db.Load(b.Context(), f.NID)
		if err != nil || stored == nil || stored.State != api.Failed || stored.Failure == nil || stored.Failure.Kind != api.Forbidden {
			b.Errorf("%+v, %v", stored, err)
		}
	})
}

func TestLimit(t *testing.T) {
	inBubble(t, func(b *bench) {
		for i := range testConfig().Futures.MaxPerUser {
			b.create(message(time.Duration(i+1) * time.Minute))
		}
		_, err := b.PerformFutureCreation(b.Context(), message(time.Minute))
		if e, ok := errors.AsType[*api.LimitError](err); !ok || e.RetryAfter != time.Minute {
			b.Fatal(err)
		}
		other := message(time.Minute)
		other.UserID = "@bob:test"
		b.create(other)
		time.Sleep(time.Minute)
		synctest.Wait()
		b.create(message(time.Minute))
		if _, err := b.PerformFutureCreation(b.Context(), message(25*time.Hour)); err == nil {
			b.Error("a timeout over the maximum was accepted")
		}
	})
}

// A repeated transaction has its first answer: at once, later, at the limit, and after the end.
func TestTransactions(t *testing.T) {
	inBubble(t, func(b *bench) {
		request := func() *api.Future {
			f := message(time.Minute)
			f.TxnKey = []byte("transaction")
			return f
		}
		var wg sync.WaitGroup
		answers := make([]*api.Future, 5)
		for i := range answers {
			wg.Go(func() { answers[i] = b.create(request()) })
		}
		wg.Wait()
		for range testConfig().Futures.MaxPerUser - 1 {
			b.create(message(time.Hour))
		}
		answers = append(answers, b.create(request()))
		b.after(time.Minute, 1)
		answers = append(answers, b.create(request()))
		b.die()
		b.start(testConfig())
		answers = append(answers, b.create(request()))
		for i, a := range answers {
			if a.Secret != answers[0].Secret || a.GroupID != answers[0].GroupID {
				b.Errorf("answer %d is another future", i)
			}
		}
		b.after(2*time.Minute, 1)
	})
}

// One in flight in a room, a few rooms at a time, in order of the deadlines.
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

// Invariant 7: from the claim on every token is spent, long before the room has proved the event.
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
		if n := b.table.tokens.len(); n != 0 {
			b.Errorf("%d tokens are left", n)
		}
	})
}

func TestEndOfAccountsAndRooms(t *testing.T) {
	inBubble(t, func(b *bench) {
		f := b.create(message(time.Minute))
		grouped := b.create(inGroup(message(0), f.GroupID))
		elsewhere := state(time.Minute, "k")
		elsewhere.UserID, elsewhere.RoomID = "@bob:test", "!b:test"
		elsewhere = b.create(elsewhere)
		if err := b.PerformUserRemoval(b.Context(), "@alice:test"); err != nil {
			b.Fatal(err)
		}
		b.use(f, api.SendToken, api.ErrGone)
		b.use(grouped, api.SendToken, api.ErrGone)
		b.use(elsewhere, api.RefreshToken, nil)
		if err := b.PerformRoomPurge(b.Context(), "!b:test"); err != nil {
			b.Fatal(err)
		}
		b.use(elsewhere, api.RefreshToken, api.ErrGone)
		if n := b.QueryFutureCounts(b.Context()); n != (api.Counts{}) {
			b.Errorf("%+v", n)
		}
		if n := b.table.tokens.len(); n != 0 {
			b.Errorf("%d tokens are left", n)
		}
		b.after(time.Hour, 0)
	})
}

func TestQueries(t *testing.T) {
	inBubble(t, func(b *bench) {
		late := b.create(message(time.Hour))
		action := b.create(inGroup(message(0), late.GroupID))
		soon := b.create(message(time.Minute))
		time.Sleep(30 * time.Second)
		b.use(soon, api.RefreshToken, nil)
		list, err := b.QueryFuturesByUser(b.Context(), "@alice:test")
		if err != nil || len(list) != 3 || list[0].NID != soon.NID || list[1].NID != late.NID || list[2].NID != action.NID {
			b.Fatalf("%v, %v", list, err)
		}
		if left := time.UnixMilli(list[0].Deadline).Sub(time.Now()); left != time.Minute {
			b.Errorf("the list shows %v to go", left)
		}
		if n, err := b.PerformAdminCancellation(b.Context(), api.Filter{NID: soon.NID}); n != 1 || err != nil {
			b.Fatal(n, err)
		}
		if _, err := b.PerformAdminCancellation(b.Context(), api.Filter{}); err == nil {
			b.Error("an empty filter cancelled everything")
		}
		if c := b.QueryFutureCounts(b.Context()); c != (api.Counts{Scheduled: 2, Users: 1, Rooms: 1}) {
			b.Errorf("%+v", c)
		}
	})
}

func delayed(timeout time.Duration) *api.Future {
	f := message(timeout)
	f.Policy = api.Managed
	return f
}

// refusesStrangers: a delayed event's ID is neither a token nor a group, and nothing to anybody else.
func (b *bench) refusesStrangers(f *api.Future) {
	b.Helper()
	for _, err := range []error{
		b.PerformDelayedEventAction(b.Context(), f.GroupID, "@eve:test", api.Cancel),
		b.PerformDelayedEventAction(b.Context(), "unknown", "", api.Cancel),
		b.PerformTokenAction(b.Context(), f.Token(api.GroupToken)),
	} {
		if !errors.Is(err, api.ErrGone) {
			b.Error(err)
		}
	}
	if _, err := b.PerformFutureCreation(b.Context(), inGroup(message(0), f.GroupID)); !errors.Is(err, api.ErrUnknownGroup) {
		b.Errorf("a delayed event was taken for a group: %v", err)
	}
}

// Generation 2, 5.2: what each action says at each point of a delayed event's life.
func TestDelayedEvents(t *testing.T) {
	inBubble(t, func(b *bench) {
		act := func(f *api.Future, a api.Action) api.State {
			b.Helper()
			err := b.PerformDelayedEventAction(b.Context(), f.GroupID, f.UserID, a)
			if over, ok := errors.AsType[*api.FinishedError](err); ok {
				return over.State
			}
			if err != nil {
				b.Fatal(err)
			}
			return 0
		}
		sent, cancelled, failed := b.create(delayed(time.Second)), b.create(delayed(time.Minute)), b.create(delayed(2*time.Minute))
		restarted := b.create(delayed(10 * time.Minute))
		if act(cancelled, api.Cancel) != 0 {
			b.Error("cancelling failed")
		}
		if act(restarted, api.Restart) != 0 {
			b.Error("restarting failed")
		}
		b.after(time.Second, 1)
		b.rooms.setMode(refusing)
		b.after(3*time.Minute, 1)
		b.rooms.setMode(working)
		check := func() {
			b.Helper()
			for _, a := range []api.Action{api.Send, api.Cancel, api.Restart} {
				for f, want := range map[*api.Future]api.State{sent: api.Sent, cancelled: api.Cancelled, failed: api.Failed} {
					if got := act(f, a); got != want {
						b.Errorf("action %d on a %v one: %v", a, want, got)
					}
				}
			}
		}
		check()
		b.refusesStrangers(restarted)
		found, err := b.QueryDelayedEvent(b.Context(), failed.GroupID, failed.UserID)
		if err != nil || found.Failure == nil || found.Failure.Kind != api.Forbidden || found.Deadline != failed.Deadline {
			b.Errorf("%+v, %v", found, err)
		}
		list, err := b.QueryDelayedEvents(b.Context(), api.DelayedFilter{UserID: "@alice:test"})
		if err != nil || len(list) != 1 || list[0].NID != restarted.NID {
			b.Errorf("%v, %v", list, err)
		}
		if gen0, err := b.QueryFuturesByUser(b.Context(), "@alice:test"); err != nil || len(gen0) != 0 {
			b.Errorf("the other dialect lists it: %v, %v", gen0, err)
		}
		list, err = b.QueryDelayedEvents(b.Context(), api.DelayedFilter{
			UserID: "@alice:test", States: []api.State{api.Sent, api.Cancelled, api.Failed}, Backwards: true, Limit: 2,
		})
		if err != nil || len(list) != 2 || list[0].NID != failed.NID || list[1].NID != cancelled.NID {
			b.Errorf("%v, %v", list, err)
		}
		b.die()
		b.start(testConfig())
		check()
		if act(restarted, api.Send) != 0 || act(restarted, api.Send) != api.Sent {
			b.Error("sending failed")
		}
		b.after(time.Hour, 2)
	})
}

// Generation 1, 6.3: only somebody else's newer state ends such a future.
func TestOthersState(t *testing.T) {
	inBubble(t, func(b *bench) {
		make := func() *api.Future {
			f := state(time.Minute, "k")
			f.Policy = api.Managed | api.CancelOnOthersState
			return b.create(f)
		}
		tell := func() {
			if err := b.PerformStateChange(b.Context(), "!a:test", nil); err != nil {
				b.Fatal(err)
			}
		}
		make()
		b.rooms.setStateAs("@alice:test", "!a:test", "k")
		tell()
		b.after(time.Minute, 1)
		ended := make()
		b.rooms.setStateAs("@bob:test", "!a:test", "k")
		tell()
		b.after(time.Minute, 1)
		if f, err := b.QueryDelayedEvent(b.Context(), ended.GroupID, ""); err != nil || f.State != api.Invalidated {
			b.Errorf("%+v, %v", f, err)
		}
	})
}

// A row that the database refuses takes nobody with it, and what has been decided is written in the end.
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

// A server that loses its database to another must not touch it again.
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

// When the wall clock is set, what is on disk is counted anew, and no timer moves.
func TestWallClockIsSet(t *testing.T) {
	inBubble(t, func(b *bench) {
		counted := &countingDatabase{Database: b.db}
		b.db = counted
		b.create(message(time.Hour))
		b.create(message(time.Hour))
		b.after(2*sweepEvery, 0)
		if n := counted.extends.Load(); n != 0 {
			b.Fatalf("%d deadlines were written, and nothing had happened", n)
		}
		b.mu.Lock()
		b.offset -= time.Hour.Milliseconds() // as if the clock had been an hour behind until now
		b.mu.Unlock()
		b.after(2*sweepEvery, 0)
		if n := counted.extends.Load(); n != 2 {
			b.Errorf("%d deadlines were written, want 2", n)
		}
		b.after(time.Hour, 2)
	})
}

// Finished futures are forgotten after the retention time, and only those.
func TestRetention(t *testing.T) {
	inBubble(t, func(b *bench) {
		f := b.create(message(time.Second))
		keep := b.create(message(20 * time.Hour))
		time.Sleep(50 * time.Minute)
		if x, err := b.db.Load(b.Context(), f.NID); x == nil || err != nil {
			b.Fatal("forgotten too early", err)
		}
		time.Sleep(15 * time.Minute)
		synctest.Wait()
		if x, err := b.db.Load(b.Context(), f.NID); x != nil || err != nil {
			b.Error("not forgotten", err)
		}
		b.use(keep, api.RefreshToken, nil)
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

// An event that nobody can make sense of does not hold up its room for ever.
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

// A room that strands an event or loses the answer has it once in the end, and nobody else waits for it.
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
