package clientapi

import (
	"hash/maphash"
	"slices"
	"sync"
	"time"

	userapi "github.com/matrix-org/dendrite/userapi/api"

	fconfig "github.com/matrix-org/dendrite/futures/setup/config"
)

// limiter has a token bucket for each key, in a table that never grows. It stores one number for each bucket: the time
// at which the bucket will be full. From then on the slot is free. If all slots for a key are taken, the key gets the
// slot whose bucket will be full first. So the keys that call most are remembered longest. In a flood of keys some are
// limited less than they should be, but never more. A nil limiter limits nothing.
type limiter[K comparable] struct {
	epoch    time.Time
	interval time.Duration // time to refill one token
	capacity time.Duration // time to refill an empty bucket
	seed     maphash.Seed
	sets     []bucketSet
}

// bucketSet has the buckets of all keys with the same hash. It fills two cache lines.
type bucketSet struct {
	sync.Mutex
	buckets [7]bucket
}

type bucket struct {
	key  uint64        // hash of the key; two keys of the last few seconds never have the same
	full time.Duration // since epoch
}

// NewLimit returns a function that takes a token from the key's bucket. If the bucket is empty, it returns the time to
// wait.
func NewLimit(rate fconfig.RateLimit) func(key string) time.Duration {
	return newLimiter[string](rate).take
}

// limiterSets, a power of two, makes 57,344 buckets in a megabyte. The bucket of a heartbeat is full again after a
// moment, so this is enough for the heartbeats of a million clients.
const limiterSets = 1 << 13

func newLimiter[K comparable](rate fconfig.RateLimit) *limiter[K] {
	if rate.PerSecond <= 0 {
		return nil
	}
	interval := max(time.Duration(float64(time.Second)/rate.PerSecond), 1)
	return &limiter[K]{
		epoch:    time.Now(),
		interval: interval,
		capacity: interval * time.Duration(max(rate.Burst, 1)),
		seed:     maphash.MakeSeed(),
		sets:     make([]bucketSet, limiterSets),
	}
}

// take takes a token from the key's bucket. If the bucket is empty, it returns the time to wait.
func (l *limiter[K]) take(key K) time.Duration {
	if l == nil {
		return 0
	}
	set, hash := l.find(key)
	set.Lock()
	defer set.Unlock()
	now, b := time.Since(l.epoch), set.bucket(hash)
	if b.key != hash {
		*b = bucket{key: hash}
	}
	full := max(b.full, now) + l.interval
	if retry := full - now - l.capacity; retry > 0 {
		return retry
	}
	b.full = full
	return 0
}

// giveBack undoes a take.
func (l *limiter[K]) giveBack(key K) {
	if l == nil {
		return
	}
	set, hash := l.find(key)
	set.Lock()
	defer set.Unlock()
	if b := set.bucket(hash); b.key == hash {
		b.full -= l.interval
	}
}

func (l *limiter[K]) find(key K) (set *bucketSet, hash uint64) {
	hash = maphash.Comparable(l.seed, key)
	return &l.sets[hash&uint64(len(l.sets)-1)], hash
}

// bucket returns the key's bucket or, without one, the bucket to overwrite.
func (s *bucketSet) bucket(key uint64) *bucket {
	first := &s.buckets[0]
	for i := range s.buckets {
		b := &s.buckets[i]
		if b.key == key {
			return b
		}
		if b.full < first.full {
			first = b
		}
	}
	return first
}

// userLimit limits how fast a user schedules futures. Administrators, application services, and the users that
// Dendrite's rate limits exempt are not limited.
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
