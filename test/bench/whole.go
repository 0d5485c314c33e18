package main

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"time"

	"github.com/matrix-org/dendrite/futures/test/rig"
)

// consumerCost compares the rate at which a server takes events when it looks at each for the sake of pending
// futures with that of the same server without futures.
func consumerCost(b *bench, ctx context.Context) (results []Result, err error) {
	for _, k := range kinds() {
		rooms, n := size(b, 24, 8), size(b, 600, 120)
		with, m, err := b.startWithRooms(ctx, plan{}, k, rooms)
		if err != nil {
			return results, err
		}
		defer with.kill()
		if err := m.keepStateFutures(ctx); err != nil {
			return results, err
		}
		without, other, err := b.startWithRooms(ctx, plan{set: map[string]any{"future_server.enabled": false}}, k, rooms)
		if err != nil {
			return results, err
		}
		defer without.kill()
		ours, against, err := contest(ctx, [2]contestant{{with, m}, {without, other}}, n, roomsInFlight(), size(b, 6, 3), 5)
		if err != nil {
			return results, err
		}
		with.kill()
		without.kill()
		how := fmt.Sprintf("over HTTP, %s, %d rooms, a state future pending in each, every 5th event is state", k, rooms)
		results = append(results,
			ratio("Dendrite's send rate with futures : without", how, ours.rate, against.rate, "/s", atLeast(0.92, 0.99)),
			ratio("CPU time of an event with futures : without", how, ours.cpu, against.cpu, "ms", Bound{}))
		if b.quick {
			break
		}
	}
	return results, nil
}

// keepStateFutures schedules one in each room, so that the consumer has to look at all state there.
func (m *members) keepStateFutures(ctx context.Context) error {
	return each(ctx, 4, len(m.rooms), func(ctx context.Context, i int) error {
		_, err := m.do(ctx, http.MethodPut, rig.Path("rooms", m.rooms[i], "state_future", "com.example.pending", ""),
			url.Values{"future_timeout": {"86400000"}}, message(0))
		return err
	})
}

// serverRate compares the whole server with stock Dendrite, both as they come, on SQLite.
func serverRate(b *bench, ctx context.Context) ([]Result, error) {
	rooms, n := size(b, 100, 16), size(b, 1_000, 120)
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
	us, them, err := contest(ctx, [2]contestant{{ours, m}, {stock, other}}, n, inFlight, size(b, 4, 2), 0)
	if err != nil {
		return nil, err
	}
	how := fmt.Sprintf("over HTTP, SQLite, %d rooms, %d in flight, sqlite_wal", rooms, inFlight)
	return []Result{ratio("the server's event rate : stock Dendrite v0.13.8", how, us.rate, them.rate, "/s", atLeast(2, 3))}, nil
}

// contestant is a server and who sends there.
type contestant struct {
	*server
	*members
}

// score is the best rate, in events a second, and the least processor time of an event, in ms.
type score struct{ rate, cpu float64 }

// contest has two servers take the same events in turn.
func contest(ctx context.Context, sides [2]contestant, n, inFlight, rounds, stateEach int) (first, second score, err error) {
	scores := [2]score{{cpu: math.Inf(1)}, {cpu: math.Inf(1)}}
	for round := range rounds + 1 {
		for i := range sides {
			i = (i + round) % 2 // who begins has it harder or easier; so they take turns in that too
			c := sides[i]
			before, err := c.cpu()
			if err != nil {
				return first, second, err
			}
			took, err := c.send(ctx, n, inFlight, stateEach)
			if err != nil {
				return first, second, err
			}
			if err := pause(ctx, 200*time.Millisecond); err != nil { // what follows an event is a part of it
				return first, second, err
			}
			after, err := c.cpu()
			if err != nil {
				return first, second, err
			}
			if round > 0 { // the first is for warming up
				scores[i].rate = max(scores[i].rate, float64(n)/took.Seconds())
				scores[i].cpu = min(scores[i].cpu, (after-before).Seconds()*1000/float64(n))
			}
		}
	}
	return scores[0], scores[1], nil
}
