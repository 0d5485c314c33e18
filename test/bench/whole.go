package main

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/matrix-org/dendrite/futures/test/rig"
)

// consumerCost compares the rate at which a server accepts events when it checks each for pending futures with that of
// the same server without futures. Two equal servers differ by a few per cent from start to start, so there are several
// pairs.
func consumerCost(b *bench, ctx context.Context) (results []Result, err error) {
	for _, k := range kinds() {
		var ours, against scores
		const rooms = 8
		pairs := size(b, 6, 2)
		for i := range pairs {
			first, second, err := b.consumerPair(ctx, k, rooms, i%2 == 0)
			if err != nil {
				return results, err
			}
			ours, against = ours.and(first), against.and(second)
		}
		how := fmt.Sprintf("over HTTP, %s, %d rooms, a state future pending in each, every 5th event is state, %d pairs of servers", k, rooms, pairs)
		rate := paired("Dendrite's send rate with futures : without", how, ours.rate, against.rate, "/s", atLeast(0.92, 0.99))
		rate.Sigma = sigma(quotients(ours.rate, against.rate)) // not below the distance from the goal to 1
		results = append(results, rate,
			paired("CPU time of an event with futures : without", how, ours.cpu, against.cpu, "ms", Bound{}))
		if b.quick {
			break
		}
	}
	return results, nil
}

// consumerPair starts a server with futures and one without, and compares them. The older of two servers is slower, so
// the order matters.
func (b *bench) consumerPair(ctx context.Context, k kind, rooms int, oursFirst bool) (ours, against scores, err error) {
	var sides [2]contestant // ours, the other
	for i := range sides {
		if !oursFirst {
			i = 1 - i
		}
		s, m, err := b.startWithRooms(ctx, plan{set: map[string]any{"future_server.enabled": i == 0}}, k, rooms)
		if err != nil {
			return ours, against, err
		}
		defer s.kill()
		sides[i] = contestant{s, m}
	}
	if err := sides[0].keepStateFutures(ctx); err != nil {
		return ours, against, err
	}
	// Short turns, because the machine changes from second to second.
	return contest(ctx, sides, 40, roomsInFlight, size(b, 24, 5), 5)
}

// keepStateFutures schedules a state future in each room, so that the consumer checks all state there.
func (m *members) keepStateFutures(ctx context.Context) error {
	return each(ctx, 4, len(m.rooms), func(ctx context.Context, i int) error {
		_, err := m.do(ctx, http.MethodPut, rig.Path("rooms", m.rooms[i], "state_future", "com.example.pending", ""),
			url.Values{"future_timeout": {"86400000"}}, message(0))
		return err
	})
}

// serverRate compares the whole server with stock Dendrite, both with their defaults, on SQLite.
func serverRate(b *bench, ctx context.Context) ([]Result, error) {
	rooms, n := size(b, 100, 16), size(b, 500, 120)
	const inFlight = 8
	ours, m, err := b.startWithRooms(ctx, plan{}, onSQLite, rooms)
	if err != nil {
		return nil, err
	}
	defer ours.kill()
	stock, other, err := b.startWithRooms(ctx, plan{program: stockProgram}, onSQLite, rooms)
	if err != nil {
		return nil, err
	}
	defer stock.kill()
	us, them, err := contest(ctx, [2]contestant{{ours, m}, {stock, other}}, n, inFlight, size(b, 8, 3), 0)
	if err != nil {
		return nil, err
	}
	how := fmt.Sprintf("over HTTP, SQLite, %d rooms, %d in flight, sqlite_wal", rooms, inFlight)
	how += cpuNote(median(us.cpu), median(them.cpu))
	return []Result{paired("the server's event rate : stock Dendrite v0.13.8", how, us.rate, them.rate, "/s", atLeast(2, 3))}, nil
}

// contestant is a server and its sender.
type contestant struct {
	*server
	*members
}

// scores are a contestant's results, round by round: events a second, processor time of an event in ms, and for how
// many seconds it was busy afterwards.
type scores struct{ rate, cpu, rest []float64 }

// warm leaves out the first round.
func (s scores) warm() scores { return scores{s.rate[1:], s.cpu[1:], s.rest[1:]} }

func (s scores) and(more scores) scores {
	return scores{append(s.rate, more.rate...), append(s.cpu, more.cpu...), append(s.rest, more.rest...)}
}

// contest sends the same events to two servers. The first round is for warming up.
func contest(ctx context.Context, sides [2]contestant, n, inFlight, rounds, stateEach int) (first, second scores, err error) {
	first, second, err = takeTurns(n, rounds+1, [2]func() (toll, error){
		func() (toll, error) { return sides[0].take(ctx, n, inFlight, stateEach) },
		func() (toll, error) { return sides[1].take(ctx, n, inFlight, stateEach) },
	})
	if err != nil {
		return first, second, err
	}
	return first.warm(), second.warm(), nil
}

// takeTurns gives n events to both sides, one directly after the other, so that other load on the machine is the same
// for both. Being first makes a difference, so they alternate.
func takeTurns(n, rounds int, sides [2]func() (toll, error)) (first, second scores, err error) {
	var all [2]scores
	for round := range rounds {
		for i := range sides {
			i = (i + round) % 2
			t, err := sides[i]()
			if err != nil {
				return first, second, err
			}
			all[i] = all[i].and(scores{[]float64{float64(n) / t.took.Seconds()}, []float64{t.each(n)}, []float64{t.rest.Seconds()}})
		}
	}
	return all[0], all[1], nil
}

// take sends n events to a contestant.
func (c contestant) take(ctx context.Context, n, inFlight, stateEach int) (t toll, err error) {
	before, err := c.cpu()
	if err != nil {
		return t, err
	}
	if t.took, err = c.send(ctx, n, inFlight, stateEach); err != nil {
		return t, err
	}
	if err := pause(ctx, 100*time.Millisecond); err != nil { // the work that follows an event is a part of it
		return t, err
	}
	after, err := c.cpu()
	t.cpu = after - before
	return t, err
}

// paired is a result whose measure is the median of the rounds' ratios.
func paired(what, how string, ours, against []float64, unit string, bound Bound) Result {
	r := ratio(what, how, median(ours), median(against), unit, bound)
	r.Measure.Value = median(quotients(ours, against))
	return r
}

func quotients(ours, against []float64) []float64 {
	q := make([]float64, len(ours))
	for i := range ours {
		q[i] = ours[i] / against[i]
	}
	return q
}

// sigma is the standard error of a median, for a normal distribution.
func sigma(values []float64) float64 {
	n := float64(len(values))
	sum, squares := 0.0, 0.0
	for _, v := range values {
		sum, squares = sum+v, squares+v*v
	}
	return math.Sqrt(math.Pi / 2 * max(0, squares-sum*sum/n) / (n - 1) / n)
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}
