package internal

import (
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
	"github.com/matrix-org/dendrite/futures/futureserver/storage"
)

// Newer state.

// Invariant 6: the user's own earlier state does not end the future, however late the consumer learns of it. Invariant
// 5: newer state does, at once or, if the server is not told, when the future is due.
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
		b.rooms.setState("!a:test", "k") // the server is not told
		b.start(testConfig())
		synctest.Wait()
		b.use(pending, api.RefreshToken, api.ErrGone)
	})
}

// If a piece of state collides with a future's 8-bit filter, the room is not asked.
func TestStateWithTheSameFilter(t *testing.T) {
	filter := func(key string) uint8 { return uint8(storage.KeyHash("m.test", key) >> 24) }
	n := 0
	for filter(strconv.Itoa(n)) != filter("k") {
		n++
	}
	inBubble(t, func(b *bench) {
		f := b.create(state(time.Minute, "k"))
		b.rooms.setMode(down)
		if err := b.PerformStateChange(b.Context(), "!a:test", []api.StateKeyTuple{{Type: "m.test", StateKey: strconv.Itoa(n)}}); err != nil {
			b.Error(err)
		}
		b.rooms.setMode(working)
		b.use(f, api.RefreshToken, nil)
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
