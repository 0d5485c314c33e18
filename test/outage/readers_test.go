package outage_test

import (
	"context"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/setup/jetstream"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// Tests of the consumers of Dendrite's components, on a stream with interest retention.

const (
	subject = "out"
	durable = "reader"
)

// stream starts NATS in this process, with a stream like the roomserver's output.
func stream(t *testing.T) (at string, js nats.JetStreamContext) {
	t.Helper()
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: -1, JetStream: true, StoreDir: t.TempDir(), NoSigs: true})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(30 * time.Second) {
		t.Fatal("NATS does not start")
	}
	js = connect(t, s.ClientURL())
	if _, err := js.AddStream(&nats.StreamConfig{Name: subject, Retention: nats.InterestPolicy}); err != nil {
		t.Fatal(err)
	}
	return s.Addr().String(), js
}

func connect(t *testing.T, url string) nats.JetStreamContext {
	t.Helper()
	conn, err := nats.Connect(url, nats.ReconnectWait(10*time.Millisecond), nats.MaxReconnects(-1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	js, err := conn.JetStream()
	if err != nil {
		t.Fatal(err)
	}
	return js
}

func publish(t *testing.T, js nats.JetStreamContext, text string) {
	t.Helper()
	if _, err := js.Publish(subject, []byte(text)); err != nil {
		t.Fatal(err)
	}
}

// TestStoppedReader stops a component while its consumer is at work, in the run in which it was created. Messages that
// are published before the next run must be there for it.
func TestStoppedReader(t *testing.T) {
	t.Parallel()
	_, js := stream(t)
	ctx, stop := context.WithCancel(t.Context())
	stopped := make(chan struct{})
	err := jetstream.JetStreamConsumer(ctx, js, subject, durable, 1, func(context.Context, []*nats.Msg) bool {
		stop()
		close(stopped)
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	publish(t, js, "first")
	<-stopped
	for { // until the message has been acknowledged; it ends then
		info, err := js.ConsumerInfo(subject, durable+"Pull")
		if err != nil {
			t.Fatal("a stopped reader has no consumer any more: ", err)
		}
		if info.NumAckPending == 0 {
			break
		}
	}
	time.Sleep(100 * time.Millisecond) // a deletion would happen now
	publish(t, js, "second")

	got := make(chan string, 1)
	if err := jetstream.JetStreamConsumer(t.Context(), js, subject, durable, 1, func(_ context.Context, msgs []*nats.Msg) bool {
		got <- string(msgs[0].Data)
		return true
	}); err != nil {
		t.Fatal(err)
	}
	select {
	case text := <-got:
		if text != "second" {
			t.Errorf("the reader got %q", text)
		}
	case <-time.After(30 * time.Second):
		t.Error("a message was lost between two lives of a reader")
	}
}

// TestUnansweredAcknowledgement: the answer to an acknowledgement never arrives, as when the NATS server ends in
// between.
func TestUnansweredAcknowledgement(t *testing.T) {
	t.Parallel()
	at, js := stream(t)
	wire := newWire(t, at)
	got := make(chan string, 2)
	if err := jetstream.JetStreamConsumer(t.Context(), connect(t, wire.url()), subject, durable, 1, func(_ context.Context, msgs []*nats.Msg) bool {
		if len(got) == 0 {
			wire.swallow()
			time.AfterFunc(100*time.Millisecond, wire.cut)
		}
		got <- string(msgs[0].Data)
		return true
	}); err != nil {
		t.Fatal(err)
	}
	publish(t, js, "first")
	publish(t, js, "second")
	for range 2 {
		select {
		case <-got:
		case <-time.After(time.Minute):
			t.Fatal("the reader waits for an answer that cannot come")
		}
	}
}

// wire forwards connections to a server. It can lose data.
type wire struct {
	net.Listener
	mu       sync.Mutex
	conns    []net.Conn
	swallows bool
}

func newWire(t *testing.T, to string) *wire {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{Listener: l}
	t.Cleanup(func() { l.Close(); w.cut() })
	go func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp4", to)
			if err != nil {
				client.Close()
				continue
			}
			w.mu.Lock()
			w.conns = append(w.conns, client, server)
			w.mu.Unlock()
			go io.Copy(client, server)           //nolint:errcheck // until it is cut
			go io.Copy(lossy{w, server}, client) //nolint:errcheck // likewise
		}
	}()
	return w
}

func (w *wire) url() string { return "nats://" + w.Addr().String() }

// swallow loses everything that clients write from now on until the wire is cut.
func (w *wire) swallow() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.swallows = true
}

// cut closes all connections.
func (w *wire) cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range w.conns {
		c.Close()
	}
	w.conns, w.swallows = nil, false
}

type lossy struct {
	*wire
	to net.Conn
}

func (l lossy) Write(p []byte) (int, error) {
	l.mu.Lock()
	lost := l.swallows
	l.mu.Unlock()
	if lost {
		return len(p), nil
	}
	return l.to.Write(p)
}
