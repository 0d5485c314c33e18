// Package workload is a crowd of clients that use futures. They schedule, refresh, send, cancel, group and overwrite them
// at random, from a seed. The server may be killed at any moment. They report all requests and answers to a judge. The
// crash tests and the soak test use this package.
package workload

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"github.com/matrix-org/dendrite/futures/test/judge"
	"github.com/matrix-org/dendrite/futures/test/rig"
)

const (
	roomsEach      = 2
	eventType      = "org.example.seat"      // of the state futures
	shortest       = 100 * time.Millisecond  // timeout of a future
	longest        = 1500 * time.Millisecond // likewise
	requestTimeout = 30 * time.Second
	retryPause     = 50 * time.Millisecond // between tries to reach a server that is down
	settleTick     = 100 * time.Millisecond
	settleLimit    = 2 * time.Minute // all futures should have ended long before
)

// Crowd is a number of users on one server, each with rooms and futures of their own.
type Crowd struct {
	Judge judge.Judge

	server *rig.Server
	users  []*rig.User
	rooms  map[*rig.User][]string
	seed   uint64
	lives  sync.WaitGroup
}

// New registers the users and creates their rooms. The server must be running.
func New(t testing.TB, server *rig.Server, users int, seed uint64) *Crowd {
	t.Helper()
	c := &Crowd{server: server, rooms: make(map[*rig.User][]string), seed: seed}
	for i := range users {
		u := server.Register(t, fmt.Sprintf("user%d", i))
		for range roomsEach {
			c.rooms[u] = append(c.rooms[u], u.CreateRoom(nil))
		}
		c.users = append(c.users, u)
	}
	return c
}

// Start lets the crowd run until the context ends. It returns at once.
func (c *Crowd) Start(ctx context.Context) {
	for i, u := range c.users {
		anybody := c.server.Client()
		l := &life{
			anybody: &anybody,
			crowd:   c,
			user:    u,
			rooms:   c.rooms[u],
			random:  rand.New(rand.NewPCG(c.seed, uint64(i))),
			name:    fmt.Sprintf("%d/%d", c.seed, i),
		}
		c.lives.Go(func() {
			for ctx.Err() == nil {
				l.group(ctx)
			}
		})
	}
}

// Wait waits until all users have stopped. They stop after the context has ended.
func (c *Crowd) Wait() { c.lives.Wait() }

// Settle waits until every future has ended, and returns the report. The server must be running.
func (c *Crowd) Settle(t testing.TB) judge.Report {
	t.Helper()
	tick := time.NewTicker(settleTick)
	defer tick.Stop()
	for deadline := time.Now().Add(settleLimit); ; <-tick.C {
		// The lists are read before the rooms: a future that is no longer listed has its event in the room.
		pending := slices.ContainsFunc(c.users, c.hasFutures)
		report := c.Judge.Judge(c.timelines(t))
		if !pending && report.Lost == 0 || time.Now().After(deadline) {
			c.checkTokens(t)
			return report
		}
	}
}

func (c *Crowd) hasFutures(u *rig.User) bool {
	list := u.Do(http.MethodGet, rig.Path("futures"), nil, nil)
	return list.Status != http.StatusOK || len(list.JSON.Array()) > 0
}

func (c *Crowd) timelines(t testing.TB) map[string][]gjson.Result {
	t.Helper()
	timelines := make(map[string][]gjson.Result)
	for _, u := range c.users {
		for _, room := range c.rooms[u] {
			timelines[room] = u.Timeline(room)
		}
	}
	return timelines
}

// checkTokens uses every token that was ever issued: all must be spent.
func (c *Crowd) checkTokens(t testing.TB) {
	t.Helper()
	for _, token := range c.Judge.Tokens() {
		if status := c.server.UseToken(t, token).Status; status != http.StatusGone {
			t.Errorf("the token of a future that has ended gets status %d, want 410", status)
		}
	}
}
