package internal

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
	"github.com/matrix-org/dendrite/futures/futureserver/internal/wheel"
	"github.com/matrix-org/dendrite/futures/futureserver/storage"
)

// BenchmarkMemory reports the live heap of a pending timeout future, all its tokens working.
func BenchmarkMemory(b *testing.B) {
	const n = 1_000_000
	for b.Loop() {
		before := liveHeap()
		s := pendingServer(n)
		b.ReportMetric(float64(liveHeap()-before)/n, "B/future")
		runtime.KeepAlive(s)
	}
}

func liveHeap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// pendingServer is a core with n futures of a call each: a hundred to a user, twenty to a room.
func pendingServer(n int) *Server {
	s := &Server{clock: clock{time.Now()}, table: newTable(), cfg: testConfig(), metrics: NewMetrics(nil)}
	now := s.clock.now()
	s.wheel = wheel.New(now, s.table.deadlineOf)
	reader := newReader(s)
	for i := range n {
		f := reader.find(&storage.Timer{
			NID: api.NID(i + 1), State: api.Scheduled, Policy: api.CancelOnNewerState, Secret: api.NewSecret(),
			Deadline: now + 8000 + int64(i%8000), Timeout: 8 * time.Second, KeyHash: uint32(i) | 1,
			UserID: fmt.Appendf(nil, "@user%d:example.org", i/100), RoomID: fmt.Appendf(nil, "!room%d:example.org", i/20),
		})
		s.restore(&f)
	}
	s.table.tokens.fit()
	return s
}

// BenchmarkRefresh is a heartbeat in the core, below its stored bound: no I/O, no allocation.
func BenchmarkRefresh(b *testing.B) {
	const n = 1_000_000
	s := pendingServer(n)
	tokens := make([]api.Token, 0, n/10)
	for slot := uint32(1); slot < n; slot += 10 {
		r := s.table.at(slot)
		r.raise(r.deadline + time.Hour.Milliseconds())
		tokens = append(tokens, r.secret.Token(api.RefreshToken))
	}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		if err := s.PerformTokenAction(b.Context(), tokens[i%len(tokens)]); err != nil {
			b.Fatal(err)
		}
		i++
	}
}
