package setup

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
)

// A room's worker waits a minute for the next event of its room. Only then does the next event start another worker.
// JetStream must know for all that time that it waits. Otherwise an event that comes later is delivered only with the
// one after it, and a client hangs meanwhile.
func TestWaitingIsHeard(t *testing.T) {
	s := start(t, options(t, t.TempDir()))
	js := s.components.js
	if _, err := js.AddStream(&nats.StreamConfig{Name: "Quiet", Subjects: []string{"quiet"}, Storage: nats.MemoryStorage}); err != nil {
		t.Fatal(err)
	}
	room, err := js.PullSubscribe("quiet", "worker")
	if err != nil {
		t.Fatal(err)
	}
	requests, err := s.components.conn.SubscribeSync("$JS.API.CONSUMER.MSG.NEXT.Quiet.worker")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	fetched := make(chan error, 1)
	go func() {
		_, err := room.Fetch(1, nats.Context(ctx))
		fetched <- err
	}()
	m, err := requests.NextMsgWithContext(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var request struct{ Expires time.Duration }
	if err := json.Unmarshal(m.Data, &request); err != nil {
		t.Fatal(err)
	}
	deadline, _ := ctx.Deadline()
	if deaf := time.Until(deadline) - request.Expires; deaf > 50*time.Millisecond {
		t.Errorf("a worker that waits until %s is deaf for the last %s", deadline, deaf)
	}
	if _, err := js.Publish("quiet", nil); err != nil {
		t.Fatal(err)
	}
	if err := <-fetched; err != nil {
		t.Error(err)
	}
}
