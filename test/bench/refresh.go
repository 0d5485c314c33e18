package main

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"time"
)

// The heartbeat of a call's participant, as the usual client has it, and the slack that is the default.
const (
	heartbeat       = 5 * time.Second
	slackOfDefaults = 30 * time.Second
)

// refreshCPU compares the processor time of a heartbeat with that of an HTTP server that does nothing. The
// futures are refreshed every five seconds, so that what their durability costs is part of it; those that
// one small machine cannot refresh so often are pending.
func refreshCPU(b *bench, ctx context.Context) ([]Result, error) {
	source, n, err := b.pending(ctx, onSQLite)
	if err != nil {
		return nil, err
	}
	bare, bareAddress, err := startBare(true)
	if err != nil {
		return nil, err
	}
	defer bare.kill()
	ours, err := b.start(ctx, plan{database: source, pinned: true})
	if err != nil {
		return nil, err
	}
	defer ours.kill()

	heartbeats := newHeartbeats(n)
	address := strings.TrimPrefix(ours.url, "http://")
	if err := heartbeats.calibrate(ctx, address); err != nil {
		return nil, err
	}
	oursBest, bareBest := math.Inf(1), math.Inf(1)
	for range size(b, 8, 3) {
		for _, side := range []struct {
			child   *child
			address string
			best    *float64
		}{{bare, bareAddress, &bareBest}, {ours.child, address, &oursBest}} {
			cost, err := heartbeats.cost(ctx, side.child, side.address, size(b, 4*time.Second, 1200*time.Millisecond))
			if err != nil {
				return nil, err
			}
			*side.best = min(*side.best, cost)
		}
	}
	how := fmt.Sprintf("over HTTP, SQLite, %d pending, %d refreshed every 5 s", n, heartbeats.hot)
	return []Result{ratio("CPU time of a refresh : bare net/http", how, oursBest, bareBest, "µs", atMost(1.6, 1.25))}, nil
}

// heartbeats are the requests of many clients in turn.
type heartbeats struct {
	tokens []string
	hot    int // of them are refreshed
	next   int

	connections int
}

func newHeartbeats(n int) *heartbeats {
	h := &heartbeats{tokens: make([]string, n), hot: n, connections: 32}
	order := rand.Perm(n) // neighbours in memory and on disk are not neighbours in time
	for i, token := range refreshTokens(n) {
		h.tokens[order[i]] = token.String()
	}
	return h
}

func (h *heartbeats) run(ctx context.Context, address string, d time.Duration) (int, time.Duration, error) {
	first := h.next
	n, took, err := hammer(ctx, address, h.connections, d, func(buf []byte, i int) []byte {
		return appendRefresh(buf, h.tokens[(first+i)%h.hot])
	})
	h.next = first + n
	return n, took, err
}

// appendRefresh appends the request that uses a token.
func appendRefresh(buf []byte, token string) []byte {
	buf = append(buf, "PUT /_matrix/client/v3/futures/"...)
	buf = append(buf, token...)
	return append(buf, " HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n"...)
}

// calibrate finds out how many the machine can refresh every five seconds. As the rounds of two servers
// alternate, it is those of two and a half. Then it refreshes them all: the first time after a start waits for
// a commit.
func (h *heartbeats) calibrate(ctx context.Context, address string) error {
	warm := func() error {
		h.connections, h.next = 512, 0
		defer func() { h.connections = 32 }()
		for refreshed := 0; refreshed < h.hot; {
			n, _, err := h.run(ctx, address, 500*time.Millisecond)
			if err != nil {
				return err
			}
			refreshed += n
		}
		return nil
	}
	h.hot = min(len(h.tokens), 10_000)
	if err := warm(); err != nil {
		return err
	}
	n, took, err := h.run(ctx, address, time.Second)
	if err != nil {
		return err
	}
	h.hot = min(len(h.tokens), max(1000, int(float64(n)/took.Seconds()*heartbeat.Seconds()/2)))
	return warm()
}

// cost is the processor time of a request in µs, what the server does after the last of them included.
func (h *heartbeats) cost(ctx context.Context, c *child, address string, d time.Duration) (float64, error) {
	before, err := c.cpu()
	if err != nil {
		return 0, err
	}
	n, _, err := h.run(ctx, address, d)
	if err != nil {
		return 0, err
	}
	const rest = 700 * time.Millisecond
	// If the machine has become slower, fewer can be refreshed every five seconds, by rounds of two servers.
	h.hot = min(h.hot, max(1000, int(float64(n)*heartbeat.Seconds()/(2*(d+rest)).Seconds())))
	if err := pause(ctx, rest); err != nil { // the raised deadlines are written meanwhile
		return 0, err
	}
	after, err := c.cpu()
	return float64((after - before).Microseconds()) / float64(n), err
}
