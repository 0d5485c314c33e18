package stateres

import (
	"fmt"
	"slices"
)

// graph holds the auth chains of all state sets. Each event has a number, which is larger than the numbers of all its
// auth events. So one loop over the numbers walks all auth chains, up or down.
type graph struct {
	index   map[string]int32
	ids     []string
	events  []*Event // nil for an event that is missing
	edges   []int32  // the auth events of all events, one event after the other
	ends    []int32  // the index in edges at which those of event i end
	missing []string
}

// auth returns the auth events of event i.
func (g *graph) auth(i int32) []int32 {
	if i == 0 {
		return g.edges[:g.ends[0]]
	}
	return g.edges[g.ends[i-1]:g.ends[i]]
}

// cited returns the first of the event's auth events with that key, or -1.
func (g *graph) cited(i int32, k Key) int32 {
	for _, a := range g.auth(i) {
		if e := g.events[a]; e != nil && e.StateKey == k.StateKey && e.Type == k.Type {
			return a
		}
	}
	return -1
}

func (g *graph) named(list []int32) []string {
	names := make([]string, len(list))
	for n, i := range list {
		names[n] = g.ids[i]
	}
	return names
}

func (g *graph) missingError() error {
	slices.Sort(g.missing)
	return &MissingError{IDs: g.missing}
}

// load numbers the events of the sets and of their auth chains.
func load(create *Event, sets []map[Key]string, events map[string]*Event) (*graph, error) {
	l := loader{
		graph:  &graph{index: make(map[string]int32, len(events)+1)},
		create: create, given: events,
	}
	for _, set := range sets {
		for k, id := range set {
			if err := l.visit(id); err != nil {
				return nil, err
			}
			if e := l.events[l.index[id]]; e != nil && e.Key() != k {
				return nil, fmt.Errorf("%w: %s is not of the key %q, %q", ErrBadInput, id, k.Type, k.StateKey)
			}
		}
	}
	return l.graph, nil
}

// loader walks the auth chains depth first. An event gets its number after all its auth events.
type loader struct {
	*graph
	create *Event
	given  map[string]*Event
	stack  []frame
	done   []int32 // the numbers found so far for the auth events of the events on the stack
}

// frame is an event whose auth events are being walked.
type frame struct {
	event *Event
	next  int // index of the next auth event
	base  int // index in done at which the numbers of its auth events begin
}

const open = -1 // the number of an event on the stack

func (l *loader) visit(root string) error {
	if _, seen := l.index[root]; seen {
		return nil
	}
	l.done = l.done[:0]
	if err := l.enter(root); err != nil {
		return err
	}
	for len(l.stack) > 0 {
		f := &l.stack[len(l.stack)-1]
		if f.next == len(f.event.AuthEvents) {
			l.leave(*f)
			continue
		}
		id := f.event.AuthEvents[f.next]
		f.next++
		i, seen := l.index[id]
		switch {
		case !seen:
			if err := l.enter(id); err != nil {
				return err
			}
		case i == open:
			return fmt.Errorf("%w: %s is in its own auth chain", ErrAuthCycle, id)
		default:
			l.done = append(l.done, i)
		}
	}
	return nil
}

// enter puts an event on the stack, or numbers it at once if it is missing.
func (l *loader) enter(id string) error {
	e := l.given[id]
	if id == l.create.ID {
		e = l.create
	}
	if e == nil {
		l.missing = append(l.missing, id)
		l.done = append(l.done, l.number(id, nil))
		return nil
	}
	if e.ID != id {
		return fmt.Errorf("%w: event %q is given as %q", ErrBadInput, e.ID, id)
	}
	if e.RoomID != l.create.RoomID {
		return fmt.Errorf("%w: %s is in %q, not in %q", ErrForeignEvent, id, e.RoomID, l.create.RoomID)
	}
	l.index[id] = open
	l.stack = append(l.stack, frame{event: e, base: len(l.done)})
	return nil
}

// leave takes the top event from the stack and numbers it. All its auth events have numbers.
func (l *loader) leave(f frame) {
	l.edges = append(l.edges, l.done[f.base:]...)
	l.done = append(l.done[:f.base], l.number(f.event.ID, f.event))
	l.stack = l.stack[:len(l.stack)-1]
}

func (l *loader) number(id string, e *Event) int32 {
	i := int32(len(l.ids))
	l.index[id] = i
	l.ids = append(l.ids, id)
	l.events = append(l.events, e)
	l.ends = append(l.ends, int32(len(l.edges)))
	return i
}
