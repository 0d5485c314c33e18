package clientapi

import (
	"hash/maphash"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	userapi "github.com/matrix-org/dendrite/userapi/api"

	fconfig "github.com/matrix-org/dendrite/futures/setup/config"
)

// limiter is a token bucket for each key. Of a bucket it keeps one number, the time at which it will be full
// again, and forgets the buckets that are: memory follows the callers of the last moments, up to a fixed
// bound. A nil limiter limits nothing.
type limiter[K comparable] struct {
	epoch    time.Time
	interval time.Duration // one token is refilled
	capacity time.Duration // an empty bucket is refilled
	seed     maphash.Seed
	shards   [limiterShards]limiterShard[K]
}

type limiterShard[K comparable] struct {
	sync.Mutex
	full  map[K]time.Duration // since epoch
	sweep int                 // forget full buckets when there are so many
}

const (
	limiterShards   = 64
	limiterMinSweep = 64      // buckets in a shard
	limiterMaxSweep = 1 << 13 // half a million buckets in all, some 40 MB
)

func newLimiter[K comparable](rate fconfig.RateLimit) *limiter[K] {
	if rate.PerSecond <= 0 {
		return nil
	}
	interval := time.Duration(float64(time.Second) / rate.PerSecond)
	l := &limiter[K]{
		epoch:    time.Now(),
		interval: max(interval, 1),
		capacity: max(interval, 1) * time.Duration(max(rate.Burst, 1)),
		seed:     maphash.MakeSeed(),
	}
	for i := range l.shards {
		l.shards[i].full = map[K]time.Duration{}
		l.shards[i].sweep = limiterMinSweep
	}
	return l
}

// wait returns how long key has to wait for a token, 0 if it has one. It takes none and remembers nothing.
func (l *limiter[K]) wait(key K) time.Duration {
	if l == nil {
		return 0
	}
	s := l.shard(key)
	s.Lock()
	defer s.Unlock()
	return max(0, s.full[key]-time.Since(l.epoch)+l.interval-l.capacity)
}

// take takes a token from key's bucket if there is one, or returns how long there will be none.
func (l *limiter[K]) take(key K) time.Duration {
	if l == nil {
		return 0
	}
	s := l.shard(key)
	s.Lock()
	defer s.Unlock()
	now := time.Since(l.epoch)
	full := max(s.full[key], now) + l.interval
	if retry := full - now - l.capacity; retry > 0 {
		return retry
	}
	s.full[key] = full
	if len(s.full) >= s.sweep {
		s.forget(now)
	}
	return 0
}

func (l *limiter[K]) shard(key K) *limiterShard[K] {
	return &l.shards[maphash.Comparable(l.seed, key)%limiterShards]
}

// forget drops the buckets that are full again. If a flood of callers leaves too many others, it drops half
// of them, whichever: a caller who gets a fresh bucket is less harm than a server without memory.
func (s *limiterShard[K]) forget(now time.Duration) {
	for key, full := range s.full {
		if full <= now {
			delete(s.full, key)
		}
	}
	for key := range s.full {
		if len(s.full) <= limiterMaxSweep/2 {
			break
		}
		delete(s.full, key)
	}
	s.sweep = max(limiterMinSweep, 2*len(s.full))
}

// userLimit limits how fast a user schedules futures. Exempt are administrators, application services, and
// the users whom Dendrite's own rate limits exempt.
type userLimit struct {
	limits *limiter[string]
	exempt []string
}

func newUserLimit(rate fconfig.RateLimit, exempt []string) *userLimit {
	return &userLimit{newLimiter[string](rate), exempt}
}

func (l *userLimit) take(device *userapi.Device) time.Duration {
	switch device.AccountType {
	case userapi.AccountTypeAdmin, userapi.AccountTypeAppService:
		return 0
	}
	if slices.Contains(l.exempt, device.UserID) {
		return 0
	}
	return l.limits.take(device.UserID)
}

// source returns the address a request comes from: the peer's, or, where the peer is a trusted proxy, the
// right-most address of X-Forwarded-For that is not; what stands further left anybody can make up. A peer
// without an address is a proxy on the Unix socket. An IPv6 source is its /64 network, which is what one
// household or host has.
func source(req *http.Request, proxies []netip.Prefix) netip.Addr {
	trusted := func(a netip.Addr) bool {
		return !a.IsValid() || slices.ContainsFunc(proxies, func(p netip.Prefix) bool { return p.Contains(a) })
	}
	peer, _ := netip.ParseAddrPort(req.RemoteAddr)
	addr := plainAddr(peer.Addr())
	hops := strings.Split(strings.Join(req.Header.Values("X-Forwarded-For"), ","), ",")
	for _, hop := range slices.Backward(hops) {
		if !trusted(addr) {
			break
		}
		next, err := parseHop(strings.TrimSpace(hop))
		if err != nil {
			break
		}
		addr = plainAddr(next)
	}
	if addr.Is6() {
		network, _ := addr.Prefix(64)
		addr = network.Addr()
	}
	return addr
}

// parseHop reads an element of X-Forwarded-For: some proxies append a port.
func parseHop(s string) (netip.Addr, error) {
	if withPort, err := netip.ParseAddrPort(s); err == nil {
		return withPort.Addr(), nil
	}
	return netip.ParseAddr(s)
}

func plainAddr(a netip.Addr) netip.Addr { return a.Unmap().WithZone("") }
