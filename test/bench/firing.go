package main

import (
	"context"
	"fmt"
	"math"
	"time"

	fconfig "github.com/matrix-org/dendrite/futures/setup/config"
)

// roomsInFlight is the default of rooms_in_flight, and so what the clients do too that are compared with it.
func roomsInFlight() int {
	var cfg fconfig.FutureServer
	cfg.Defaults()
	return cfg.RoomsInFlight
}

// duel sends the same number of messages in the same rooms, by futures that are due at once and by clients,
// and returns the shortest time of each.
func duel(ctx context.Context, s *server, m *members, n, rounds int) (ours, against time.Duration, err error) {
	ours, against = math.MaxInt64, math.MaxInt64
	for range rounds {
		took, err := m.fire(ctx, s, n, nil)
		if err != nil {
			return 0, 0, err
		}
		ours = min(ours, took)
		if took, err = m.send(ctx, n, roomsInFlight(), 0); err != nil {
			return 0, 0, err
		}
		against = min(against, took)
	}
	return ours, against, nil
}

// firingRate compares how many due events a second reach their rooms with how many Dendrite takes from clients.
func firingRate(b *bench, ctx context.Context) (results []Result, err error) {
	for _, k := range kinds() {
		for _, rooms := range []int{size(b, 30, 12), 1} {
			n := 25 * max(rooms, 12)
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
	ours, against, err := duel(ctx, s, m, n, size(b, 5, 2))
	if err != nil {
		return Result{}, err
	}
	what := "firing rate, many rooms : Dendrite's own send rate"
	if rooms == 1 {
		what = "firing rate, one room : Dendrite's own send rate"
	}
	how := fmt.Sprintf("over HTTP, %s, %d events in %d rooms, one in flight in each, %d rooms at a time", k, n, rooms, roomsInFlight())
	return ratio(what, how, float64(n)/ours.Seconds(), float64(n)/against.Seconds(), "/s", atLeast(0.85, 0.98)), nil
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
