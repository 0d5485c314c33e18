package judge

import (
	"slices"

	"github.com/tidwall/gjson"
)

// trial is the state of one call of Judge.
type trial struct {
	Report
	states map[seat][]*state
	events map[string][]event // by mark, without repeats of the same event
}

type event struct {
	id string
	ts int64 // origin_server_ts
}

// read collects the events of futures from the timelines. Dendrite sometimes shows the same event twice, so events are
// counted by their IDs.
func (c *trial) read(timelines map[string][]gjson.Result, futures map[string]*Future) {
	seen := make(map[string]bool)
	for room, timeline := range timelines {
		for _, e := range timeline {
			mark, id := e.Get("content."+Mark).String(), e.Get("event_id").String()
			if mark == "" || seen[id] {
				continue
			}
			seen[id] = true
			f := futures[mark]
			if f == nil || f.Room != room {
				c.problem(&c.Unasked, "event %s in %s belongs to no future", id, room)
				continue
			}
			c.Sent++
			c.events[mark] = append(c.events[mark], event{id, e.Get("origin_server_ts").Int()})
		}
	}
}

// group judges all futures of one group together.
func (c *trial) group(group []*Future) {
	sent, worked := 0, 0
	for _, f := range group {
		sent += len(c.events[f.Mark])
		for _, e := range c.events[f.Mark] {
			c.event(f, e)
		}
		worked += f.count(Send, func(a *attempt) bool { return a.status == 200 })
		c.tokens(f)
	}
	if sent > 1 {
		c.problem(&c.Doubled, "group %s has sent %d events", group[0].Group, sent)
	}
	if worked > 1 {
		c.problem(&c.Respent, "%d send tokens of group %s have worked", worked, group[0].Group)
	}
	if sent == 0 {
		c.silent(group)
	}
	for _, f := range group {
		c.outcome(f, sent > 0)
	}
}

// event checks an event: was it due, and had its future not been cancelled or replaced by newer state?
func (c *trial) event(f *Future, e event) {
	if f.refused {
		c.problem(&c.Unasked, "%s was refused, yet event %s came", f.Mark, e.id)
	}
	if f.count(Cancel, func(a *attempt) bool { return a.status == 200 }) > 0 {
		c.problem(&c.Revived, "%s was cancelled, yet event %s came", f.Mark, e.id)
	}
	if by := c.staleBy(f, e); by > 0 {
		c.problem(&c.Stale, "%s came %d ms after newer state had been accepted, before its deadline", f.Mark, by)
	}
	if f.count(Send, (*attempt).maybe) > 0 {
		return // it may have been sent at any time
	}
	if f.Timeout == 0 {
		c.problem(&c.Unasked, "%s is an action future and nobody used its send token, yet event %s came", f.Mark, e.id)
		return
	}
	if early := f.earliest() - e.ts; early > 0 {
		c.problem(&c.Early, "%s came %d ms before its deadline", f.Mark, early)
	}
	if f.answered != 0 {
		c.lateness = append(c.lateness, e.ts-f.latest())
	}
}

// tokens checks one future's answers: at most one use of a send or cancel token may succeed.
func (c *trial) tokens(f *Future) {
	ended := func(a *attempt) bool { return a.status == 200 }
	if sends, cancels := f.count(Send, ended), f.count(Cancel, ended); sends+cancels > 1 {
		c.problem(&c.Respent, "the tokens of %s have sent it %d times and cancelled it %d times", f.Mark, sends, cancels)
	}
	if len(c.events[f.Mark]) == 0 && f.count(Send, ended) > 0 {
		c.problem(&c.Lost, "the send token of %s was answered with 200, but no event came", f.Mark)
	}
}

// silent checks a group without an event: each of its timeout futures must have a reason for it.
func (c *trial) silent(group []*Future) {
	for _, f := range group {
		if f.answered != 0 && f.Timeout != 0 && f.count(Cancel, (*attempt).maybe) == 0 && !c.newerState(f) {
			c.problem(&c.Lost, "%s, accepted, is not in the room, and nobody wanted that", f.Mark)
		}
	}
}

// outcome counts the outcome of an accepted future that was not sent.
func (c *trial) outcome(f *Future, groupSent bool) {
	switch {
	case f.answered == 0 || len(c.events[f.Mark]) > 0:
	case f.count(Cancel, func(a *attempt) bool { return a.status == 200 }) > 0:
		c.Cancelled++
	case !groupSent && f.Timeout != 0 && c.newerState(f):
		c.Invalidated++
	default:
		c.Discarded++
	}
}

// newerState reports whether a client has, or may have, set the future's piece of state since the future was requested.
func (c *trial) newerState(f *Future) bool {
	return slices.ContainsFunc(c.about(f), func(s *state) bool { return s.end == 0 || s.end >= f.scheduled })
}

// staleBy returns by how many ms newer state that should have prevented the event preceded it; 0 if there is none.
func (c *trial) staleBy(f *Future, e event) int64 {
	for _, s := range c.about(f) {
		if s.end != 0 && f.answered != 0 && s.start > f.answered && s.end < f.earliestAt(s.end) && s.end < e.ts {
			return e.ts - s.end
		}
	}
	return 0
}

// about returns the ordinary state events for the future's piece of state.
func (c *trial) about(f *Future) []*state {
	if f.StateKey == nil {
		return nil
	}
	return c.states[seat{f.Room, f.Type, *f.StateKey}]
}

// count returns how many uses of a token for the verb satisfy the condition.
func (f *Future) count(verb Verb, condition func(*attempt) bool) int {
	n := 0
	for _, a := range f.attempts {
		if a.verb == verb && condition(a) {
			n++
		}
	}
	return n
}

// earliest returns a lower bound of the deadline, according to the acknowledged refreshes.
func (f *Future) earliest() int64 { return f.earliestAt(now()) }

// earliestAt is the same for the refreshes that had been acknowledged at time t.
func (f *Future) earliestAt(t int64) int64 {
	last := f.scheduled
	for _, a := range f.attempts {
		if a.verb == Refresh && a.status == 200 && a.end <= t {
			last = max(last, a.start)
		}
	}
	return last + f.Timeout.Milliseconds()
}

// latest returns an upper bound of the deadline, unless an unanswered request arrived late.
func (f *Future) latest() int64 {
	last := f.answered
	for _, a := range f.attempts {
		if a.verb == Refresh {
			last = max(last, a.start, a.end)
		}
	}
	return last + f.Timeout.Milliseconds()
}
