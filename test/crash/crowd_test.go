package crash_test

import (
	"context"
	"math/rand/v2"
	"net/http"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/futures/test/judge"
	"github.com/matrix-org/dendrite/futures/test/rig"
	"github.com/matrix-org/dendrite/futures/test/workload"
)

// TestCrowd kills a server repeatedly under a crowd of clients, and then asks the judge.
func TestCrowd(t *testing.T) {
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		crowd(t, rig.New(t, rig.Config{}), *kills)
	})
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		crowd(t, rig.New(t, rig.Config{Postgres: true}), *kills/2)
	})
}

// crowd is the normal test.
func crowd(t *testing.T, s *rig.Server, kills int) {
	t.Logf("-seed %d, %d kills", *seed, kills)
	patient := s.Register(t, "patient")
	room := patient.CreateRoom(nil)
	long := patient.SendFuture(room, "m.room.message", map[string]any{"body": "in an hour"}, rig.Params{Timeout: time.Hour})
	killer := newKiller(t, s, *seed)
	report := killer.round(kills)
	t.Logf("killed %d times, at %v\n%s", kills, killer.died, &report)
	if !report.Good() {
		t.Error("the server broke its promises")
	}
	if report.Sent < kills/2 {
		t.Errorf("only %d futures were sent, so nothing is proved", report.Sent)
	}
	for _, step := range steps {
		if kills >= 70 && killer.died[step] == 0 {
			t.Errorf("no server died at the step %q", step)
		}
	}
	// The client of an hour-long future has noticed nothing.
	for _, token := range []string{long.Refresh, long.Cancel} {
		if got := s.UseToken(t, token).Status; got != http.StatusOK {
			t.Errorf("the future that is due in an hour has a token that is answered with %d", got)
		}
	}
}

// killer kills the server, alternately at a step and at a random time, and restarts it.
type killer struct {
	t        *testing.T
	server   *rig.Server
	seed     uint64
	wide     bool // also at the rare steps, and during the start
	random   *rand.Rand
	died     map[string]int // number of kills by place
	turn     int
	restarts []time.Duration
}

const anyTime, whileStarting = "any time", "while starting"

func newKiller(t *testing.T, s *rig.Server, seed uint64) *killer {
	return &killer{t: t, server: s, seed: seed, random: rand.New(rand.NewPCG(seed, 1<<32)), died: make(map[string]int)}
}

// round runs a crowd while the server is killed, and returns the verdict.
func (k *killer) round(kills int) judge.Report {
	c := workload.New(k.t, k.server, 6, k.seed)
	ctx, stop := context.WithCancel(k.t.Context())
	defer stop()
	c.Start(ctx)
	for range kills {
		k.next()
	}
	k.server.Kill() // a crash may still be armed; the last run has none
	k.server.Start()
	stop()
	c.Wait()
	return c.Settle(k.t)
}

// total is how often the server was killed.
func (k *killer) total() (n int) {
	for _, times := range k.died {
		n += times
	}
	return n
}

func (k *killer) next() {
	step := steps[k.turn%len(steps)]
	k.turn++
	if k.wide && k.random.IntN(3) == 0 {
		k.rare()
	} else {
		k.common(step)
	}
	start, failed := time.Now(), 0
	for err := k.server.TryStart(); err != nil; err = k.server.TryStart() {
		k.died[whileStarting]++
		if failed++; failed > 3 {
			k.t.Fatalf("the server does not start any more: %v", err)
		}
	}
	k.restarts = append(k.restarts, time.Since(start))
}

func (k *killer) common(step string) {
	switch k.random.IntN(6) {
	case 0: // around expiry: futures of the crowd are due all the time
		k.server.WaitExit(time.Duration(k.random.IntN(400)) * time.Millisecond)
		k.kill()
	case 1: // the next run is short too, so that recovery itself is hit
		k.kill()
		k.server.CrashAt(step, 1+k.random.IntN(3))
	default:
		k.await(step, 1+k.random.IntN(8))
	}
}

// rare kills at places that an ordinary run seldom reaches.
func (k *killer) rare() {
	switch k.random.IntN(5) {
	case 0:
		k.await("raised", 1+k.random.IntN(3))
	case 1: // it is stopped, and dies during the stop
		k.server.CrashAt("exact", 1)
		k.server.Terminate()
		if !k.server.WaitExit(10 * time.Second) {
			k.kill()
		} else if k.server.Exit() == "signal: killed" {
			k.died["exact"]++
		}
	case 2, 3:
		k.kill()
		step := []string{"recovered", "graced"}[k.random.IntN(2)]
		k.server.CrashAt(step, 1)
		if k.server.TryStart(); k.server.WaitExit(time.Second) {
			k.died[step]++
		} else {
			k.kill()
		}
	default:
		k.kill()
		k.server.StartAndKill(time.Duration(k.random.IntN(1000)) * time.Millisecond)
		k.died[whileStarting]++
	}
}

// await kills at the step or, if the server does not reach it soon, wherever it is.
func (k *killer) await(step string, nth int) {
	k.server.CrashAt(step, nth)
	if k.server.WaitExit(3 * time.Second) {
		k.died[step]++
	} else {
		k.kill()
	}
}

func (k *killer) kill() {
	k.server.Kill()
	k.died[anyTime]++
}
