package roomserver

import (
	"container/list"
	"context"
	"sync"
	"time"
)

// Gates admit one writer at a time to a room. Dendrite creates an event in two steps: it reads the room, and then
// submits an event that follows what it read. It serialises the events of one user in a room, but not those of two
// users, and it does not know futures. Two writers that read at the same moment build on the same event. Then the
// room's history forks, state resolution decides between the two, and the later one may lose. So every writer on this
// server enters the room's gate first.
//
// A gate is fair: first come, first served. It exists only while somebody uses it. Nobody waits for ever: a visitor
// that has waited for gatePatience goes ahead without the gate, and a visitor that has been inside for gateLimit is no
// longer waited for. A visitor must not enter a second gate, unless all visitors that do so enter the gates in the same
// order.
//
// The zero value is ready for use.
type Gates struct {
	mu    sync.Mutex
	rooms map[string]*gate
}

const (
	gatePatience = 5 * time.Second
	gateLimit    = 5 * time.Second
	// mostWaiting is how many may wait at one gate. If more come, the room is so slow that waiting does not help.
	mostWaiting = 1024
)

// gate is the gate of one room. There is always one visitor inside.
type gate struct {
	inside  *visit
	waiting list.List // of *visit
}

// visit is a visitor who waits at a gate or is inside.
type visit struct {
	user    string
	entered chan struct{}
	limit   *time.Timer
}

// Enter returns when the caller may create an event in the room. The caller must call leave when that is done or has
// failed. user is the name for Yield; it may be "". Enter waits at most for gatePatience and ctx.
func (g *Gates) Enter(ctx context.Context, roomID, user string) (leave func()) {
	v := &visit{user: user}
	place := g.arrive(roomID, v)
	if place != nil {
		patience := time.NewTimer(gatePatience)
		defer patience.Stop()
		select {
		case <-v.entered:
		case <-ctx.Done():
			g.giveUp(roomID, place)
		case <-patience.C:
			g.giveUp(roomID, place)
		}
	}
	return func() { g.leave(roomID, v) }
}

// arrive lets v in, or makes it wait and returns its place in the queue. If too many wait, it does neither.
func (g *Gates) arrive(roomID string, v *visit) (place *list.Element) {
	g.mu.Lock()
	defer g.mu.Unlock()
	at := g.rooms[roomID]
	switch {
	case at == nil:
		if g.rooms == nil {
			g.rooms = make(map[string]*gate)
		}
		at = new(gate)
		g.rooms[roomID] = at
		g.admit(roomID, at, v)
	case at.waiting.Len() < mostWaiting:
		v.entered = make(chan struct{})
		return at.waiting.PushBack(v)
	}
	return nil
}

// admit lets v in. The caller must hold the lock.
func (g *Gates) admit(roomID string, at *gate, v *visit) {
	at.inside = v
	v.limit = time.AfterFunc(gateLimit, func() { g.leave(roomID, v) })
	if v.entered != nil {
		close(v.entered)
	}
}

// giveUp removes a visit from the queue. If it has been let in meanwhile, it is inside until it leaves.
func (g *Gates) giveUp(roomID string, place *list.Element) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if at := g.rooms[roomID]; at != nil && at.inside != place.Value.(*visit) {
		at.waiting.Remove(place) // does nothing if it is in another queue, or in none
	}
}

// leave lets the next visitor in, if v is inside.
func (g *Gates) leave(roomID string, v *visit) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if at := g.rooms[roomID]; at != nil && at.inside == v {
		g.pass(roomID, at)
	}
}

// pass lets the next visitor in. The caller must hold the lock.
func (g *Gates) pass(roomID string, at *gate) {
	at.inside.limit.Stop()
	if first := at.waiting.Front(); first != nil {
		g.admit(roomID, at, at.waiting.Remove(first).(*visit))
		return
	}
	delete(g.rooms, roomID)
}

// Yield makes the user leave the room's gate early, if they are inside. It is for requests that wait for another
// server.
func (g *Gates) Yield(roomID, user string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if at := g.rooms[roomID]; at != nil && at.inside.user == user {
		g.pass(roomID, at)
	}
}
