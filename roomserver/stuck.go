package roomserver

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
)

// standstill records the position of each consumer of the roomserver's output, and since when it has been there.
type standstill map[string]floorSeen

type floorSeen struct {
	floor uint64 // all messages up to here are acknowledged
	since time.Time
}

// Stuck returns the names of the consumers of the roomserver's output, Dendrite's and ours, that have had
// unacknowledged messages for longer than limit without acknowledging any. Only one goroutine may call it at a time.
func (c *Consumer) Stuck(ctx context.Context, limit time.Duration) ([]string, error) {
	var infos []*nats.ConsumerInfo
	for info := range c.js.Consumers(c.stream(), nats.Context(ctx)) {
		infos = append(infos, info)
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if len(infos) == 0 {
		return nil, errors.New("cannot list the consumers of the roomserver's output")
	}
	return c.standstill.look(infos, time.Now(), limit), nil
}

// look updates the positions. A message that is redelivered again and again holds its consumer's position.
func (s standstill) look(infos []*nats.ConsumerInfo, now time.Time, limit time.Duration) (stuck []string) {
	for _, info := range infos {
		before, known := s[info.Name]
		idle := info.NumPending == 0 && info.NumAckPending == 0
		switch {
		case !known, idle, info.AckFloor.Stream != before.floor:
			s[info.Name] = floorSeen{info.AckFloor.Stream, now}
		case now.Sub(before.since) > limit:
			stuck = append(stuck, info.Name)
		}
	}
	slices.Sort(stuck)
	return stuck
}
