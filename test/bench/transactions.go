package main

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"strconv"

	"github.com/matrix-org/dendrite/futures/test/rig"
)

// transactions compares the processor time of an ordinary message without a transaction ID with that of one that has
// it, which stands for one event in all circumstances (setup/guard).
func transactions(b *bench, ctx context.Context) (results []Result, err error) {
	for _, k := range kinds() {
		without, with, err := b.sendsOn(ctx, k)
		if err != nil {
			return results, err
		}
		how := fmt.Sprintf("over HTTP, %s, one user, 8 rooms", k)
		results = append(results, ratio("CPU time of a message without a transaction ID : with", how, without, with, "ms", atLeast(0.98, 1)))
	}
	return results, nil
}

func (b *bench) sendsOn(ctx context.Context, k kind) (without, with float64, err error) {
	const rooms, workers = 8, 4
	s, m, err := b.startWithRooms(ctx, plan{}, k, rooms)
	if err != nil {
		return 0, 0, err
	}
	defer s.kill()
	n, sent := size(b, 1500, 300), 0
	send := func(method, last string) (float64, error) {
		before, err := s.cpu()
		if err != nil {
			return 0, err
		}
		err = each(ctx, workers, n, func(ctx context.Context, i int) error {
			path := rig.Path("rooms", m.rooms[i%rooms], "send", "m.room.message")
			if last != "" {
				path += "/" + last + strconv.Itoa(sent+i)
			}
			_, err := m.do(ctx, method, path, nil, message(int64(i)))
			return err
		})
		if err != nil {
			return 0, err
		}
		sent += n
		after, err := s.cpu()
		return float64((after - before).Microseconds()) / float64(n) / 1000, err
	}
	without, with = math.Inf(1), math.Inf(1)
	for range size(b, 6, 3) {
		cost, err := send(http.MethodPost, "")
		if err != nil {
			return 0, 0, err
		}
		without = min(without, cost)
		if cost, err = send(http.MethodPut, "t"); err != nil {
			return 0, 0, err
		}
		with = min(with, cost)
	}
	return without, with, nil
}
