package roomserver

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
	"github.com/matrix-org/dendrite/setup/config"
	"github.com/matrix-org/dendrite/setup/jetstream"
	"github.com/matrix-org/dendrite/setup/process"
	"github.com/nats-io/nats.go"
	"github.com/sirupsen/logrus"
	"golang.org/x/time/rate"
)

// ConsumerName is the durable JetStream consumer's name, before Dendrite's prefix.
const ConsumerName = "FutureServerRoomServerConsumer"

const (
	// idleThreshold is how long JetStream keeps the consumer, and messages for it, when no server uses it. So an
	// operator who returns to stock Dendrite leaves nothing behind for longer. A running server renews it all the time.
	idleThreshold = 24 * time.Hour
	// ackWait is the time after which JetStream redelivers an unacknowledged message.
	ackWait = 30 * time.Second

	pullWait = 5 * time.Second
	// gatherTime is how long a message waits so that others can join its batch. Delivering and dropping many at a time
	// is much cheaper for JetStream. By then the roomserver has usually committed the events.
	gatherTime = 50 * time.Millisecond
	gatherWait = 10 * time.Millisecond // for JetStream to deliver what it has
	pullBatch  = 256
	callWait   = 5 * time.Second // one request to JetStream

	firstPause = 100 * time.Millisecond // between attempts to reach JetStream again, doubling
	longPause  = 30 * time.Second
)

// MemberWatcher is notified when somebody joins or leaves a room.
type MemberWatcher interface {
	// InCall reports whether membership changes in the room matter.
	InCall(roomID string) bool
	// MembersChanged is called after a change, perhaps more often than needed.
	MembersChanged(roomID string)
}

// Consumer reads the roomserver's output and tells the futureserver which pieces of state have changed and which rooms
// are gone. It acknowledges a message only when the consequences are durable. It replaces Dendrite's own helper, which
// ends the process on any error.
type Consumer struct {
	process *process.ProcessContext
	cfg     *config.JetStream
	js      nats.JetStreamContext
	room    *Room
	ctx     context.Context
	cancel  context.CancelFunc
	done    chan struct{} // closed when the loop has ended; nil before Start
	log     rate.Sometimes

	futures api.RoomserverAPI
	members MemberWatcher // nil if there is none

	sub    *nats.Subscription
	missed bool // messages may have been missed since the last comparison with the rooms

	standstill standstill // of all consumers of the stream
}

// NewConsumer creates the durable consumer, so that no output is missed from now on. Call it before any future exists.
// Then let the futureserver compare its futures with the rooms once. Then call Start.
func NewConsumer(process *process.ProcessContext, js nats.JetStreamContext, room *Room) (*Consumer, error) {
	c := &Consumer{
		process: process,
		cfg:     &room.cfg.Global.JetStream,
		js:      js,
		room:    room,
		log:     rate.Sometimes{First: 3, Interval: 10 * time.Second},

		standstill: make(standstill),
	}
	c.ctx, c.cancel = context.WithCancel(process.Context())
	if err := c.subscribe(c.ctx); err != nil {
		c.cancel()
		return nil, err
	}
	c.missed = false // the futureserver compares when it starts
	return c, nil
}

func (c *Consumer) stream() string { return c.cfg.Prefixed(jetstream.OutputRoomEvent) }

func (c *Consumer) durable() string { return c.cfg.Durable(ConsumerName) }

// WatchMembers sets the watcher. Call it before Start.
func (c *Consumer) WatchMembers(watcher MemberWatcher) { c.members = watcher }

// Start begins to read, in a goroutine of its own. Call it once. Changes in rooms without state futures cost no more
// than their acknowledgement.
func (c *Consumer) Start(futures api.RoomserverAPI) {
	c.futures = futures
	c.done = make(chan struct{})
	c.process.ComponentStarted()
	go c.run()
}

// Stop ends the reading and waits for it until ctx is done. Unacknowledged messages are redelivered after the next
// start.
func (c *Consumer) Stop(ctx context.Context) error {
	c.cancel()
	if c.done == nil {
		return nil
	}
	select {
	case <-c.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Lag returns how many messages of the roomserver's output are not acknowledged yet.
func (c *Consumer) Lag(ctx context.Context) (int, error) {
	info, err := c.js.ConsumerInfo(c.stream(), c.durable(), nats.Context(ctx))
	if err != nil {
		return 0, err
	}
	return int(info.NumPending) + info.NumAckPending, nil
}

func (c *Consumer) run() {
	defer c.process.ComponentFinished()
	defer close(c.done)
	for c.ctx.Err() == nil {
		err := c.pull(c.ctx)
		for pause := firstPause; err != nil && c.ctx.Err() == nil; pause = min(2*pause, longPause) {
			c.complain(err, "Cannot read the roomserver's output")
			sleep(c.ctx, pause)
			err = c.resume(c.ctx)
		}
	}
	_ = c.sub.Unsubscribe() // the durable consumer stays
}

// subscribe makes sure that the durable consumer exists with the right settings, and binds to it.
func (c *Consumer) subscribe(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, callWait)
	defer cancel()
	if c.sub != nil {
		_ = c.sub.Unsubscribe() // its connection may be gone, and the subscription with it
	}
	_, err := c.js.ConsumerInfo(c.stream(), c.durable(), nats.Context(ctx))
	switch {
	case errors.Is(err, nats.ErrConsumerNotFound):
		c.missed = true
	case err != nil: // the consumer may be gone, and then messages have been missed
		return fmt.Errorf("looking for the JetStream consumer %s: %w", c.durable(), err)
	}
	// Despite its name UpdateConsumer creates a missing consumer. AddConsumer would refuse a consumer that an earlier
	// version has created with other settings.
	_, err = c.js.UpdateConsumer(c.stream(), &nats.ConsumerConfig{
		Durable:           c.durable(),
		DeliverPolicy:     nats.DeliverAllPolicy,
		AckPolicy:         nats.AckExplicitPolicy,
		AckWait:           ackWait,
		MaxAckPending:     -1, // messages that wait for another attempt must not block the rest
		InactiveThreshold: idleThreshold,
	}, nats.Context(ctx))
	if err != nil {
		return fmt.Errorf("creating the JetStream consumer %s: %w", c.durable(), err)
	}
	// With a context the subscription would end together with it.
	c.sub, err = c.js.PullSubscribe("", c.durable(), nats.Bind(c.stream(), c.durable()), nats.ManualAck())
	if err != nil {
		return fmt.Errorf("binding to the JetStream consumer %s: %w", c.durable(), err)
	}
	return nil
}

// resume subscribes again. If the durable consumer had vanished, it compares all rooms with state futures.
func (c *Consumer) resume(ctx context.Context) error {
	if err := c.subscribe(ctx); err != nil || !c.missed {
		return err
	}
	rooms, err := c.futures.QueryStateRooms(ctx)
	if err != nil {
		return err
	}
	for _, roomID := range rooms {
		if err := c.futures.PerformStateChange(ctx, roomID, nil); err != nil {
			return err
		}
	}
	c.missed = false
	return nil
}

// pull waits for a message and handles it, together with those that arrive a moment later.
func (c *Consumer) pull(ctx context.Context) error {
	msgs, err := c.next(ctx)
	switch {
	case err == nil && len(msgs) == 0:
		return c.lookAlive(ctx)
	case len(msgs) == 0:
		return err
	}
	sleep(ctx, gatherTime)
	more, err := c.sub.Fetch(pullBatch, nats.MaxWait(gatherWait))
	for _, msg := range append(msgs, more...) {
		c.settle(ctx, msg)
	}
	return unlessTimeout(err)
}

// next waits for one message. It returns none after a while without messages.
func (c *Consumer) next(ctx context.Context) (msgs []*nats.Msg, err error) {
	ctx, cancel := context.WithTimeout(ctx, pullWait)
	defer cancel()
	// Fetch would go on waiting when JetStream has given up, and a message that comes then would wait for the next
	// pull.
	batch, err := c.sub.FetchBatch(1, nats.Context(ctx))
	if err != nil {
		return nil, err
	}
	for msg := range batch.Messages() {
		msgs = append(msgs, msg)
	}
	return msgs, unlessTimeout(batch.Error())
}

// lookAlive returns an error if the durable consumer has vanished. JetStream does not answer a pull from a consumer
// that no longer exists.
func (c *Consumer) lookAlive(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, callWait)
	defer cancel()
	_, err := c.js.ConsumerInfo(c.stream(), c.durable(), nats.Context(ctx))
	return err
}

func unlessTimeout(err error) error {
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, nats.ErrTimeout) {
		return nil
	}
	return err
}

// settle handles a message and acknowledges it, or has it redelivered later.
func (c *Consumer) settle(ctx context.Context, msg *nats.Msg) {
	tries := uint64(1)
	if meta, err := msg.Metadata(); err == nil {
		tries = meta.NumDelivered
	}
	var err error
	if err = ctx.Err(); err == nil {
		err = c.apply(ctx, msg, tries)
	}
	if err == nil {
		err = msg.Ack()
	} else {
		err = errors.Join(err, msg.NakWithDelay(min(time.Second<<min(tries-1, 10), longPause)))
	}
	if err != nil && ctx.Err() == nil && !errors.Is(err, api.ErrStopping) {
		c.complain(err, "Cannot apply the roomserver's output yet")
	}
}

func (c *Consumer) complain(err error, message string) {
	c.log.Do(func() { logrus.WithError(err).Warn(message) })
}

// sleep returns false if ctx is done first.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
