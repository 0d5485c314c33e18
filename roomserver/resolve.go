package roomserver

import (
	"context"
	"errors"
	"fmt"

	rsstate "github.com/matrix-org/dendrite/roomserver/state"
	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/sirupsen/logrus"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/matrix-org/dendrite/futures/roomserver/stateres"
	_ "github.com/matrix-org/dendrite/futures/setup/base/patched" // the patch that calls Resolve
)

// rememberedEvents is how many events of auth chains a Resolver caches. Each takes about a kilobyte.
const rememberedEvents = 1 << 14

// Resolver resolves states of rooms of version 12 for Dendrite's roomserver, using package stateres. It is safe for
// concurrent use.
type Resolver struct {
	accepted *lru.Cache[string, *stateres.Event] // accepted events; an accepted event stays accepted
}

// NewResolver returns a Resolver with an empty cache.
func NewResolver() *Resolver {
	accepted, err := lru.New[string, *stateres.Event](rememberedEvents)
	if err != nil {
		panic(err) // the size is a constant above zero
	}
	return &Resolver{accepted}
}

// Resolve resolves the states by state resolution 2.1 (MSC4297). If an event of an auth chain is missing everywhere, it
// uses the events that exist, as other servers do, and logs a warning. It returns an error if the events are malformed
// or cannot be loaded.
func (r *Resolver) Resolve(ctx context.Context, s rsstate.Sets) ([]gomatrixserverlib.PDU, error) {
	run := resolution{Resolver: r, Sets: s, events: make(map[string]*stateres.Event)}
	sets, err := run.sets(ctx)
	if err != nil {
		return nil, err
	}
	if err := run.loadChains(ctx); err != nil {
		return nil, err
	}
	create, ok := run.events[gomatrixserverlib.CreateEventID(s.RoomID)]
	if !ok {
		return nil, fmt.Errorf("room %s: its create event is missing", s.RoomID)
	}
	rules := stateres.Rules{Allowed: run.allowed, Creators: stateres.CreatorsAboveAll, RestrictedJoins: true}
	resolved, err := stateres.Resolve(stateres.V21, rules, create, sets, run.events, stateres.Options{})
	if missing, ok := errors.AsType[*stateres.MissingError](err); ok {
		logrus.WithFields(logrus.Fields{"room_id": s.RoomID, "missing": missing.IDs}).
			Warn("Events of an auth chain cannot be had; the state of the room is resolved without them")
		resolved, err = stateres.Resolve(stateres.V21, rules, create, sets, run.events, stateres.Options{Lenient: true})
	}
	if err != nil {
		return nil, fmt.Errorf("room %s: %w", s.RoomID, err)
	}
	pdus := make([]gomatrixserverlib.PDU, 0, len(resolved))
	for _, id := range resolved {
		pdus = append(pdus, pdu(run.events[id]))
	}
	return pdus, nil
}

// resolution is one call of Resolve.
type resolution struct {
	*Resolver
	rsstate.Sets
	events map[string]*stateres.Event
}

func pdu(e *stateres.Event) gomatrixserverlib.PDU { return e.Value.(gomatrixserverlib.PDU) }

// sets returns the states by key, and adds their events to the known ones.
func (r *resolution) sets(ctx context.Context) ([]map[stateres.Key]string, error) {
	sets := make([]map[stateres.Key]string, len(r.States))
	for i, events := range r.States {
		sets[i] = make(map[stateres.Key]string, len(events))
		for _, event := range events {
			e, err := r.add(ctx, event)
			if err != nil {
				return nil, err
			}
			if id, ok := sets[i][e.Key()]; ok && id != e.ID {
				return nil, fmt.Errorf("room %s: a state has %q with state key %q twice", r.RoomID, e.Type, e.StateKey)
			}
			sets[i][e.Key()] = e.ID
		}
	}
	return sets, nil
}

func (r *resolution) add(ctx context.Context, event gomatrixserverlib.PDU) (*stateres.Event, error) {
	id := event.EventID()
	if e, ok := r.events[id]; ok {
		return e, nil
	}
	e, ok := r.accepted.Get(id)
	if !ok {
		var err error
		if e, err = r.convert(ctx, event); err != nil {
			return nil, err
		}
		if !e.Rejected {
			r.accepted.Add(id, e)
		}
	}
	r.events[id] = e
	return e, nil
}

func (r *resolution) convert(ctx context.Context, event gomatrixserverlib.PDU) (*stateres.Event, error) {
	key := event.StateKey()
	if key == nil {
		return nil, fmt.Errorf("room %s: event %s is no state event", r.RoomID, event.EventID())
	}
	rejected, err := r.IsRejected(ctx, event.EventID())
	if err != nil {
		return nil, err
	}
	return &stateres.Event{
		ID:             event.EventID(),
		RoomID:         event.RoomID().String(),
		Type:           event.Type(),
		StateKey:       *key,
		Sender:         string(event.SenderID()),
		Content:        event.Content(),
		AuthEvents:     gomatrixserverlib.ListedAuthEvents(event.Version(), event.RoomID().String(), event.AuthEventIDs()),
		PrevEvents:     event.PrevEventIDs(),
		OriginServerTS: int64(event.OriginServerTS()),
		Rejected:       rejected,
		Value:          event,
	}, nil
}

// loadChains adds the auth chains of all known events, and the create event.
func (r *resolution) loadChains(ctx context.Context) error {
	wanted := []string{gomatrixserverlib.CreateEventID(r.RoomID)}
	for _, e := range r.events {
		wanted = append(wanted, e.AuthEvents...)
	}
	asked := make(map[string]bool)
	for len(wanted) > 0 {
		var found []*stateres.Event
		var toLoad []string
		for _, id := range wanted {
			if _, ok := r.events[id]; ok || asked[id] {
				continue
			}
			asked[id] = true
			if e, ok := r.accepted.Get(id); ok {
				r.events[id] = e
				found = append(found, e)
			} else {
				toLoad = append(toLoad, id)
			}
		}
		if len(toLoad) > 0 {
			events, err := r.Load(ctx, toLoad)
			if err != nil {
				return err
			}
			for _, event := range events {
				e, err := r.add(ctx, event)
				if err != nil {
					return err
				}
				found = append(found, e)
			}
		}
		wanted = wanted[:0]
		for _, e := range found {
			wanted = append(wanted, e.AuthEvents...)
		}
	}
	return nil
}

// allowed checks an event by the authorisation rules against the given state.
func (r *resolution) allowed(event *stateres.Event, judge map[stateres.Key]*stateres.Event) error {
	pdus := make([]gomatrixserverlib.PDU, 0, len(judge))
	for _, e := range judge {
		pdus = append(pdus, pdu(e))
	}
	auth := gomatrixserverlib.NewAuthEvents(pdus)
	return gomatrixserverlib.Allowed(pdu(event), &auth, func(roomID spec.RoomID, sender spec.SenderID) (*spec.UserID, error) {
		return r.UserID(roomID, sender)
	})
}
