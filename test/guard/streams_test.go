package guard_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/matrix-org/dendrite/futures/test/rig"
)

// soon is far below the 30 s after which JetStream redelivers by itself, and far above the time needed.
const soon = 10 * time.Second

// TestInHand starts a server on an external NATS while the sync API's consumer has an unacknowledged message whose
// receiver is gone: the test receives it in the sync API's name. Clients see the event at once.
func TestInHand(t *testing.T) {
	t.Parallel()
	n := startNATS(t)
	s := rig.New(t, rig.Config{Set: map[string]any{"global.jetstream.addresses": []string{n.ClientURL()}}})
	alice := s.Register(t, "alice")
	room := alice.CreateRoom(nil)
	for round := range *rounds {
		sent := takeOne(t, n, func(i int) string {
			body := fmt.Sprintf("message %d of round %d", i, round)
			alice.Send(room, "m.room.message", rig.Text(body))
			return body
		})
		s.Kill()
		s.Start()
		start := time.Now()
		for _, body := range sent {
			alice.WaitFor(room, rig.HasBody(body), patience+soon)
		}
		took := time.Since(start)
		t.Logf("%d messages seen after %v", len(sent), took)
		if took > soon {
			t.Errorf("clients saw an event %v after the start", took)
		}
	}
}

func startNATS(t *testing.T) *server.Server {
	t.Helper()
	n, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: server.RANDOM_PORT, JetStream: true, StoreDir: t.TempDir(), MaxPayload: 16 << 20, NoSigs: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	n.Start()
	t.Cleanup(func() { n.Shutdown(); n.WaitForShutdown() })
	if !n.ReadyForConnections(patience) {
		t.Fatal("NATS does not start")
	}
	return n
}

// takeOne sends until the test has received a message instead of the sync API; JetStream serves both in turn.
func takeOne(t *testing.T, n *server.Server, send func(i int) string) (sent []string) {
	t.Helper()
	conn, err := nats.Connect(n.ClientURL())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	js, err := conn.JetStream()
	if err != nil {
		t.Fatal(err)
	}
	const stream, consumer = "DendriteOutputRoomEvent", "DendriteSyncAPIRoomServerConsumerPull"
	sub, err := js.PullSubscribe(stream, consumer, nats.Bind(stream, consumer))
	if err != nil {
		t.Fatal(err)
	}
	taken := make(chan error, 1)
	go func() {
		_, err := sub.Fetch(1, nats.MaxWait(patience))
		taken <- err
	}()
	for i := 0; ; i++ {
		sent = append(sent, send(i))
		select {
		case err := <-taken:
			if err != nil {
				t.Fatal(err)
			}
			return sent
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// TestKilledAtTheDeadline kills the server about when an event is due. After the restart all clients see it at once.
func TestKilledAtTheDeadline(t *testing.T) {
	t.Parallel()
	s := rig.New(t, rig.Config{})
	alice := s.Register(t, "alice")
	room := alice.CreateRoom(nil)
	var worst time.Duration
	for round := range *rounds {
		body := fmt.Sprintf("round %d", round)
		due := time.Now().Add(300 * time.Millisecond)
		alice.SendFuture(room, "m.room.message", rig.Text(body), rig.Params{Timeout: 300 * time.Millisecond})
		time.Sleep(time.Until(due) + rand.N(60*time.Millisecond))
		s.Kill()
		s.Start()
		start := time.Now()
		alice.WaitFor(room, rig.HasBody(body), patience+soon)
		worst = max(worst, time.Since(start))
	}
	t.Logf("the latest of %d events was seen %v after the start", *rounds, worst)
	if worst > soon {
		t.Error("that is too late")
	}
}
