package clientapi

import (
	"fmt"
	"net/http/httptest"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	fconfig "github.com/matrix-org/dendrite/futures/setup/config"
)

func (l *limiter[K]) size() (n int) {
	for i := range l.shards {
		n += len(l.shards[i].full)
	}
	return n
}

func TestLimiter(t *testing.T) {
	t.Run("burst and refill", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			l := newLimiter[string](fconfig.RateLimit{PerSecond: 2, Burst: 3})
			for i := range 3 {
				if l.wait("a") != 0 || l.take("a") != 0 {
					t.Fatalf("token %d of the burst is missing", i+1)
				}
			}
			for range 2 { // asking in vain costs nothing
				if wait, take := l.wait("a"), l.take("a"); wait != time.Second/2 || take != wait {
					t.Errorf("wait %v, take %v, want 500ms", wait, take)
				}
			}
			time.Sleep(time.Second/2 - 1)
			if l.take("a") != 1 {
				t.Error("refilled too early")
			}
			time.Sleep(1)
			if l.take("a") != 0 || l.take("a") == 0 {
				t.Error("want one token after half a second")
			}
			time.Sleep(time.Hour)
			for range 3 {
				if l.take("a") != 0 {
					t.Error("not full after an hour")
				}
			}
			if l.take("a") == 0 {
				t.Error("fuller than full")
			}
		})
	})
	t.Run("no limit", func(t *testing.T) {
		l := newLimiter[string](fconfig.RateLimit{})
		for range 1000 {
			if l.wait("a")+l.take("a") != 0 {
				t.Fatal("limited")
			}
		}
	})
	t.Run("full buckets are forgotten", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			l := newLimiter[int](fconfig.RateLimit{PerSecond: 1, Burst: 5})
			for i := range 1_000_000 {
				l.take(i)
				if i%1000 == 0 {
					time.Sleep(time.Second)
				}
			}
			// In each second come 1000, so twice as many, and each shard's minimum, is all there may be.
			if n := l.size(); n > 2*1000+limiterShards*limiterMinSweep {
				t.Errorf("%d buckets", n)
			}
		})
	})
	t.Run("invariant 8: a flood takes bounded memory", func(t *testing.T) {
		l := newLimiter[int](fconfig.RateLimit{PerSecond: 0.001, Burst: 5})
		for i := range 3 * limiterShards * limiterMaxSweep {
			l.take(i)
		}
		if n := l.size(); n > limiterShards*limiterMaxSweep {
			t.Errorf("%d buckets", n)
		}
	})
}

func TestSource(t *testing.T) {
	proxies := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")}
	for _, c := range []struct {
		name, remote string
		forwarded    []string
		want         string
	}{
		{"the peer, without its port", "192.0.2.1:4711", nil, "192.0.2.1"},
		{"a stranger's header is not believed", "192.0.2.1:4711", []string{"1.2.3.4"}, "192.0.2.1"},
		{"a proxy's is", "10.0.0.1:4711", []string{"1.2.3.4"}, "1.2.3.4"},
		{"the right-most that is no proxy", "10.0.0.1:1", []string{"6.6.6.6, 1.2.3.4, 10.2.2.2"}, "1.2.3.4"},
		{"over several headers", "10.0.0.1:1", []string{"6.6.6.6", "1.2.3.4", "fd00::1,10.2.2.2"}, "1.2.3.4"},
		{"all of them proxies", "10.0.0.1:1", []string{"10.0.0.3, 10.0.0.2"}, "10.0.0.3"},
		{"a proxy that says nothing", "10.0.0.1:1", nil, "10.0.0.1"},
		{"what cannot be read ends the search", "10.0.0.1:1", []string{"1.2.3.4, unknown, 10.0.0.2"}, "10.0.0.2"},
		{"with port", "10.0.0.1:1", []string{"1.2.3.4:99"}, "1.2.3.4"},
		{"IPv6 with port", "10.0.0.1:1", []string{"[2001:db8::1]:99"}, "2001:db8::"},
		{"IPv6 is its network", "[2001:db8:1:2:3:4:5:6]:1", nil, "2001:db8:1:2::"},
		{"IPv6 zone", "[fe80::1%eth0]:1", nil, "fe80::"},
		{"IPv4 in IPv6", "[::ffff:192.0.2.1]:1", nil, "192.0.2.1"},
		{"IPv4 in IPv6 proxy", "[::ffff:10.0.0.1]:1", []string{"1.2.3.4"}, "1.2.3.4"},
		{"Unix socket", "@", []string{"6.6.6.6, 1.2.3.4"}, "1.2.3.4"},
		{"Unix socket that says nothing", "@", nil, "invalid IP"},
	} {
		t.Run("4.9 "+c.name, func(t *testing.T) {
			req := httptest.NewRequest("POST", "/", nil)
			req.RemoteAddr = c.remote
			req.Header["X-Forwarded-For"] = c.forwarded
			if got := source(req, proxies); got.String() != c.want {
				t.Errorf("got %v, want %s", got, c.want)
			}
		})
	}
}

func BenchmarkLimiter(b *testing.B) {
	for _, keys := range []int{1, 1 << 16} {
		b.Run(fmt.Sprint(keys), func(b *testing.B) {
			l := newLimiter[int](fconfig.RateLimit{PerSecond: 1e6, Burst: 1e6})
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				l.take(i % keys)
			}
		})
	}
}
