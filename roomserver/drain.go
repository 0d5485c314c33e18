package roomserver

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/matrix-org/dendrite/setup/jetstream"
	"github.com/nats-io/nats.go"
)

// Drained waits until Dendrite's components have handled all events that were handed to the roomserver, or until ctx is
// done. The shutdown needs it: Dendrite closes its databases while its consumers still run, and a consumer that still
// has something to write panics. Our own consumer is not counted, because it may have been stopped already.
func (c *Consumer) Drained(ctx context.Context) error {
	// In the order in which events pass: each stage publishes to the next before it acknowledges.
	for _, stage := range []func(context.Context) (int, error){c.inputLeft, c.outputLeft, c.appserviceLeft} {
		for pause := time.Millisecond; ; pause = min(2*pause, commitPause) {
			left, err := stage(ctx)
			if err != nil {
				return fmt.Errorf("waiting for Dendrite's event streams: %w", err)
			}
			if left == 0 {
				break
			}
			if !sleep(ctx, pause) {
				return fmt.Errorf("Dendrite's event streams still hold %d messages: %w", left, ctx.Err())
			}
		}
	}
	return nil
}

// The streams have interest retention: a message is removed when all consumers have acknowledged it.
func (c *Consumer) inputLeft(ctx context.Context) (int, error) {
	return c.messages(ctx, jetstream.InputRoomEvent)
}

func (c *Consumer) appserviceLeft(ctx context.Context) (int, error) {
	return c.messages(ctx, jetstream.OutputAppserviceEvent)
}

func (c *Consumer) messages(ctx context.Context, stream string) (int, error) {
	info, err := c.js.StreamInfo(c.cfg.Prefixed(stream), nats.Context(ctx))
	if err != nil {
		return 0, err
	}
	return int(info.State.Msgs), nil
}

// outputLeft returns how many messages the slowest of Dendrite's consumers has left.
func (c *Consumer) outputLeft(ctx context.Context) (int, error) {
	left, err := c.messages(ctx, jetstream.OutputRoomEvent)
	if err != nil || left == 0 {
		return 0, err
	}
	left, seen := 0, false
	for info := range c.js.Consumers(c.stream(), nats.Context(ctx)) {
		seen = true
		if info.Name != c.durable() {
			left = max(left, int(info.NumPending)+info.NumAckPending)
		}
	}
	switch {
	case ctx.Err() != nil:
		return 0, ctx.Err()
	case !seen:
		return 0, errors.New("cannot list the consumers of the roomserver's output")
	}
	return left, nil
}
