// Package judge checks afterwards, from the clients' view, whether a server kept its promises about futures. Clients tell
// it what they requested and what was answered; then it reads the rooms' timelines. It does not look into the server. If
// the answer to a request was lost, it assumes the outcome that is best for the server.
package judge

import (
	"sync"
	"time"

	"github.com/tidwall/gjson"
)

// Mark is the key in an event's content that identifies the event's future.
const Mark = "mark"

// Verb is what a token was used for.
type Verb uint8

const (
	Send Verb = iota
	Cancel
	Refresh
)

// Spec is the request for a future.
type Spec struct {
	Mark     string // unique; in the content under Mark
	Room     string
	Group    string // unique; the client's own name for it
	Timeout  time.Duration
	Type     string
	StateKey *string // nil for a message
}

// Future is the record of one future. Its methods may be called from several goroutines.
type Future struct {
	Spec
	Tokens []string // set once, before the future is used

	mu        sync.Mutex
	scheduled int64 // Unix ms when the request was first sent; the deadline is not before this + Timeout
	answered  int64 // Unix ms when it was answered with 200; 0 if it was not
	refused   bool  // it was answered with an error below 500
	attempts  []*attempt
}

// attempt is one use of a token. Its status is 0 until there is an answer.
type attempt struct {
	verb       Verb
	start, end int64
	status     int
}

// maybe reports whether the server may have carried out the request.
func (a *attempt) maybe() bool { return a.status == 0 || a.status == 200 || a.status >= 500 }

// seat is one piece of the rooms' state.
type seat struct {
	room, eventType, key string
}

// state is one ordinary state event that a client sent.
type state struct {
	start, end int64 // end is 0 as long as it is not known whether the event is in the room
}

// Judge collects the records. The zero value is ready for use.
type Judge struct {
	mu      sync.Mutex
	futures map[string]*Future
	states  map[seat][]*state
}

// now returns the time in Unix ms, as in events. It rounds down, which is safe for all comparisons.
func now() int64 { return time.Now().UnixMilli() }

// Schedule must be called before the request that schedules a future is sent.
func (j *Judge) Schedule(s Spec) *Future {
	f := &Future{Spec: s, scheduled: now()}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.futures == nil {
		j.futures = make(map[string]*Future)
	}
	j.futures[s.Mark] = f
	return f
}

// Answered must be called with the status of the response. Without a response it must not be called.
func (f *Future) Answered(status int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case status == 200:
		f.answered = now()
	case status < 500:
		f.refused = true
	}
}

// Use must be called before a token is used. The caller passes the status of the response to the function that it returns.
// Without a response that function must not be called.
func (f *Future) Use(verb Verb) (answered func(status int)) {
	a := &attempt{verb: verb, start: now()}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.attempts = append(f.attempts, a)
	return func(status int) {
		f.mu.Lock()
		defer f.mu.Unlock()
		a.status, a.end = status, now()
	}
}

// State must be called before an ordinary state event is sent to a key that futures may set. The caller calls the function
// that it returns when the request was answered with 200.
func (j *Judge) State(room, eventType, key string) (answered func()) {
	s, about := &state{start: now()}, seat{room, eventType, key}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.states == nil {
		j.states = make(map[seat][]*state)
	}
	j.states[about] = append(j.states[about], s)
	return func() {
		j.mu.Lock()
		defer j.mu.Unlock()
		s.end = now()
	}
}

// Tokens returns the tokens of all accepted futures.
func (j *Judge) Tokens() []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	var tokens []string
	for _, f := range j.futures {
		tokens = append(tokens, f.Tokens...)
	}
	return tokens
}

// Judge compares the records with the timelines of all rooms. Futures that are still pending count as lost.
func (j *Judge) Judge(timelines map[string][]gjson.Result) Report {
	j.mu.Lock()
	defer j.mu.Unlock()
	c := trial{states: j.states, events: make(map[string][]event)}
	c.read(timelines, j.futures)
	groups := make(map[string][]*Future)
	for _, f := range j.futures {
		f.mu.Lock()
		defer f.mu.Unlock()
		groups[f.Group] = append(groups[f.Group], f)
		if f.answered != 0 {
			c.Accepted++
		}
	}
	for _, group := range groups {
		c.group(group)
	}
	return c.Report
}
