package outage_test

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/futures/test/rig"
)

// keeper is the service manager: it restarts the homeserver whenever it ends.
type keeper struct {
	t      testing.TB
	server *rig.Server
	quit   chan struct{}
	idle   chan struct{}
	once   sync.Once

	mu   sync.Mutex
	ends []string // how the server has ended, each time
}

// restartPause is how long a service manager waits before it tries again.
const restartPause = 200 * time.Millisecond

func keep(t testing.TB, s *rig.Server) *keeper {
	k := &keeper{t: t, server: s, quit: make(chan struct{}), idle: make(chan struct{})}
	go k.run()
	t.Cleanup(k.dismiss)
	return k
}

func (k *keeper) run() {
	defer close(k.idle)
	for !k.dismissed() {
		if !k.server.WaitExit(20 * time.Millisecond) {
			continue
		}
		how := k.server.Exit()
		k.note(how)
		for err := k.server.TryStart(); err != nil && !k.dismissed(); err = k.server.TryStart() {
			k.note("while starting")
			time.Sleep(restartPause)
		}
	}
}

func (k *keeper) dismissed() bool {
	select {
	case <-k.quit:
		return true
	default:
		return false
	}
}

// dismiss stops the keeper; the test controls the server again.
func (k *keeper) dismiss() {
	k.once.Do(func() { close(k.quit) })
	<-k.idle
}

func (k *keeper) note(how string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.ends = append(k.ends, how)
}

func (k *keeper) count() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.ends)
}

// since returns how the server has ended after the first n times.
func (k *keeper) since(n int) []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.ends[n:])
}

// panics returns how often a running server has panicked.
func (k *keeper) panics() (n int) {
	for _, how := range k.since(0) {
		if how == "exit status 2" {
			n++
		}
	}
	return n
}

func (k *keeper) String() string {
	ends := k.since(0)
	return fmt.Sprintf("the homeserver ended %d times: %s", len(ends), strings.Join(ends, ", "))
}
