// Package soak runs twenty users with futures for any time, while the server is killed every few seconds, and prints
// the judge's report:
//
//	go test ./test/soak -v -timeout 0 -soak 10m
//
// Without the flag it is short.
package soak_test

import (
	"context"
	"flag"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/futures/test/rig"
	"github.com/matrix-org/dendrite/futures/test/workload"
)

var (
	length   = flag.Duration("soak", 20*time.Second, "how long to go on")
	postgres = flag.Bool("soak.postgres", false, "on PostgreSQL")
	seed     = flag.Uint64("seed", uint64(time.Now().UnixNano()), "of the users and of the kills")
)

const (
	users     = 20
	shortLife = time.Second      // of a server until it is killed
	longLife  = 10 * time.Second // likewise
)

func TestMain(m *testing.M) {
	flag.Parse()
	rig.Main(m)
}

func TestSoak(t *testing.T) {
	s := rig.New(t, rig.Config{Postgres: *postgres})
	t.Logf("-soak %s -seed %d, %d users", *length, *seed, users)
	c := workload.New(t, s, users, *seed)
	ctx, stop := context.WithTimeout(t.Context(), *length)
	defer stop()
	c.Start(ctx)

	random := rand.New(rand.NewPCG(*seed, 1<<32))
	kills, start := 0, time.Now()
	for ctx.Err() == nil {
		select {
		case <-time.After(shortLife + time.Duration(random.Int64N(int64(longLife-shortLife)))):
			s.Kill()
			kills++
			s.Start()
		case <-ctx.Done():
		}
	}
	c.Wait()
	report := c.Settle(t)
	t.Logf("after %s and %d kills\n%s", time.Since(start).Round(time.Second), kills, &report)
	if !report.Good() {
		t.Error("the server broke its promises")
	}
	if report.Sent == 0 {
		t.Error("nothing was sent, so nothing is proved")
	}
}
