package stateafter

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/matrix-org/dendrite/roomserver/types"
	"github.com/matrix-org/dendrite/test"
	"github.com/matrix-org/gomatrixserverlib/spec"
)

const steps = 60

// TestModel lets clients follow a room by state_after alone, through forks, gaps, leaves and events during their
// requests. Whenever nothing has happened since, a client in the room has the room's state.
func TestModel(t *testing.T) {
	for seed := range uint64(3) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			withDatabases(t, func(s *server) { newModel(s, seed).run() })
		})
	}
}

type model struct {
	*scene
	*rand.Rand
	carol   *test.User
	in      bool // carol is in the room; she joins and leaves
	stale   []*types.HeaderedEvent
	clients []*client
	checks  int
}

func newModel(s *server, seed uint64) *model {
	m := &model{scene: newScene(s), Rand: rand.New(rand.NewPCG(seed, 4222)), carol: test.NewUser(s.T)}
	m.move(m.bob, "join")
	m.set(m.alice, "m.room.power_levels", "", map[string]any{"users": map[string]any{m.alice.ID: 100, m.bob.ID: 50}})
	for _, user := range []*test.User{m.alice, m.bob, m.carol} {
		for _, filter := range []map[string]any{nil, limit(1), {"room": map[string]any{"timeline": map[string]any{"types": []string{message}}}}} {
			m.clients = append(m.clients, s.client(user, m.room, filter))
		}
	}
	return m
}

func (m *model) run() {
	for step := range steps {
		m.act(step)
		c := m.clients[m.IntN(len(m.clients))]
		if m.IntN(3) == 0 {
			m.after = func() { m.act(1000 + step) }
			c.sync()
		}
		if m.IntN(2) > 0 {
			continue
		}
		if c.sync(); c.user != m.carol.ID || m.in {
			c.same()
			m.checks++
		}
		if m.Failed() {
			m.Fatalf("in step %d", step)
		}
	}
	if m.checks < steps/5 {
		m.Errorf("only %d checks", m.checks)
	}
}

// act performs one random action in the room.
func (m *model) act(step int) {
	user := []*test.User{m.alice, m.bob}[m.IntN(2)]
	key := fmt.Sprint(m.IntN(3))
	switch m.IntN(8) {
	case 0, 1:
		m.say("hello")
	case 2:
		m.in = !m.in
		m.move(m.carol, map[bool]string{true: spec.Join, false: spec.Leave}[m.in])
	case 3: // to be sent later, or never
		m.stale = append(m.stale, m.event(user, "org.example", &key, body(fmt.Sprint("stale ", step))))
	case 4:
		if n := len(m.stale); n > 0 {
			i := m.IntN(n)
			m.send(m.stale[i])
			m.stale = append(m.stale[:i], m.stale[i+1:]...)
		}
	default:
		m.set(user, "org.example", key, body(fmt.Sprint(step)))
	}
}
