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

// The fault: Dendrite's streams have interest policy, so JetStream drops a message when all consumers that exist have
// acknowledged it. A consumer that is missing at start, because JetStream works in memory, or its directory or a file in
// it is lost, is created only after others have begun to read, and never sees what they read until then: an event in the
// room and not in /sync. How it was reproduced: TestNothingFiresBeforeTheReaders, and TestTornFolder with a removed
// consumer, while the roomserver had messages to finish. It can go when Dendrite creates all consumers before it starts
// any component.

const (
	// keeperName is the consumer that keeps messages during the start, before Dendrite's prefix.
	keeperName = "FutureServerStart"
	// keeperPatience is after how long JetStream removes it by itself, if the start was cut short.
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

// KeepMessages has JetStream drop nothing until release is called: when all of Dendrite's consumers exist. Call it before
// any of Dendrite's components starts.
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
