package guard

import (
	"errors"
	"fmt"
	"time"

	"github.com/matrix-org/dendrite/setup/config"
	"github.com/nats-io/nats.go"
	"github.com/sirupsen/logrus"
)

// The faults: (1) After a full disk and a crash nats-server 2.11 may start a stream again at 0, while its consumers
// keep their positions. They then skip as many messages as they had ever processed. A client's sends got no answer
// until the 47th, after 40 earlier ones. (2) JetStream redelivers the messages that a consumer had not acknowledged
// when the server was killed only after the consumer's AckWait. Clients saw an event up to 30 s late, and a room's
// input could wait for 5 min 10 s. Reproduced by: TestFullDisk and TestInHand. Can go when nats-server checks consumers
// against their stream at start, and Dendrite releases unacknowledged messages at start.

const releaseWait = 2 * time.Second // for JetStream to confirm

// AlignConsumers compares all durable consumers with their streams. It recreates a consumer that is ahead of its
// stream, and makes JetStream redeliver unacknowledged messages at once. Call it while KeepMessages keeps the messages,
// and before any of Dendrite's components starts.
func AlignConsumers(conn *nats.Conn, js nats.JetStreamContext, cfg *config.JetStream) error {
	for _, name := range streamNames() {
		name = cfg.Prefixed(name)
		var consumers []*nats.ConsumerInfo // collected first, because JetStream lists them page by page
		for consumer := range js.Consumers(name) {
			consumers = append(consumers, consumer)
		}
		stream, err := js.StreamInfo(name)
		if err != nil {
			return fmt.Errorf("looking at the JetStream stream %s: %w", name, err)
		}
		if len(consumers) < stream.State.Consumers {
			return fmt.Errorf("JetStream lists %d of the %d consumers of %s", len(consumers), stream.State.Consumers, name)
		}
		for _, consumer := range consumers {
			if err := align(conn, js, stream, consumer); err != nil {
				return fmt.Errorf("the JetStream consumer %s of %s: %w", consumer.Name, name, err)
			}
		}
	}
	return nil
}

func align(conn *nats.Conn, js nats.JetStreamContext, stream *nats.StreamInfo, c *nats.ConsumerInfo) error {
	if c.Config.Durable == "" {
		if c.Config.DeliverSubject == "" || c.PushBound {
			return nil
		}
		// A consumer of a process that is gone. For some seconds JetStream would keep messages for it, and a stop would
		// wait for them.
		if err := js.DeleteConsumer(c.Stream, c.Name); !errors.Is(err, nats.ErrConsumerNotFound) {
			return err
		}
		return nil
	}
	last := stream.State.LastSeq
	if ahead := max(c.AckFloor.Stream, c.Delivered.Stream); ahead > last {
		logrus.Warnf("JetStream's stream %s has restarted: its consumer %s was at message %d, but the last message is %d. The consumer is created again",
			c.Stream, c.Name, ahead, last)
		return recreate(js, c)
	}
	if c.NumAckPending > 0 {
		return redeliver(conn, c)
	}
	return nil
}

// recreate creates the consumer again at the beginning of its stream. All messages in the stream are newer than those
// that the consumer has seen.
func recreate(js nats.JetStreamContext, c *nats.ConsumerInfo) error {
	if err := js.DeleteConsumer(c.Stream, c.Name); err != nil {
		return err
	}
	_, err := js.AddConsumer(c.Stream, &c.Config)
	return err
}

// redeliver refuses the consumer's unacknowledged messages on behalf of the process that is gone. JetStream ignores
// numbers that are not unacknowledged.
func redeliver(conn *nats.Conn, c *nats.ConsumerInfo) error {
	var last string
	for seq := c.AckFloor.Stream + 1; seq <= c.Delivered.Stream; seq++ {
		// The subject for the acknowledgement of a message.
		last = fmt.Sprintf("$JS.ACK.%s.%s.1.%d.%d.0.0", c.Stream, c.Name, seq, c.Delivered.Consumer)
		if err := conn.Publish(last, []byte("-NAK")); err != nil {
			return err
		}
	}
	if _, err := conn.Request(last, []byte("-NAK"), releaseWait); errors.Is(err, nats.ErrTimeout) {
		logrus.Warnf("JetStream may redeliver the unacknowledged messages of %s only after %s", c.Name, c.Config.AckWait)
		return nil
	} else if err != nil {
		return err
	}
	logrus.Infof("JetStream redelivers %d messages that its consumer %s had not acknowledged", c.NumAckPending, c.Name)
	return nil
}
