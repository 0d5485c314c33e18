package internal

import (
	"context"
	"errors"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
)

// bench is a running server with working rooms, in virtual time.
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

// inBubble runs f against a server with a new database. Time passes only when everybody waits for it.
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
	b.startStepping(cfg, nil)
}

// startStepping starts a server that reports its steps.
func (b *bench) startStepping(cfg Config, step func(string)) {
	b.Helper()
	b.startWith(cfg, Hooks{Step: step})
}

func (b *bench) startWith(cfg Config, hooks Hooks) {
	b.Helper()
	db, err := openTestDatabase(b.path)
	if err != nil {
		b.Fatal(err)
	}
	if b.Server, err = New(b.Context(), cfg, db, b.rooms, NewMetrics(nil), hooks); err != nil {
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

// after lets time pass and checks how many events the rooms have.
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

func TestGroups(t *testing.T) {
	inBubble(t, func(b *bench) {
		first := b.create(message(time.Minute))
		second := b.create(inGroup(message(2*time.Minute), first.GroupID))
		action := b.create(inGroup(message(0), first.GroupID))
		b.use(first, api.CancelToken, nil) // 4.5: ends one future, not the group
		b.after(time.Minute, 0)
		b.use(second, api.RefreshToken, nil)
		b.use(second, api.CancelToken, nil) // the last timeout future ends the group
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

// A group remembers that it has ended for as long as its futures are remembered, also over restarts.
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
		if n := b.ledger.Tokens(); n != 0 {
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
		if left := time.Until(time.UnixMilli(list[0].Deadline)); left != time.Minute {
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
