package main

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// The heartbeat and timeout of the usual client in a call, and the default slack.
const (
	heartbeat       = 5 * time.Second
	slackOfDefaults = 30 * time.Second
)

// refreshCPU compares the processor time of a heartbeat with that of an HTTP server that does nothing. The futures are
// refreshed every five seconds, so the cost of their durability is included. As many futures are refreshed as a small
// machine can; the rest are pending.
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
	scale := size(b, time.Duration(1), 5) // a quick run has a fifth of the slack, and heartbeats every second
	slack := slackOfDefaults / scale
	ours, err := b.start(ctx, plan{database: source, pinned: true, set: map[string]any{"future_server.high_water_slack": slack.String()}})
	if err != nil {
		return nil, err
	}
	defer ours.kill()

	back, err := stepAside()
	if err != nil {
		return nil, err
	}
	defer back()
	h := newHeartbeats(n, heartbeat/scale)
	address := strings.TrimPrefix(ours.url, "http://")
	if err := h.begin(ctx, address); err != nil {
		return nil, err
	}
	oursBest, bareBest := math.Inf(1), math.Inf(1)
	for range size(b, 3, 1) {
		oursCost, bareCost, err := h.compare(ctx, ours.child, address, bare, bareAddress)
		if err != nil {
			return nil, err
		}
		oursBest, bareBest = min(oursBest, oursCost), min(bareBest, bareCost)
	}
	how := fmt.Sprintf("over HTTP, SQLite, %d pending, %d refreshed every %s", n, h.hot, h.every)
	return []Result{ratio("CPU time of a refresh : bare net/http", how, oursBest, bareBest, "µs", atMost(1.6, 1.25))}, nil
}

// heartbeats are those of many clients with the same interval.
type heartbeats struct {
	tokens []string
	hot    int // of them are refreshed
	every  time.Duration
}

func newHeartbeats(n int, every time.Duration) *heartbeats {
	h := &heartbeats{tokens: make([]string, n), every: every}
	order := rand.Perm(n) // neighbours in memory and on disk are not neighbours in time
	for i, token := range refreshTokens(n) {
		h.tokens[order[i]] = token.String()
	}
	return h
}

// parts is how many heartbeats one row covers, with the usual slack.
const parts = 5

// begin finds out how many futures the machine can refresh in a quarter of the time; the rest is for the work that
// follows and for the other server. It then starts: a fifth of the futures begins with each heartbeat, so that each
// heartbeat is followed by the same number of rows.
func (h *heartbeats) begin(ctx context.Context, address string) error {
	h.hot = min(len(h.tokens), 20_000)
	if _, err := h.refresh(ctx, address, parts); err != nil {
		return err
	}
	took, err := h.refresh(ctx, address, parts)
	if err != nil {
		return err
	}
	slices.Reverse(h.tokens) // to begin with those that are due
	h.hot = min(len(h.tokens), int(float64(h.hot)*h.every.Seconds()/4/took.Seconds())) / parts * parts
	for begun := range parts {
		next := time.After(h.every)
		if _, err := h.refresh(ctx, address, begun+1); err != nil {
			return err
		}
		<-next
	}
	return nil
}

// refresh refreshes once each future of the first parts.
func (h *heartbeats) refresh(ctx context.Context, address string, of int) (took time.Duration, err error) {
	return spin(ctx, address, 32, h.hot/parts*of, func(buf []byte, i int) []byte {
		return appendRefresh(buf, h.tokens[i/of*parts+i%of])
	})
}

// appendRefresh appends the request that uses a token.
func appendRefresh(buf []byte, token string) []byte {
	buf = append(buf, "PUT /_matrix/client/v3/futures/"...)
	buf = append(buf, token...)
	return append(buf, " HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n"...)
}

// compare refreshes all futures with each of two servers in turn, until all rows have been written once, and returns
// the processor time of a heartbeat for both.
func (h *heartbeats) compare(ctx context.Context, a *child, aAddress string, b *child, bAddress string) (aCost, bCost float64, err error) {
	for range parts {
		next := time.After(h.every)
		cost, err := h.cost(ctx, a, aAddress)
		if err != nil {
			return 0, 0, err
		}
		aCost += cost / parts
		if cost, err = h.cost(ctx, b, bAddress); err != nil {
			return 0, 0, err
		}
		bCost += cost / parts
		<-next
	}
	return aCost, bCost, nil
}

// cost is the processor time of a heartbeat in µs, including the server's work after the last of them.
func (h *heartbeats) cost(ctx context.Context, c *child, address string) (float64, error) {
	before, err := c.cpu()
	if err != nil {
		return 0, err
	}
	if _, err := h.refresh(ctx, address, parts); err != nil {
		return 0, err
	}
	if err := pause(ctx, h.every/5); err != nil { // the raised deadlines are written meanwhile
		return 0, err
	}
	after, err := c.cpu()
	return float64((after - before).Microseconds()) / float64(h.hot), err
}
