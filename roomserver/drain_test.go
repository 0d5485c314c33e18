package roomserver

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/setup/config"
	"github.com/matrix-org/dendrite/setup/jetstream"
	"github.com/matrix-org/dendrite/setup/process"
	"github.com/matrix-org/dendrite/test"
	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// TestIdleReaderIsForgotten shows that a return to stock Dendrite leaves nothing behind: JetStream removes a consumer
// that is not used, and the messages that it kept for it.
func TestIdleReaderIsForgotten(t *testing.T) {
	r := newRig(t, test.DBTypeSQLite)
	if err := r.output.Unsubscribe(); err != nil {
		t.Fatal(err)
	}
	alice := test.NewUser(t)
	c := r.consumer()
	info, err := r.js.ConsumerInfo(c.stream(), c.durable())
	if err != nil {
		t.Fatal(err)
	}
	if info.Config.InactiveThreshold != 24*time.Hour {
		t.Errorf("the threshold is %v", info.Config.InactiveThreshold)
	}
	r.create("10", alice)
	if left, err := c.messages(t.Context(), jetstream.OutputRoomEvent); err != nil || left == 0 {
		t.Fatalf("%d messages kept, %v", left, err)
	}
	r.stop(c)
	info.Config.InactiveThreshold = 50 * time.Millisecond
	if _, err := r.js.UpdateConsumer(c.stream(), &info.Config); err != nil {
		t.Fatal(err)
	}
	eventually(t, "reader and messages are gone", func() bool {
		_, err := r.js.ConsumerInfo(c.stream(), c.durable())
		left, _ := c.messages(t.Context(), jetstream.OutputRoomEvent)
		return errors.Is(err, nats.ErrConsumerNotFound) && left == 0
	})
}

func TestDrained(t *testing.T) {
	r := newRig(t, test.DBTypeSQLite)
	if err := r.output.Unsubscribe(); err != nil {
		t.Fatal(err)
	}
	c := r.consumer() // never started, so all messages wait
	slow, err := r.js.PullSubscribe(c.stream(), "TestSlowReader")
	if err != nil {
		t.Fatal(err)
	}
	alice := test.NewUser(t)
	roomID := r.create("10", alice)
	r.send(text(alice, roomID))

	drained := func(patience time.Duration) error {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		return c.Drained(ctx)
	}
	if err := drained(200 * time.Millisecond); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("drained with a slow reader: %v", err)
	}
	msgs, err := slow.Fetch(100, nats.MaxWait(time.Second))
	if err != nil {
		t.Fatal(err)
	}
	for _, msg := range msgs[1:] {
		if err := msg.AckSync(); err != nil {
			t.Fatal(err)
		}
	}
	if err := drained(200 * time.Millisecond); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("drained with a message in a reader's hands: %v", err)
	}
	if err := msgs[0].AckSync(); err != nil {
		t.Fatal(err)
	}
	if err := drained(patience); err != nil {
		t.Fatalf("not drained: %v", err)
	}

	// An unprocessed event in the input also counts as undrained.
	subject := r.cfg.Global.JetStream.Prefixed(jetstream.InputRoomEvent) + ".elsewhere"
	if _, err := r.js.PullSubscribe(subject, "TestInput"); err != nil {
		t.Fatal(err)
	}
	if _, err := r.js.Publish(subject, []byte("x")); err != nil {
		t.Fatal(err)
	}
	if err := drained(200 * time.Millisecond); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("drained with input waiting: %v", err)
	}
}

// TestConsumerSurvivesRestartOfNATS uses an external NATS server, as a large installation does.
func TestConsumerSurvivesRestartOfNATS(t *testing.T) {
	dir, port := t.TempDir(), natsserver.RANDOM_PORT
	boot := func() *natsserver.Server {
		server, err := natsserver.NewServer(&natsserver.Options{
			Host: "127.0.0.1", Port: port, JetStream: true, StoreDir: dir, NoSigs: true, NoLog: true,
		})
		if err != nil {
			t.Fatal(err)
		}
		server.Start()
		if !server.ReadyForConnections(patience) {
			t.Fatal("NATS does not start")
		}
		return server
	}
	server := boot()
	url := server.ClientURL()
	port = server.Addr().(*net.TCPAddr).Port
	conn, err := nats.Connect(url, nats.ReconnectWait(20*time.Millisecond), nats.MaxReconnects(-1))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	js, err := conn.JetStream()
	if err != nil {
		t.Fatal(err)
	}
	var cfg config.Dendrite
	cfg.Defaults(config.DefaultOpts{})
	stream := cfg.Global.JetStream.Prefixed(jetstream.OutputRoomEvent)
	if _, err := js.AddStream(&nats.StreamConfig{Name: stream, Retention: nats.InterestPolicy}); err != nil {
		t.Fatal(err)
	}
	r := &rig{T: t, cfg: &cfg, process: process.NewProcessContext(), js: js, room: &Room{cfg: &cfg, gates: new(Gates)}}
	c, f := r.consumer(), newFutures()
	c.Start(f)
	r.publish("!a:test", "purge_room", nil)
	f.want(t, "!a:test purged")
	r.caughtUp(c)
	server.Shutdown()
	server.WaitForShutdown()
	server = boot()
	defer server.Shutdown()
	eventually(t, "published after the restart", func() bool {
		msg := nats.NewMsg(stream)
		msg.Header.Set(jetstream.RoomEventType, "purge_room")
		msg.Header.Set(jetstream.RoomID, "!b:test")
		_, err := js.PublishMsg(msg)
		return err == nil
	})
	f.want(t, "!b:test purged")
	r.stop(c)
}
