package roomserver

import (
	"container/list"
	"context"
	"sync"
	"time"
)

// Gates let one writer at a time into a room. Dendrite makes an event in two steps: it looks at the room, and then
// hands in an event that follows what it saw. It keeps one user's events in a room apart, but no two users', and
// knows nothing of futures. Two that look at the same moment build on the same event: the room's history forks,
// state resolution decides between them, and the later one may lose. So whoever makes an event in a room here
// enters its gate first.
//
// A gate is fair: first come, first served. It exists only while somebody is at it. Nobody is kept out for ever, and
// nobody keeps others out for ever: who has waited for gatePatience goes ahead without the gate, as without Gates, and
// who has been inside for gateLimit is no longer waited for. Who is inside must not enter another gate, unless all
// that do so enter them in the same order.
//
// The zero value is ready for use.
type Gates struct {
	mu    sync.Mutex
	rooms map[string]*gate
}

const (
	gatePatience = 5 * time.Second
	gateLimit    = 5 * time.Second
	// mostWaiting is how many may wait at one gate. A room that has so many is too slow to be helped by waiting.
	mostWaiting = 1024
)

// gate is that of one room. There is always somebody inside.
type gate struct {
	inside  *visit
	waiting list.List // of *visit
}

// visit is somebody who waits at a gate or is inside.
type visit struct {
	user    string
	entered chan struct{}
	limit   *time.Timer
}

// Enter returns when the caller may make an event in the room, and what to call when that is done or has failed.
// The user is who Yield is told of; "" is nobody. It waits for gatePatience and ctx at the most.
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

// arrive lets v in, or has it wait in the returned place. With too many waiting it does neither.
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

// admit lets v in. Under the lock.
func (g *Gates) admit(roomID string, at *gate, v *visit) {
	at.inside = v
	v.limit = time.AfterFunc(gateLimit, func() { g.leave(roomID, v) })
	if v.entered != nil {
		close(v.entered)
	}
}

// giveUp takes a visit out of the line. One that has been let in meanwhile is inside until it leaves.
func (g *Gates) giveUp(roomID string, place *list.Element) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if at := g.rooms[roomID]; at != nil && at.inside != place.Value.(*visit) {
		at.waiting.Remove(place) // does nothing if it is in another line, or in none
	}
}

// leave lets the next one in, if v is inside.
func (g *Gates) leave(roomID string, v *visit) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if at := g.rooms[roomID]; at != nil && at.inside == v {
		g.pass(roomID, at)
	}
}

// pass lets the next one in. Under the lock.
func (g *Gates) pass(roomID string, at *gate) {
	at.inside.limit.Stop()
	if first := at.waiting.Front(); first != nil {
		g.admit(roomID, at, at.waiting.Remove(first).(*visit))
		return
	}
	delete(g.rooms, roomID)
}

// Yield has the user leave the room's gate early, if they are inside. It is for what has to wait for another server.
func (g *Gates) Yield(roomID, user string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if at := g.rooms[roomID]; at != nil && at.inside.user == user {
		g.pass(roomID, at)
	}
}
