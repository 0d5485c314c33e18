package internal

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
	"github.com/matrix-org/dendrite/futures/futureserver/internal/ledger"
	"github.com/matrix-org/dendrite/futures/futureserver/storage"
)

// BenchmarkMemory reports the live heap of a pending timeout future with all its tokens.
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

// pendingServer is a core with n futures: a hundred for each user, twenty for each room. Their stored deadlines are far
// away.
func pendingServer(n int) *Server {
	c := clock{start: time.Now()}
	s := &Server{clock: c, ledger: ledger.New(ledgerConfig(), c.time()), cfg: testConfig(), metrics: NewMetrics(nil), next: newBatch(1)}
	now := c.time()
	s.confirmed = now.Now + time.Hour.Milliseconds()
	for i := range n {
		f := s.ledger.Find(&storage.Timer{
			NID: api.NID(i + 1), State: api.Scheduled, Policy: api.CancelOnNewerState, Secret: pendingSecret(i),
			Deadline: now.Now + time.Hour.Milliseconds(), Timeout: 8*time.Second + time.Duration(i%8000)*time.Millisecond, KeyHash: uint32(i) | 1,
			UserID: fmt.Appendf(nil, "@user%d:example.org", i/100), RoomID: fmt.Appendf(nil, "!room%d:example.org", i/20),
		}, now)
		s.ledger.Restore(&f)
	}
	s.ledger.Restored(api.NID(n), now, &s.next.Changes)
	return s
}

func ledgerConfig() ledger.Config {
	return ledger.Config{Futures: testConfig().Futures, Delayed: testConfig().Delayed, Slack: slack, MaxBytes: maxBytes}
}

func pendingSecret(i int) (secret api.Secret) {
	sum := sha256.Sum256(binary.BigEndian.AppendUint64(nil, uint64(i)))
	return api.Secret(sum[:len(secret)])
}

// pendingTokens returns the tokens of some of n futures.
func pendingTokens(n int, kind api.TokenKind) []api.Token {
	tokens := make([]api.Token, 1<<16)
	for i := range tokens {
		tokens[i] = pendingSecret(i * 7919 % n).Token(kind)
	}
	return tokens
}

// BenchmarkRefresh is a heartbeat in the core below its stored bound: no I/O, no allocation.
func BenchmarkRefresh(b *testing.B) {
	const n = 1_000_000
	s := pendingServer(n)
	tokens := make([]api.Token, 0, n/10)
	for i := 0; i < n; i += 10 {
		tokens = append(tokens, pendingSecret(i).Token(api.RefreshToken))
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

// A heartbeat below its stored bound allocates nothing.
func TestRefreshDoesNotAllocate(t *testing.T) {
	s := pendingServer(1000)
	token := pendingSecret(7).Token(api.RefreshToken)
	if n := testing.AllocsPerRun(1000, func() {
		if err := s.PerformTokenAction(t.Context(), token); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("a refresh allocates %v times", n)
	}
}

// BenchmarkFind looks up tokens that exist, and tokens that do not.
func BenchmarkFind(b *testing.B) {
	const n = 1_000_000
	s := pendingServer(n)
	for name, kind := range map[string]api.TokenKind{"known": api.RefreshToken, "unknown": api.GroupToken} {
		tokens := pendingTokens(n, kind)
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				if _, _, ok := s.ledger.ByToken(tokens[i&(1<<16-1)]); ok != (kind == api.RefreshToken) {
					b.Fatal("lost")
				}
				i++
			}
		})
	}
}
