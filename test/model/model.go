// Package model is the specification of futures as a small program. It decides what an observer of requests, answers and
// rooms may see. It knows nothing about the inside of the server. Tests report to it what happened, and it returns an error
// for what must not happen (docs/architecture.md, "Invariants"; docs/gen0-requirements.md, sections 4 and 5).
package model

import (
	"errors"
	"fmt"
	"time"
)

// World holds all requests and their outcomes.
type World struct {
	// Slack is how much later than its deadline a refreshed future may fire after a crash.
	Slack time.Duration
	// Grace is how late a future may be because the machine is slow.
	Grace time.Duration

	futures []*Future
	groups  map[string]*Group
}

// Group is a set of futures of which at most one reaches a room.
type Group struct {
	Name    string
	Members []*Future
	over    bool // its end has been seen: an event, or the end of its last timeout future
	doubt   bool // it may have ended unseen: its room refused events, or a creation in it had no answer
}

// Future is one accepted request.
type Future struct {
	Name    string
	Group   *Group
	Room    string
	Sets    string        // its piece of state; "" for a message
	Key     string        // the piece of state whose newer state ends it; "" if none does
	Timeout time.Duration // 0: an action future

	// The timer runs out between these two times.
	earliest, latest time.Time
	stored           time.Time // upper bound of the stored deadline, which counts after a crash
	asked            bool      // its send token was used, and no answer said that this failed
	dead             bool      // it certainly was cancelled or invalidated
	silenced         bool      // newer state was set before the deadline: it must not be sent
	mayDie           bool      // newer state was set: the server ends it once it is notified
	Sent             time.Time // when its event reached the room
}

// New returns an empty world.
func New(slack, grace time.Duration) *World {
	return &World{Slack: slack, Grace: grace, groups: map[string]*Group{}}
}

// Created records a request that was answered 200; its timer was started between asked and answered.
func (w *World) Created(f *Future, group string, asked, answered time.Time) {
	g := w.groups[group]
	if g == nil {
		g = &Group{Name: group}
		w.groups[group] = g
	}
	f.Group = g
	g.Members = append(g.Members, f)
	f.earliest, f.latest = asked.Add(f.Timeout), answered.Add(f.Timeout)
	f.stored = f.latest
	w.futures = append(w.futures, f)
}

// Unanswered records a request to create a future that had no answer.
func (w *World) Unanswered(group string) {
	if w.groups[group] == nil {
		w.groups[group] = &Group{Name: group}
	}
	w.groups[group].doubt = true
}

// GroupOpen returns 1 if the group certainly is open, -1 if it certainly is over, and 0 if this is not known.
func (w *World) GroupOpen(group string, now time.Time) int {
	g := w.groups[group]
	switch {
	case g != nil && g.doubt:
		return 0
	case g == nil || g.over:
		return -1
	case !g.mayBeOver(now):
		return 1
	}
	return 0
}

// Refreshed judges the answer to a refresh token.
func (w *World) Refreshed(f *Future, ok bool, asked, answered time.Time) error {
	if !ok {
		return w.gone(f, asked)
	}
	if err := f.mustBeLive("refreshed"); err != nil {
		return err
	}
	f.earliest, f.latest = asked.Add(f.Timeout), answered.Add(f.Timeout)
	f.stored = later(f.stored, f.latest.Add(w.Slack))
	return nil
}

// Cancelled judges the answer to a cancel token.
func (w *World) Cancelled(f *Future, ok bool, asked time.Time) error {
	if !ok {
		return w.gone(f, asked)
	}
	if err := f.mustBeLive("cancelled"); err != nil {
		return err
	}
	f.dead = true
	f.Group.settle()
	return nil
}

// Asked records that a send token is about to be used.
func (w *World) Asked(f *Future) { f.asked = true }

// Answer is how a send token's use ended.
type Answer uint8

const (
	OK      Answer = iota // 200
	Gone                  // 410
	Refused               // the error that /send would have given: the future stays as it was
	Unclear               // no answer
)

// Answered judges the answer to a send token.
func (w *World) Answered(f *Future, a Answer, asked time.Time) error {
	switch {
	case a == OK && f.Sent.IsZero():
		return fmt.Errorf("%s: its send token answered 200 and there is no event", f.Name)
	case a == Gone:
		return w.gone(f, asked)
	case a == Refused:
		f.asked = false
	}
	return nil
}

// gone judges a 410 for a request made at that time.
func (w *World) gone(f *Future, asked time.Time) error {
	if f.dead || f.mayDie || f.Group.mayBeOver(asked) {
		return nil
	}
	return fmt.Errorf("%s: 410, but it is scheduled until %v", f.Name, f.earliest)
}

// NewerState records that another event was answered 200 as the room's state for that key. If heard, the server
// has also been told, and has closed the futures.
func (w *World) NewerState(room, key string, heard bool, now time.Time) {
	for _, f := range w.futures {
		if f.Room != room || f.Key != key || f.Key == "" || f.over() {
			continue
		}
		f.mayDie = true
		f.silenced = f.silenced || now.Before(f.earliest) && !f.asked
		f.dead = f.dead || f.silenced && heard
		f.Group.settle()
	}
}

// RoomRefuses records that the room refuses events, so that its futures may end without one.
func (w *World) RoomRefuses(room string) {
	for _, f := range w.futures {
		if f.Room == room && !f.over() {
			f.Group.doubt = true
		}
	}
}

// ClockSet records that the wall clock was set while the server was down: to the server every deadline has moved
// by as much. Set back, it delays, by a timeout at the most; set forward, it is as if the time had passed.
func (w *World) ClockSet(by time.Duration, now time.Time) {
	for _, f := range w.futures {
		if f.Timeout == 0 || f.over() {
			continue
		}
		f.latest, f.stored = f.latest.Add(by), f.stored.Add(by)
		if !now.Before(f.earliest) {
			continue // its timer may have run out before, and its event may be on its way
		}
		f.earliest = f.earliest.Add(by)
		if full := now.Add(f.Timeout); f.earliest.After(full) {
			f.earliest = full
		}
	}
}

// Restarted records that the server is back after a crash.
func (w *World) Restarted(now time.Time) {
	for _, f := range w.futures {
		if f.Timeout == 0 || f.over() {
			continue
		}
		late := f.stored
		if full := now.Add(f.Timeout); late.After(full) {
			late = full
		}
		f.latest = later(late, now)
	}
}

// Happened judges an event that has appeared in its room at that time; dated is its origin_server_ts.
func (w *World) Happened(f *Future, dated, at time.Time) error {
	switch {
	case !f.Sent.IsZero():
		return fmt.Errorf("%s: doubled", f.Name)
	case f.dead || f.silenced:
		return fmt.Errorf("%s: sent, though it was cancelled or invalidated before", f.Name)
	case !f.asked && f.Timeout == 0:
		return fmt.Errorf("%s: an action future was sent without its token", f.Name)
	case !f.asked && dated.Before(f.earliest):
		return fmt.Errorf("%s: early by %v", f.Name, f.earliest.Sub(dated))
	}
	for _, m := range f.Group.Members {
		if !m.Sent.IsZero() {
			return fmt.Errorf("%s: the group has sent %s already", f.Name, m.Name)
		}
	}
	f.Sent = at
	f.Group.over = true
	if f.Sets != "" {
		for _, o := range w.futures {
			if o != f && o.Room == f.Room && o.Key == f.Sets && !o.over() {
				o.mayDie = true
				o.Group.settle()
			}
		}
	}
	return nil
}

// Late returns an error for each timeout future that should have fired by now and whose group has no event.
func (w *World) Late(now time.Time) error {
	var errs []error
	for _, g := range w.groups {
		for _, f := range g.Members {
			if !g.over && !g.doubt && f.Timeout != 0 && !f.dead && !f.mayDie && now.After(f.latest.Add(w.Grace)) {
				errs = append(errs, fmt.Errorf("%s: lost or late: it should have fired at %v", f.Name, f.latest))
			}
		}
	}
	return errors.Join(errs...)
}

// Horizon returns a time at which every timer has run out.
func (w *World) Horizon() (t time.Time) {
	for _, f := range w.futures {
		t = later(t, f.latest)
	}
	return t
}

func (f *Future) over() bool { return f.dead || f.Group.over }

func (f *Future) mustBeLive(what string) error {
	if f.over() {
		return fmt.Errorf("%s: %s, though it was over", f.Name, what)
	}
	return nil
}

// settle ends a group without a timeout future.
func (g *Group) settle() {
	for _, f := range g.Members {
		if f.Timeout != 0 && !f.dead {
			return
		}
	}
	g.over = true
}

// mayBeOver reports whether an event, a timer or a send token may have ended the group by now.
func (g *Group) mayBeOver(now time.Time) bool {
	if g.over || g.doubt {
		return true
	}
	timers := 0
	for _, f := range g.Members {
		if f.dead {
			continue
		}
		if f.asked || f.Timeout != 0 && !now.Before(f.earliest) {
			return true
		}
		if f.Timeout != 0 && !f.mayDie {
			timers++
		}
	}
	return timers == 0
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
