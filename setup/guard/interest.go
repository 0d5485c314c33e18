package guard

import (
	"errors"
	"fmt"
	"time"

	"github.com/matrix-org/dendrite/setup/config"
	"github.com/matrix-org/dendrite/setup/jetstream"
	"github.com/nats-io/nats.go"
	"github.com/sirupsen/logrus"
)

// The fault: Dendrite's streams have interest retention, so JetStream drops a message when all existing consumers have
// acknowledged it. A consumer may be missing at start, because JetStream is in memory, or because its directory or a
// file in it is lost. Dendrite creates it only after other consumers have begun to read, and it never sees what they
// read before: an event in the room is missing in /sync. Reproduced by: TestNothingFiresBeforeTheReaders, and
// TestTornFolder with a removed consumer, while the roomserver had messages to finish. Can go when Dendrite creates all
// consumers before it starts any component.

const (
	// keeperName is the consumer that keeps messages during the start, without Dendrite's prefix.
	keeperName = "FutureServerStart"
	// keeperPatience is the time after which JetStream removes that consumer by itself, if the start was cut short.
	keeperPatience = 10 * time.Minute
)

// streamNames are Dendrite's streams, without its prefix.
func streamNames() []string {
	return []string{
		jetstream.InputRoomEvent, jetstream.InputDeviceListUpdate, jetstream.InputSigningKeyUpdate,
		jetstream.OutputRoomEvent, jetstream.OutputAppserviceEvent, jetstream.OutputSendToDeviceEvent,
		jetstream.OutputKeyChangeEvent, jetstream.OutputTypingEvent, jetstream.OutputClientData,
		jetstream.OutputReceiptEvent, jetstream.OutputNotificationData, jetstream.OutputPresenceEvent,
	}
}

// KeepMessages makes JetStream drop no message until release is called, when all of Dendrite's consumers exist. Call it
// before any of Dendrite's components starts.
func KeepMessages(js nats.JetStreamContext, cfg *config.JetStream) (release func(), err error) {
	keeper := cfg.Durable(keeperName)
	var kept []string
	release = func() {
		for _, stream := range kept {
			if err := js.DeleteConsumer(stream, keeper); err != nil && !errors.Is(err, nats.ErrConsumerNotFound) {
				logrus.WithError(err).Warnf("JetStream keeps the messages of %s for %s longer than needed", stream, keeperPatience)
			}
		}
	}
	for _, name := range streamNames() {
		stream := cfg.Prefixed(name)
		_, err := js.AddConsumer(stream, &nats.ConsumerConfig{
			Name:              keeper,
			AckPolicy:         nats.AckExplicitPolicy,
			DeliverPolicy:     nats.DeliverAllPolicy,
			InactiveThreshold: keeperPatience,
			MemoryStorage:     true,
		})
		if err != nil {
			release()
			return nil, fmt.Errorf("creating the JetStream consumer %s on %s: %w", keeper, stream, err)
		}
		kept = append(kept, stream)
	}
	return release, nil
}
