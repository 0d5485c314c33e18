package rtc

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
)

const (
	// sweepInterval is how often all memberships are looked at, if nothing is heard before.
	sweepInterval = 15 * time.Second
	sweepTimeout  = 10 * time.Second // of one question
	mostSeats     = 100_000
)

// A seat is what a token gives: a place in a room on the SFU.
type seat struct {
	sfu             *sfu
	alias, identity string
	roomID, userID  string
}

// issued remembers who has a token or is connected, so that those who leave the Matrix room, or are banned, leave the
// call, too. LiveKit does not take tokens back: whoever comes again with one is removed again.
type issued struct {
	joined func(ctx context.Context, roomID, userID string) (bool, error)
	hurry  chan string // rooms in which a membership has changed

	mu    sync.Mutex
	rooms map[string]map[seat]time.Time // until when each token lets its owner in
	seats int
}

func newIssued(joined func(ctx context.Context, roomID, userID string) (bool, error)) *issued {
	return &issued{joined: joined, hurry: make(chan string, 256), rooms: make(map[string]map[seat]time.Time)}
}

func (i *issued) add(s seat) {
	i.mu.Lock()
	defer i.mu.Unlock()
	room := i.rooms[s.roomID]
	if _, known := room[s]; !known {
		if i.seats >= mostSeats {
			return
		}
		i.seats++
	}
	if room == nil {
		room = make(map[seat]time.Time)
		i.rooms[s.roomID] = room
	}
	room[s] = time.Now().Add(tokenLife)
}

// forget ends a seat, unless there is a newer token for it.
func (i *issued) forget(s seat, until time.Time) {
	i.mu.Lock()
	defer i.mu.Unlock()
	room := i.rooms[s.roomID]
	if now, known := room[s]; !known || !now.Equal(until) {
		return
	}
	delete(room, s)
	i.seats--
	if len(room) == 0 {
		delete(i.rooms, s.roomID)
	}
}

// Run removes from calls who is not in the Matrix room any more, until ctx ends.
func (s *Service) Run(ctx context.Context) {
	if s.issued == nil {
		return
	}
	tick := time.NewTicker(sweepInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case roomID := <-s.issued.hurry:
			s.issued.sweep(ctx, roomID)
		case <-tick.C:
			for _, roomID := range s.issued.known() {
				s.issued.sweep(ctx, roomID)
			}
		}
	}
}

// InCall reports whether anybody has a token for a call in the room.
func (s *Service) InCall(roomID string) bool {
	if s.issued == nil {
		return false
	}
	s.issued.mu.Lock()
	defer s.issued.mu.Unlock()
	return len(s.issued.rooms[roomID]) > 0
}

// MembersChanged tells that a membership in the room has changed.
func (s *Service) MembersChanged(roomID string) {
	select {
	case s.issued.hurry <- roomID:
	default: // the next tick looks at all rooms
	}
}

func (i *issued) known() []string {
	i.mu.Lock()
	defer i.mu.Unlock()
	return slices.Collect(maps.Keys(i.rooms))
}

// sweep looks at every seat of the room once.
func (i *issued) sweep(ctx context.Context, roomID string) {
	i.mu.Lock()
	seats := maps.Clone(i.rooms[roomID])
	i.mu.Unlock()
	for s, until := range seats {
		if ctx.Err() != nil {
			return
		}
		i.look(ctx, s, until)
	}
}

// look removes the participant if the user has left. If it cannot be found out, the participant stays: to remove
// somebody who is there is the worse mistake.
func (i *issued) look(ctx context.Context, s seat, until time.Time) {
	ctx, cancel := context.WithTimeout(ctx, sweepTimeout)
	defer cancel()
	log := logrus.WithFields(logrus.Fields{"room_id": s.roomID, "user_id": s.userID})
	in, err := i.joined(ctx, s.roomID, s.userID)
	if err != nil {
		log.WithError(err).Warn("Cannot look up whether somebody with a LiveKit token is still in the room")
		return
	}
	if !in {
		if err := s.sfu.remove(ctx, s.alias, s.identity); err != nil {
			log.WithError(err).Warn("Cannot remove somebody from a call who is not in the room any more")
			return
		}
	}
	if time.Now().Before(until) {
		return
	}
	// The token is over. Who is connected may stay so for hours.
	if there, err := s.sfu.participants(ctx, s.alias); in {
		if _, ok := there[s.identity]; ok || err != nil {
			return
		}
	}
	i.forget(s, until)
}
