package roomserver

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestGateIsFair: one visitor at a time, in order of arrival, and other rooms are not affected.
func TestGateIsFair(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g Gates
		var order []int
		leave := g.Enter(t.Context(), "!a", "")
		for i := range 5 {
			go func() {
				leave := g.Enter(t.Context(), "!a", "")
				order = append(order, i) // the gate is the lock
				time.Sleep(time.Second / 10)
				leave()
			}()
			synctest.Wait()
		}
		g.Enter(t.Context(), "!b", "")() // does not wait
		synctest.Wait()
		if len(order) > 0 {
			t.Error("two are inside")
		}
		leave()
		time.Sleep(time.Second)
		synctest.Wait()
		if !slices.Equal(order, []int{0, 1, 2, 3, 4}) {
			t.Errorf("they came in as %v", order)
		}
		if len(g.rooms) != 0 {
			t.Errorf("%d gates are left", len(g.rooms))
		}
	})
}

// TestGatePatience: a visitor that cannot get in goes ahead after its time limit, and leaves nothing behind.
func TestGatePatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g Gates
		keep := g.Enter(t.Context(), "!a", "")
		time.Sleep(time.Second)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		g.Enter(ctx, "!a", "")()
		if took := time.Since(start); took != time.Second {
			t.Errorf("a caller who waits a second came after %s", took)
		}
		// Nobody is waited for longer than the limit.
		leave := g.Enter(t.Context(), "!a", "")
		if took := time.Since(start); took != gateLimit-time.Second {
			t.Errorf("the next one came after %s", took)
		}
		keep() // must not let a third one in
		third := make(chan time.Time, 1)
		begun := time.Now()
		go func() {
			g.Enter(t.Context(), "!a", "")()
			third <- time.Now()
		}()
		time.Sleep(time.Second)
		leave()
		if took := (<-third).Sub(begun); took != time.Second {
			t.Errorf("the third one came after %s", took)
		}
		leave()
		if len(g.rooms) != 0 {
			t.Errorf("%d gates are left", len(g.rooms))
		}
	})
}

// TestGateOfASlowRoom: every visitor to a blocked room goes ahead after gatePatience at most.
func TestGateOfASlowRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g Gates
		var all sync.WaitGroup
		for range 2 * mostWaiting {
			all.Go(func() {
				start := time.Now()
				leave := g.Enter(t.Context(), "!a", "")
				if took := time.Since(start); took > gatePatience {
					t.Errorf("waited for %s", took)
				}
				time.Sleep(time.Minute)
				leave()
			})
		}
		synctest.Wait()
		g.mu.Lock()
		if n := g.rooms["!a"].waiting.Len(); n != mostWaiting {
			t.Errorf("%d are waiting", n)
		}
		g.mu.Unlock()
		all.Wait()
		if len(g.rooms) != 0 {
			t.Errorf("%d gates are left", len(g.rooms))
		}
	})
}

// TestGateYield: a visitor that waits for another server does not keep others waiting, and nobody else must leave.
func TestGateYield(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g Gates
		leave := g.Enter(t.Context(), "!a", "@a:x")
		start := time.Now()
		time.AfterFunc(time.Second, func() { g.Yield("!a", "@b:x"); g.Yield("!b", "@a:x") })
		time.AfterFunc(2*time.Second, func() { g.Yield("!a", "@a:x") })
		next := g.Enter(t.Context(), "!a", "@b:x")
		if took := time.Since(start); took != 2*time.Second {
			t.Errorf("the next one came after %s", took)
		}
		leave()
		g.mu.Lock()
		if at := g.rooms["!a"]; at == nil || at.inside.user != "@b:x" {
			t.Error("who had yielded put another one out")
		}
		g.mu.Unlock()
		next()
	})
}

// TestGateRace: visitors arrive and give up at any moment. No two are ever inside together, and no gate is left over.
func TestGateRace(t *testing.T) {
	var g Gates
	var all sync.WaitGroup
	var inside [4]atomic.Int32
	for i := range 16 {
		all.Go(func() {
			for n := range 500 {
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(n%7)*20*time.Microsecond)
				room := (i + n) % len(inside)
				leave := g.Enter(ctx, fmt.Sprint(room), "")
				if ctx.Err() == nil { // it is really inside
					if inside[room].Add(1) > 1 {
						t.Error("two are inside")
					}
					inside[room].Add(-1)
				}
				leave()
				cancel()
			}
		})
	}
	all.Wait()
	if len(g.rooms) != 0 {
		t.Errorf("%d gates are left", len(g.rooms))
	}
}
