package guard_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/setup/config"
	"github.com/matrix-org/dendrite/setup/jetstream"
	"github.com/matrix-org/dendrite/setup/process"
	"github.com/nats-io/nats.go"

	"github.com/matrix-org/dendrite/futures/setup/guard"
)

const stream = "TestOutputRoomEvent"

// bench is JetStream as Dendrite starts it, with all of its streams.
type bench struct {
	*testing.T
	dir  string
	cfg  *config.JetStream
	proc *process.ProcessContext
	js   nats.JetStreamContext
	conn *nats.Conn
}

func newBench(t *testing.T) *bench {
	b := &bench{T: t, dir: t.TempDir()}
	b.start()
	t.Cleanup(func() { b.stop() })
	return b
}

func (b *bench) start() {
	cfg := &config.Global{}
	cfg.JetStream.Defaults(config.DefaultOpts{Generate: true})
	cfg.JetStream.Matrix = cfg
	cfg.JetStream.TopicPrefix = "Test"
	cfg.JetStream.StoragePath = config.Path(b.dir)
	cfg.JetStream.NoLog = true
	b.cfg, b.proc = &cfg.JetStream, process.NewProcessContext()
	b.js, b.conn = new(jetstream.NATSInstance).Prepare(b.proc, b.cfg)
}

func (b *bench) stop() {
	b.proc.ShutdownDendrite()
	b.proc.WaitForComponentsToFinish()
}

func (b *bench) publish(bodies ...string) {
	b.Helper()
	for _, body := range bodies {
		if _, err := b.js.Publish(stream, []byte(body)); err != nil {
			b.Fatal(err)
		}
	}
}

// consumer creates or finds a consumer as Dendrite does.
func (b *bench) consumer(name string) *nats.Subscription {
	b.Helper()
	if _, err := b.js.ConsumerInfo(stream, name); err != nil {
		cfg := &nats.ConsumerConfig{Durable: name, AckPolicy: nats.AckExplicitPolicy, DeliverPolicy: nats.DeliverAllPolicy}
		if _, err := b.js.AddConsumer(stream, cfg); err != nil {
			b.Fatal(err)
		}
	}
	sub, err := b.js.PullSubscribe("", name, nats.Bind(stream, name))
	if err != nil {
		b.Fatal(err)
	}
	return sub
}

// gets receives these messages, in this order, and acknowledges them if acknowledge is set.
func (b *bench) gets(sub *nats.Subscription, acknowledge bool, bodies ...string) {
	b.Helper()
	for _, want := range bodies {
		msgs, err := sub.Fetch(1, nats.MaxWait(5*time.Second))
		if err != nil {
			b.Fatalf("waiting for %q: %v", want, err)
		}
		if got := string(msgs[0].Data); got != want {
			b.Fatalf("got %q, want %q", got, want)
		}
		if acknowledge {
			if err := msgs[0].AckSync(); err != nil {
				b.Fatal(err)
			}
		}
	}
}

func (b *bench) has(messages uint64) {
	b.Helper()
	info, err := b.js.StreamInfo(stream)
	if err != nil {
		b.Fatal(err)
	}
	if info.State.Msgs != messages {
		b.Errorf("the stream holds %d messages, want %d", info.State.Msgs, messages)
	}
}

func (b *bench) align() {
	b.Helper()
	if err := guard.AlignConsumers(b.conn, b.js, b.cfg); err != nil {
		b.Fatal(err)
	}
}

func TestConsumerWithMessagesInHand(t *testing.T) {
	b := newBench(t)
	b.publish("dropped: nobody is there")
	sub := b.consumer("C")
	b.publish("1", "2", "3", "4")
	b.gets(sub, true, "1")
	b.gets(sub, false, "2", "3")
	b.stop()
	b.start()
	b.align()
	b.gets(b.consumer("C"), true, "2", "3", "4")
	b.has(0)
}

// If a consumer has acknowledged messages after an unacknowledged one, only the unacknowledged one is redelivered.
func TestConsumerWithAGap(t *testing.T) {
	b := newBench(t)
	sub := b.consumer("C")
	b.publish("1", "2", "3")
	b.gets(sub, false, "1")
	b.gets(sub, true, "2")
	b.stop()
	b.start()
	b.align()
	b.gets(b.consumer("C"), true, "1", "3")
	b.has(0)
}

func TestConsumerAheadOfItsStream(t *testing.T) {
	b := newBench(t)
	sub := b.consumer("C")
	for i := range 40 {
		b.publish(fmt.Sprint(i))
		b.gets(sub, true, fmt.Sprint(i))
	}
	b.stop()
	b.loseMessages()
	b.start()
	b.align()
	sub = b.consumer("C")
	b.publish("the first after that")
	b.gets(sub, true, "the first after that")
	b.has(0)
}

// A consumer that is created late gets what others have already read. Afterwards nothing is kept.
func TestKeepMessages(t *testing.T) {
	b := newBench(t)
	release, err := guard.KeepMessages(b.js, b.cfg)
	if err != nil {
		t.Fatal(err)
	}
	b.publish("1")
	early := b.consumer("early")
	b.gets(early, true, "1")
	late := b.consumer("late")
	b.has(1)
	release()
	b.gets(late, true, "1")
	b.has(0)
	b.publish("2")
	b.gets(early, true, "2")
	b.gets(late, true, "2")
	b.has(0)
}
