package rtc

import (
	"context"
	"time"
)

const (
	pollInterval = 30 * time.Second
	firstBackoff = time.Second // after a failed poll; grows by half with each further one
	mostBackoff  = time.Minute
)

// present holds the participants that the SFUs list: the sid of each connection, by identity.
type present map[string]string

// poll asks the SFUs for the participants of the call at intervals, until ctx ends. Webhooks can be lost, because LiveKit
// retries them for a short time only.
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
