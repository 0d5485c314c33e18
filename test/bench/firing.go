package main

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// roomsInFlight is to how many rooms at a time clients send: the number that suits Dendrite best.
const roomsInFlight = 6

// toll is the cost of sending some events, with everything that follows. Clients may be done while Dendrite has yet to
// compute the notifications for half of their messages, and no server can postpone that for ever.
type toll struct {
	took time.Duration
	rest time.Duration // of it, after the last event is in its room
	cpu  time.Duration // of the server
}

// each returns the processor time of one of n events in ms.
func (t toll) each(n int) float64 { return t.cpu.Seconds() * 1000 / float64(n) }

// duel sends the same number of messages to the same rooms, by futures that are due at once and by clients.
func duel(ctx context.Context, s *server, m *members, n, rounds int) (ours, against scores, err error) {
	return takeTurns(n, rounds, [2]func() (toll, error){
		func() (toll, error) { return m.fire(ctx, s, n, nil) },
		func() (toll, error) { return m.sendAll(ctx, s, n) },
	})
}

// sendAll sends n messages by clients.
func (m *members) sendAll(ctx context.Context, s *server, n int) (t toll, err error) {
	before, err := s.cpu()
	if err != nil {
		return t, err
	}
	if t.took, err = m.send(ctx, n, roomsInFlight, 0); err != nil {
		return t, err
	}
	err = s.finish(ctx, before, &t)
	return t, err
}

// finish waits until the server is idle, and completes the toll, which began at that processor time.
func (s *server) finish(ctx context.Context, before time.Duration, t *toll) error {
	const look, quiet = 100 * time.Millisecond, 10 * time.Millisecond // what an idle server uses in it, and the clock's resolution
	start := time.Now()
	last, err := s.cpu()
	for idle := 0; err == nil && idle < 3; idle++ {
		if err = pause(ctx, look); err != nil {
			return err
		}
		var now time.Duration
		if now, err = s.cpu(); now-last > quiet {
			idle, t.rest = -1, time.Since(start)
		}
		last, t.cpu = now, now-before
		if t.rest > time.Minute {
			return errors.New("the server does not come to rest")
		}
	}
	t.took += t.rest
	return err
}

// firingRate compares how many due events a second reach their rooms with how many Dendrite accepts from clients.
func firingRate(b *bench, ctx context.Context) (results []Result, err error) {
	for _, k := range kinds() {
		for _, rooms := range []int{size(b, 30, 12), 1} {
			n := size(b, 25*max(rooms, 12), 150)
			r, err := firingOn(b, ctx, k, rooms, n)
			if err != nil {
				return results, err
			}
			results = append(results, r)
		}
		if b.quick {
			break
		}
	}
	return results, nil
}

func firingOn(b *bench, ctx context.Context, k kind, rooms, n int) (Result, error) {
	s, m, err := b.startWithRooms(ctx, plan{}, k, rooms)
	if err != nil {
		return Result{}, err
	}
	defer s.kill()
	ours, against, err := duel(ctx, s, m, n, size(b, 5, 3))
	if err != nil {
		return Result{}, err
	}
	what := "firing rate, many rooms : Dendrite's own send rate"
	if rooms == 1 {
		what = "firing rate, one room : Dendrite's own send rate"
	}
	how := fmt.Sprintf("over HTTP, %s, %d events in %d rooms; clients: one in flight in each, %d rooms at a time", k, n, rooms, roomsInFlight)
	how += cpuNote(median(ours.cpu), median(against.cpu))
	how += restNote(median(ours.rest), median(against.rest))
	return paired(what, how, ours.rate, against.rate, "/s", atLeast(0.85, 0.98)), nil
}

// startWithRooms starts a server on that database with a user in that many rooms.
func (b *bench) startWithRooms(ctx context.Context, p plan, k kind, rooms int) (*server, *members, error) {
	var err error
	if p.database, err = b.database(k); err != nil {
		return nil, nil, err
	}
	s, err := b.start(ctx, p)
	if err != nil {
		return nil, nil, err
	}
	m, err := s.join(ctx, "alice", rooms)
	if err != nil {
		s.kill()
		return nil, nil, err
	}
	return s, m, nil
}

// cpuNote describes the processor time of an event on each side.
func cpuNote(ours, against float64) string {
	return fmt.Sprintf("; CPU %.3g : %.3g ms an event", ours, against)
}

// restNote describes how long the server is busy on each side after its last event.
func restNote(ours, against float64) string {
	return fmt.Sprintf("; of the time %.2g : %.2g s after the last event", ours, against)
}
