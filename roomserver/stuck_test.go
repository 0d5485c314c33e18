package roomserver

import (
	"slices"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/test"
	"github.com/nats-io/nats.go"
)

func TestStandstill(t *testing.T) {
	at := func(name string, floor uint64, pending uint64, unacknowledged int) *nats.ConsumerInfo {
		return &nats.ConsumerInfo{Name: name, AckFloor: nats.SequenceInfo{Stream: floor}, NumPending: pending, NumAckPending: unacknowledged}
	}
	const limit = 10 * time.Second
	s, now := make(standstill), time.Now()
	look := func(want []string, infos ...*nats.ConsumerInfo) {
		t.Helper()
		if got := s.look(infos, now, limit); !slices.Equal(got, want) {
			t.Errorf("stuck are %v, want %v", got, want)
		}
	}
	look(nil, at("idle", 5, 0, 0), at("moves", 5, 3, 0), at("waits", 5, 3, 0), at("repeats", 5, 0, 1))
	now = now.Add(limit + time.Second)
	look([]string{"repeats", "waits"}, at("idle", 5, 0, 0), at("moves", 6, 3, 0), at("waits", 5, 4, 0), at("repeats", 5, 0, 1))
	look(nil, at("idle", 5, 1, 0), at("moves", 6, 3, 0), at("waits", 9, 0, 1), at("repeats", 6, 0, 0)) // idle has just received a message
	now = now.Add(limit)
	look(nil, at("idle", 5, 1, 0), at("moves", 6, 3, 0), at("waits", 9, 0, 1))
}

// Among real consumers of the stream, the one that acknowledges nothing is found.
func TestStuck(t *testing.T) {
	withDatabases(t, func(r *rig) {
		c, err := NewConsumer(r.process, r.js, r.room)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.cancel)
		const limit = time.Millisecond
		if stuck, err := c.Stuck(t.Context(), limit); err != nil || len(stuck) > 0 {
			t.Fatalf("without a message %v are stuck, %v", stuck, err)
		}
		r.create("10", test.NewUser(r.T))
		deadline := time.Now().Add(time.Minute)
		for {
			stuck, err := c.Stuck(t.Context(), limit)
			if err == nil && slices.Contains(stuck, c.durable()) {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("a consumer that nobody reads is not among the stuck %v, %v", stuck, err)
			}
			time.Sleep(10 * time.Millisecond)
		}
	})
}
