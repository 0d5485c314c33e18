package rtc

import (
	"context"
	"time"
)

const (
	pollInterval = 30 * time.Second
	firstBackoff = time.Second // after a poll that has failed; half as much again after each further one
	mostBackoff  = time.Minute
)

// present says which participants are on the SFUs, with the sid of each one's connection.
type present map[string]string

// poll asks the SFUs now and then who is in the call, until ctx ends. Webhooks get lost: LiveKit tries again for a short
// while only.
func (d *delegates) poll(ctx context.Context, c callKey) {
	pause, backoff := pollInterval, firstBackoff
	for {
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return
		}
		there, err := d.look(ctx, c)
		if ctx.Err() != nil {
			return
		}
		d.polled(c, there, err)
		if err == nil {
			pause, backoff = pollInterval, firstBackoff
		} else {
			pause, backoff = backoff, min(backoff*3/2, mostBackoff)
		}
	}
}
