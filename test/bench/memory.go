package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"

	"github.com/matrix-org/dendrite/setup/config"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
	fconfig "github.com/matrix-org/dendrite/futures/setup/config"
)

// cargo is the order to a child, and weight its answer.
type cargo struct {
	Empty, Full config.DataSource
	N           int
}

type weight struct {
	Heap, RSS float64 // bytes more than an empty futureserver takes
}

// memory measures pending futures in a process of their own: the live heap after a collection.
func memory(b *bench, ctx context.Context) (results []Result, err error) {
	n := size(b, 1_000_000, 100_000)
	for _, shape := range []struct {
		what  string
		crowd crowd
	}{
		{"heap for a timeout future, 50 of each user", crowd{n: n, perUser: 50, perRoom: 100, timeout: 6 * fconfig.Day}},
		{"heap for a timeout future, one of each user", calls(n)},
	} {
		source, err := b.database(onSQLite)
		if err != nil {
			return results, err
		}
		if err := shape.crowd.seed(ctx, source); err != nil {
			return results, err
		}
		w, err := weigh(b, ctx, source, n)
		if err != nil {
			return results, err
		}
		how := fmt.Sprintf("in process, %d futures, %d in a room, all tokens live; RSS %.0f B each", n, shape.crowd.perRoom, w.RSS/float64(n))
		results = append(results, plain(shape.what, how, w.Heap/float64(n), "B", atMost(160, 96)))
	}
	return results, nil
}

// weigh loads a database's n futures in a child.
func weigh(b *bench, ctx context.Context, full config.DataSource, n int) (w weight, err error) {
	load := cargo{Full: full, N: n}
	if load.Empty, err = b.database(onSQLite); err != nil {
		return w, err
	}
	order, err := json.Marshal(load)
	if err != nil {
		return w, err
	}
	c, err := self("load", false, "BENCH_CARGO="+string(order))
	if err != nil {
		return w, err
	}
	defer c.kill()
	return w, c.answer(&w)
}

// loadAndWeigh runs in such a child.
func loadAndWeigh() error {
	var load cargo
	if err := json.Unmarshal([]byte(os.Getenv("BENCH_CARGO")), &load); err != nil {
		return err
	}
	ctx := untilStdinEnds()
	empty, err := openCore(ctx, load.Empty, easyRoom{}, nil)
	if err != nil {
		return err
	}
	heap, resident := live(), rss()
	full, err := openCore(ctx, load.Full, easyRoom{}, nil)
	if err != nil {
		return err
	}
	w := weight{Heap: live() - heap, RSS: rss() - resident}
	runtime.KeepAlive(empty)
	if n := full.QueryFutureCounts(ctx).Scheduled; n != load.N {
		return fmt.Errorf("%d of %d futures are there", n, load.N)
	}
	for _, i := range []int{0, load.N / 2, load.N - 1} {
		for _, kind := range []api.TokenKind{api.RefreshToken, api.CancelToken} {
			if err := full.PerformTokenAction(ctx, secret(i).Token(kind)); err != nil {
				return errors.Join(errors.New("a token does not work"), err)
			}
		}
	}
	return say(w)
}

// live returns the bytes of the heap that are in use.
func live() float64 {
	debug.FreeOSMemory() // also collects
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc)
}
