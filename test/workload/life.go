package workload

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"time"

	"github.com/matrix-org/dendrite/futures/test/judge"
	"github.com/matrix-org/dendrite/futures/test/rig"
)

// life is one user's activity: one group of futures after the other.
type life struct {
	crowd        *Crowd
	user         *rig.User
	anybody      *rig.Client // without a login
	rooms        []string
	random       *rand.Rand
	name         string
	marks, seats int
}

// future is one future of the user.
type future struct {
	record *judge.Future
	tokens rig.Future
}

// group schedules a group of futures, acts on it for a while, and leaves the rest to the server.
func (l *life) group(ctx context.Context) {
	l.marks++
	name := fmt.Sprintf("%s/%d", l.name, l.marks)
	room := l.rooms[l.random.IntN(len(l.rooms))]
	if l.random.IntN(4) == 0 {
		l.delayed(ctx, name, room)
		return
	}
	var stateKey *string
	if l.random.IntN(3) == 0 {
		stateKey = &name // nobody else's seat
		l.takeSeat(ctx, room, name)
	}
	timers, actions := 1+l.random.IntN(2), l.random.IntN(3)
	var futures []*future
	for i := range timers + actions {
		spec := judge.Spec{
			Mark: fmt.Sprintf("%s.%d", name, i), Room: room, Group: name, Type: "m.room.message", StateKey: stateKey,
		}
		if stateKey != nil {
			spec.Type = eventType
		}
		if i < timers {
			spec.Timeout = l.between(shortest, longest)
		}
		if f := l.schedule(ctx, spec); f != nil {
			futures = append(futures, f)
		}
	}
	for range l.random.IntN(6) {
		if len(futures) == 0 || !l.pause(ctx, l.between(0, longest/3)) {
			return
		}
		l.act(ctx, futures[l.random.IntN(len(futures))])
	}
}

// act does a random action on a future, most often a refresh.
func (l *life) act(ctx context.Context, f *future) {
	switch n := l.random.IntN(10); {
	case n < 5 && f.tokens.Refresh != "":
		l.use(ctx, f, judge.Refresh, f.tokens.Refresh)
	case n < 7:
		l.use(ctx, f, judge.Cancel, f.tokens.Cancel)
	case n < 8 || f.record.StateKey == nil:
		l.use(ctx, f, judge.Send, f.tokens.Send)
	default:
		l.takeSeat(ctx, f.record.Room, *f.record.StateKey)
	}
}

// schedule creates a future. It returns nil if the server refused it or the outcome is unknown. It retries the request for
// a message future with the same transaction. State futures have no transactions, so it does not retry these.
func (l *life) schedule(ctx context.Context, s judge.Spec) *future {
	content := map[string]any{"msgtype": "m.text", "body": "later", judge.Mark: s.Mark}
	path := rig.Path("rooms", s.Room, "send_future", s.Type, s.Mark)
	if s.StateKey != nil {
		path = rig.Path("rooms", s.Room, "state_future", s.Type, *s.StateKey)
	}
	query := rig.Params{Timeout: s.Timeout, Group: s.Group}.Query()
	f := &future{record: l.crowd.Judge.Schedule(s)}
	for ctx.Err() == nil {
		r, ok := l.ask(ctx, &l.user.Client, http.MethodPut, path, query, content)
		if ok {
			f.record.Answered(r.Status)
			if r.Status != http.StatusOK {
				return nil
			}
			f.tokens = r.Future()
			f.record.Tokens = []string{f.tokens.Send, f.tokens.Cancel}
			if s.Timeout > 0 {
				f.record.Tokens = append(f.record.Tokens, f.tokens.Refresh)
			}
			return f
		}
		if s.StateKey != nil || !l.pause(ctx, retryPause) {
			return nil
		}
	}
	return nil
}

// use uses a token until the server answers.
func (l *life) use(ctx context.Context, f *future, verb judge.Verb, token string) {
	for ctx.Err() == nil {
		answered := f.record.Use(verb)
		r, ok := l.ask(ctx, l.anybody, http.MethodPost, rig.Path("futures", token), nil, nil)
		if ok {
			answered(r.Status)
			return
		}
		l.pause(ctx, retryPause)
	}
}

// takeSeat sends an ordinary state event. It does not retry: after an error the event may be in the room.
func (l *life) takeSeat(ctx context.Context, room, key string) {
	l.seats++ // Dendrite makes no new event of state that changes nothing
	answered := l.crowd.Judge.State(room, eventType, key)
	path := rig.Path("rooms", room, "state", eventType, key)
	if r, ok := l.ask(ctx, &l.user.Client, http.MethodPut, path, nil, map[string]any{"taken": l.seats}); ok && r.Status == http.StatusOK {
		answered()
	}
}

// ask sends a request. ok is false if there was no answer or its status was 500 or more. The request is not cancelled when
// ctx ends.
func (l *life) ask(ctx context.Context, c *rig.Client, method, path string, query url.Values, content any) (r rig.Response, ok bool) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), requestTimeout)
	defer cancel()
	r, err := c.Do(ctx, method, path, query, content)
	return r, err == nil && r.Status < http.StatusInternalServerError
}

// pause waits for d. It returns false if ctx ends first.
func (l *life) pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}

// between draws a duration in whole milliseconds, as timeouts are.
func (l *life) between(low, high time.Duration) time.Duration {
	return low + time.Duration(l.random.Int64N((high-low).Milliseconds()))*time.Millisecond
}
