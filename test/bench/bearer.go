package main

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/matrix-org/dendrite/futures/test/rig"
)

// bearerCPU compares the processor time of a delayed event's heartbeat with an access token, as matrix-js-sdk sends it,
// with that of one without.
func bearerCPU(b *bench, ctx context.Context) (results []Result, err error) {
	for _, k := range kinds() {
		with, without, err := b.bearerOn(ctx, k)
		if err != nil {
			return results, err
		}
		how := fmt.Sprintf("over HTTP, %s, generation 1", k)
		results = append(results, ratio("CPU time of a heartbeat with a token : without", how, with, without, "µs", atMost(2, 1.3)))
	}
	return results, nil
}

func (b *bench) bearerOn(ctx context.Context, k kind) (with, without float64, err error) {
	s, m, err := b.startWithRooms(ctx, plan{set: map[string]any{
		"future_server.rate_limits.token": map[string]any{"per_second": 0},
	}}, k, 1)
	if err != nil {
		return 0, 0, err
	}
	defer s.kill()
	const events = 100
	ids := make([]string, events)
	err = each(ctx, 8, events, func(ctx context.Context, i int) error {
		path := rig.Path("rooms", m.rooms[0], "send", "m.room.message", "later"+strconv.Itoa(i))
		r, err := m.do(ctx, http.MethodPut, path, url.Values{"org.matrix.msc4140.delay": {"3600000"}}, message(int64(i)))
		ids[i] = r.JSON.Get("delay_id").String()
		return err
	})
	if err != nil {
		return 0, 0, err
	}
	address, n := strings.TrimPrefix(s.url, "http://"), size(b, 20_000, 4_000)
	beats := func(token string) (float64, error) {
		before, err := s.cpu()
		if err != nil {
			return 0, err
		}
		if _, err := spin(ctx, address, 32, n, func(buf []byte, i int) []byte { return appendRestart(buf, ids[i%events], token) }); err != nil {
			return 0, err
		}
		after, err := s.cpu()
		return float64((after - before).Microseconds()) / float64(n), err
	}
	with, without = math.Inf(1), math.Inf(1)
	for range size(b, 5, 3) {
		for best, token := range map[*float64]string{&with: m.Token, &without: ""} {
			cost, err := beats(token)
			if err != nil {
				return 0, 0, err
			}
			*best = min(*best, cost)
			if err := pause(ctx, 200*time.Millisecond); err != nil {
				return 0, 0, err
			}
		}
	}
	return with, without, nil
}

// appendRestart appends the request that restarts a delayed event.
func appendRestart(buf []byte, id, token string) []byte {
	buf = append(buf, "POST /_matrix/client/unstable/org.matrix.msc4140/delayed_events/"...)
	buf = append(buf, id...)
	buf = append(buf, "/restart HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n"...)
	if token != "" {
		buf = append(buf, "Authorization: Bearer "...)
		buf = append(buf, token...)
		buf = append(buf, "\r\n"...)
	}
	return append(buf, "\r\n"...)
}
