package main

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"github.com/matrix-org/dendrite/setup/config"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
	fconfig "github.com/matrix-org/dendrite/futures/setup/config"
)

// lateness measures how late timers fire, with a million futures pending and fifty thousand refreshes a second, minus
// how late this machine wakes a program that only sleeps. Fifty thousand events a second are more than any room server
// accepts, so the measurement ends when the event is in its room's queue. The rest of the way is measured at a rate
// that the database can sustain.
func lateness(b *bench, ctx context.Context) ([]Result, error) {
	source, n, err := b.pending(ctx, onSQLite)
	if err != nil {
		return nil, err
	}
	const refreshes = 50_000
	window := size(b, 2*time.Second, time.Second)
	how := func(to string, half float64) string {
		return fmt.Sprintf("in process, SQLite, %d pending, %d refreshes/s, to %s; p50 %.2g ms", n, refreshes, to, half)
	}
	var halves, late, asleep []float64
	for range size(b, 3, 1) {
		timers, sleeper, err := timerLateness(ctx, source, n, 50_000, refreshes, window)
		if err != nil {
			return nil, err
		}
		halves, late, asleep = append(halves, percentile(timers, 0.5)), append(late, percentile(timers, 0.99)), append(asleep, sleeper)
		if err := settle(source, n); err != nil {
			return nil, err
		}
	}
	results := []Result{difference("p99 lateness at 50,000 due/s − a bare sleeper's", how("the room's queue", median(halves)),
		median(late), median(asleep), "ms", atMost(5, 1))}
	if b.quick {
		return results, nil
	}

	events, sleeper, err := eventLateness(ctx, source, n, 1_000, refreshes, window)
	if err != nil {
		return results, err
	}
	return append(results, difference("p99 lateness at 1,000 due/s − a bare sleeper's", how("Room.Build", percentile(events, 0.5)),
		percentile(events, 0.99), sleeper, "ms", Bound{})), nil
}

// schedule creates n futures that become due one after another at that rate, each in a room of its own, and waits until
// shortly before the first is due. It returns their deadlines in order.
func (c *core) schedule(ctx context.Context, n int, rate float64) ([]time.Time, error) {
	deadlines := make([]time.Time, n)
	begin := time.Now().Add(time.Second + time.Duration(n)*75*time.Microsecond) // when all have been created
	err := each(ctx, 1024, n, func(ctx context.Context, i int) error {
		at := begin.Add(time.Duration(float64(i) / rate * float64(time.Second)))
		f, err := c.PerformFutureCreation(ctx, &api.Future{
			UserID: dueUser(i), RoomID: fmt.Sprintf("!due%d:example.com", i),
			Type: "m.room.message", Content: content, Timeout: time.Until(at),
		})
		if err == nil {
			deadlines[i] = time.UnixMilli(f.Deadline)
		}
		return err
	})
	if err == nil && time.Now().After(begin) {
		err = fmt.Errorf("scheduling %d futures took too long", n)
	}
	if err != nil {
		return nil, err
	}
	slices.SortFunc(deadlines, time.Time.Compare)
	return deadlines, pause(ctx, time.Until(begin)-lead)
}

// lead is how long before the first deadline everything else begins, because a process and thousands of goroutines must
// start.
const lead = 200 * time.Millisecond

const dueUsers = 100

func dueUser(i int) string { return fmt.Sprintf("@due%d:example.com", i%dueUsers) }

// timerLateness returns how late each timer fired, in ms, sorted, and the p99 of a sleeping process. The rooms in
// flight are blocked meanwhile, so that the others queue up and can be counted.
func timerLateness(ctx context.Context, source config.DataSource, pending int, rate, refreshes float64, window time.Duration) ([]float64, float64, error) {
	held := make(chan struct{})
	var inFlight atomic.Int64
	room := easyRoom{build: func(*api.Future) { inFlight.Add(1); <-held }}
	c, err := openCore(ctx, source, room, func(cfg *fconfig.FutureServer) { cfg.RoomsInFlight = 1 })
	if err != nil {
		return nil, 0, err
	}
	defer c.stop()
	release := sync.OnceFunc(func() { close(held) })
	defer release()
	// As many goroutines at a time as in the server (setup.KeepListening), plus the one that watches.
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(runtime.NumCPU() + 2))
	if err := c.warm(ctx, pending); err != nil {
		return nil, 0, err
	}
	refresh := refresher(ctx, c, pending)
	deadlines, err := c.schedule(ctx, int(rate*window.Seconds()), rate)
	if err != nil {
		return nil, 0, err
	}
	var late []float64
	var watching sync.WaitGroup
	var watchErr error
	watching.Go(func() { late, watchErr = c.watchQueue(deadlines, &inFlight) })
	asleep, err := beside(func() error { return paced(ctx, refreshes, lead+window, refresh) })
	watching.Wait()
	if err != nil || watchErr != nil {
		return nil, 0, errors.Join(err, watchErr)
	}
	for i := range dueUsers { // they need not be sent
		if err := c.PerformUserRemoval(ctx, dueUser(i)); err != nil {
			return nil, 0, err
		}
	}
	slices.Sort(late)
	return late, asleep, nil
}

// watchQueue records when events enter the queue. Some do not stay there, because they are in flight.
func (c *core) watchQueue(deadlines []time.Time, inFlight *atomic.Int64) (late []float64, err error) {
	for end := deadlines[len(deadlines)-1].Add(time.Minute); len(late) < len(deadlines); doze(100 * time.Microsecond) {
		waiting, err := c.metric("storm_queue_rooms")
		if err != nil {
			return nil, err
		}
		now := time.Now()
		for n := min(int(waiting)+int(inFlight.Load()), len(deadlines)); len(late) < n; {
			late = append(late, now.Sub(deadlines[len(late)]).Seconds()*1000)
		}
		if now.After(end) {
			return nil, fmt.Errorf("of %d timers %d ran out", len(deadlines), len(late))
		}
	}
	return late, nil
}

// doze sleeps and keeps its place among Go's running goroutines. Go's own sleep ends up to a millisecond late, and
// makes Go look at all timers, also the server's.
func doze(d time.Duration) {
	span := syscall.NsecToTimespec(d.Nanoseconds())
	syscall.RawSyscall(syscall.SYS_NANOSLEEP, uintptr(unsafe.Pointer(&span)), 0, 0) // an early end does no harm
}

// beside runs f beside a sleeping process, and returns that process's p99 in ms.
func beside(f func() error) (asleep float64, err error) {
	sleeper, err := self("sleep", false)
	if err != nil {
		return 0, err
	}
	defer sleeper.kill()
	if err := f(); err != nil {
		return 0, err
	}
	sleeper.stdin.Close()
	return asleep, sleeper.answer(&asleep)
}

// eventLateness is the same for the whole way to a room that answers at once: the event is read from disk and built.
// All rooms may be in flight.
func eventLateness(ctx context.Context, source config.DataSource, pending int, rate, refreshes float64, window time.Duration) ([]float64, float64, error) {
	clock := &stopwatch{want: int(rate * window.Seconds()), done: make(chan struct{})}
	c, err := openCore(ctx, source, easyRoom{build: clock.see}, func(cfg *fconfig.FutureServer) { cfg.RoomsInFlight = 1024 })
	if err != nil {
		return nil, 0, err
	}
	defer c.stop()
	if err := c.warm(ctx, pending); err != nil {
		return nil, 0, err
	}
	refresh := refresher(ctx, c, pending)
	if _, err := c.schedule(ctx, clock.want, rate); err != nil {
		return nil, 0, err
	}
	asleep, err := beside(func() error { return paced(ctx, refreshes, lead+window, refresh) })
	if err != nil {
		return nil, 0, err
	}
	late, err := clock.read(ctx)
	return late, asleep, err
}

// stopwatch records when events are built.
type stopwatch struct {
	mu   sync.Mutex
	late []float64
	want int
	done chan struct{}
}

func (s *stopwatch) see(f *api.Future) {
	ms := float64(time.Now().UnixMicro()-f.Deadline*1000) / 1000
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.late = append(s.late, ms); len(s.late) == s.want {
		close(s.done)
	}
}

// read waits for the last event.
func (s *stopwatch) read(ctx context.Context) ([]float64, error) {
	select {
	case <-s.done:
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-time.After(time.Minute):
		return nil, fmt.Errorf("not all of %d events came in a minute", s.want)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	slices.Sort(s.late)
	if s.late[0] < -1 { // the deadline on disk is rounded up to the next two milliseconds
		return nil, fmt.Errorf("an event was %v ms early", -s.late[0])
	}
	return s.late, nil
}
