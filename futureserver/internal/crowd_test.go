package internal

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
	"github.com/matrix-org/dendrite/futures/futureserver/storage"
)

// The simulation with a crowd: many concurrent callers, a slow database that stalls for minutes, creations in named
// groups at the moment at which the groups end, accounts and rooms that are removed while futures are created in them,
// and crashes anywhere. Each history follows from its number.

var (
	histories    = flag.Int("crowd.histories", 150, "histories of the simulation with a crowd")
	firstHistory = flag.Int("crowd.first", 0, "the number of the first one")
	countFaults  = flag.Bool("crowd.record", false, "go on after a fault, and print each kind of fault with the number of histories that it took")
)

func TestCrowd(t *testing.T) {
	found := map[string]bool{}
	for n := range *histories {
		seed := uint64(*firstHistory + n)
		dir := t.TempDir()
		var faults []string
		synctest.Test(t, func(t *testing.T) { faults = newCrowd(t, filepath.Join(dir, "futures.db"), seed).run() })
		os.RemoveAll(dir)
		for _, fault := range faults {
			kind, _, _ := cut(fault)
			if !*countFaults {
				t.Errorf("history %d: %s", seed, fault)
			} else if !found[kind] {
				found[kind] = true
				fmt.Printf("after %d histories: %s\n", n+1, fault)
			}
		}
		if t.Failed() {
			return
		}
	}
}

func cut(fault string) (kind, rest string, ok bool) {
	for i, r := range fault {
		if r == ':' {
			return fault[:i], fault[i:], true
		}
	}
	return fault, "", false
}

// crowd is one running history.
type crowd struct {
	t      *testing.T
	path   string
	random *rand.Rand // of the program; the database and the rooms have generators of their own
	rooms  *crowdRooms
	server *Server
	freeze *freezer
	calls  sync.WaitGroup

	mu     sync.Mutex
	stall  time.Duration // of the next transaction
	delays *rand.Rand
	made   []*crowdFuture
	gone   map[string]time.Time // users and rooms: when their removal was answered
	going  map[string]bool      // users and rooms whose removal has begun: nothing new is begun there
	crash  int                  // number of crashes so far
	stops  bool                 // the server is stopping
	stalls bool                 // a transaction took longer than a request waits
	faults []string
}

type crowdFuture struct {
	asked     api.Future // the request
	nid       api.NID
	secret    api.Secret
	group     string
	answered  bool // with 200
	lower     time.Time
	mayEnd    bool // a token that ends it was used, or its room or account was removed
	sendAsked bool
}

func newCrowd(t *testing.T, path string, seed uint64) *crowd {
	c := &crowd{
		t: t, path: path, random: rand.New(rand.NewPCG(seed, 1)), delays: rand.New(rand.NewPCG(seed, 2)),
		gone: map[string]time.Time{}, going: map[string]bool{},
	}
	c.rooms = &crowdRooms{fakeRooms: newFakeRooms(), crowd: c}
	return c
}

// delay is a short pause, often 0.
func (c *crowd) delay() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return []time.Duration{0, 0, time.Millisecond, 3 * time.Millisecond, 20 * time.Millisecond}[c.delays.IntN(5)]
}

// crowdRooms are slow to admit, and sometimes refuse.
type crowdRooms struct {
	*fakeRooms
	crowd *crowd
}

func (r *crowdRooms) Admit(ctx context.Context, f *api.Future) (string, error) {
	time.Sleep(r.crowd.delay())
	if f.Type == "m.refused" {
		return "", &api.Refusal{Kind: api.TooLarge, Message: "too large"}
	}
	return r.fakeRooms.Admit(ctx, f)
}

func (r *crowdRooms) Build(ctx context.Context, fs []*api.Future) []api.Built {
	time.Sleep(r.crowd.delay())
	return r.fakeRooms.Build(ctx, fs)
}

// crowdDatabase is slow and sometimes stalls.
type crowdDatabase struct {
	storage.Database
	crowd *crowd
}

func (d *crowdDatabase) Commit(ctx context.Context, b *storage.Batch) (storage.Result, error) {
	c := d.crowd
	c.mu.Lock()
	stall := c.stall
	c.stall = 0
	c.mu.Unlock()
	time.Sleep(stall + c.delay())
	result, err := d.Database.Commit(ctx, b)
	if err == nil && c.delay() > 10*time.Millisecond {
		time.Sleep(c.delay()) // written, but nobody knows yet
	}
	return result, err
}

func (d *crowdDatabase) GroupUsed(ctx context.Context, userID, groupID string) (bool, error) {
	time.Sleep(d.crowd.delay())
	used, err := d.Database.GroupUsed(ctx, userID, groupID)
	time.Sleep(d.crowd.delay())
	return used, err
}

func (d *crowdDatabase) LoadEnded(ctx context.Context, secret api.Secret) (*api.Future, error) {
	time.Sleep(d.crowd.delay())
	return d.Database.LoadEnded(ctx, secret)
}

func (c *crowd) start() {
	db, err := openTestDatabase(c.path)
	if err != nil {
		c.t.Fatal(err)
	}
	c.freeze = newFreezer()
	c.mu.Lock()
	c.stops, c.stalls = false, c.stall > 20*time.Second
	c.mu.Unlock()
	c.server, err = New(c.t.Context(), testConfig(), &crowdDatabase{db, c}, c.rooms, NewMetrics(nil), Hooks{Step: c.freeze.step})
	if err != nil {
		c.t.Fatal(err)
	}
}

// die ends the process as SIGKILL would, and starts another.
func (c *crowd) die() {
	c.mu.Lock()
	c.crash++
	c.stops = true
	c.mu.Unlock()
	c.freeze.freeze()
	c.server.crash(c.freeze)
	c.calls.Wait()
	c.start()
}

func (c *crowd) fault(kind, format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.faults = append(c.faults, kind+": "+fmt.Sprintf(format, args...))
}

var gaps = []time.Duration{0, 0, 0, time.Millisecond, 2 * time.Millisecond, 5 * time.Millisecond, 20 * time.Millisecond,
	time.Second, 10 * time.Second, 40 * time.Second}

func (c *crowd) run() []string {
	c.start()
	for range 5 + c.random.IntN(25) {
		time.Sleep(gaps[c.random.IntN(len(gaps))])
		if c.freeze.isFrozen() {
			c.die()
		}
		c.step()
	}
	time.Sleep(gaps[c.random.IntN(len(gaps))])
	if c.freeze.isFrozen() || c.random.IntN(2) == 0 {
		c.die()
	}
	c.freeze.arm("")
	c.calls.Wait()
	time.Sleep(30 * time.Minute)
	synctest.Wait()
	c.judge()
	if err := c.server.Stop(context.Background()); err != nil {
		c.fault("last stop", "%v", err)
	}
	return c.faults
}

func (c *crowd) step() {
	switch n := c.random.IntN(100); {
	case n < 20:
		c.create(c.future())
	case n < 33:
		c.join()
	case n < 45:
		c.replace()
	case n < 58:
		c.act(api.RefreshToken)
	case n < 70:
		c.act(api.CancelToken)
	case n < 76:
		c.act(api.SendToken)
	case n < 80:
		c.end("user")
	case n < 83:
		c.end("room")
	case n < 90:
		c.mu.Lock()
		c.stall = []time.Duration{30 * time.Millisecond, 2 * time.Second, 31 * time.Second, 70 * time.Second}[c.random.IntN(4)]
		c.stalls = c.stalls || c.stall > 20*time.Second
		c.mu.Unlock()
	case n < 93:
		c.freeze.arm([]string{"accepted", "commit", "committed", "claimed", "submitted", "finalised"}[c.random.IntN(6)])
	case n < 97:
		c.die()
	default:
		c.freeze.arm("")
		if c.freeze.isFrozen() {
			return
		}
		c.mu.Lock()
		c.stops = true
		stalls := c.stalls
		c.mu.Unlock()
		err := c.server.Stop(context.Background())
		if err != nil && !stalls {
			c.fault("stop", "%v", err)
		}
		c.calls.Wait()
		c.start()
	}
}

// later starts a call and does not wait for it.
func (c *crowd) later(call func(s *Server)) {
	s := c.server
	c.calls.Go(func() { call(s) })
}

// join adds members to a group that is about to end.
func (c *crowd) join() {
	f := c.future()
	f.GroupID = fmt.Sprintf("g%d", len(c.made))
	f.Timeout = []time.Duration{time.Millisecond, 20 * time.Millisecond, 8 * time.Second}[c.random.IntN(3)]
	c.create(f)
	time.Sleep(max(0, f.Timeout+[]time.Duration{-2 * time.Millisecond, 0, 0, time.Millisecond, 3 * time.Millisecond, 10 * time.Millisecond}[c.random.IntN(6)]))
	for range 1 + c.random.IntN(3) {
		f.Timeout = []time.Duration{time.Millisecond, 8 * time.Second, 0}[c.random.IntN(3)]
		f.TxnKey = nil
		c.create(f)
		time.Sleep(gaps[c.random.IntN(6)])
	}
}

// replace ends the last timeout future of a group while another one is being created, which may be refused.
func (c *crowd) replace() {
	f := c.future()
	f.Type, f.TxnKey, f.GroupID, f.Timeout = "m.room.message", nil, fmt.Sprintf("g%d", len(c.made)), 5*time.Minute
	c.create(f)
	old := c.made[len(c.made)-1]
	time.Sleep(50 * time.Millisecond)
	f.Timeout = 0
	c.create(f)
	time.Sleep(50 * time.Millisecond)
	f.Timeout = 5 * time.Minute
	f.Type = []string{"m.room.message", "m.refused"}[c.random.IntN(2)]
	c.create(f)
	time.Sleep(gaps[c.random.IntN(6)])
	c.use(old, api.CancelToken)
}

// future returns a random future.
func (c *crowd) future() api.Future {
	f := api.Future{
		UserID: userName(c.random.IntN(2)), RoomID: roomName(c.random.IntN(2)), Type: "m.room.message", Content: []byte(`{}`),
		Timeout: []time.Duration{time.Millisecond, 3 * time.Millisecond, 20 * time.Millisecond, time.Second, 8 * time.Second, time.Minute,
			5 * time.Minute, 0, 0}[c.random.IntN(9)],
		GroupID: []string{fmt.Sprintf("a%d", len(c.made)/4), fmt.Sprintf("a%d", len(c.made)/6), "b", ""}[c.random.IntN(4)],
	}
	if c.random.IntN(6) == 0 {
		f.Type = "m.refused"
	}
	switch n := c.random.IntN(6); {
	case n == 0:
		f.TxnKey = fmt.Appendf(nil, "t%d", c.random.IntN(4))
	case n < 4:
		f.TxnKey = fmt.Appendf(nil, "own%d", len(c.made))
	}
	return f
}

func (c *crowd) create(f api.Future) {
	if f.Timeout == 0 && f.GroupID == "" || c.going[f.UserID] || c.going[f.RoomID] {
		f = api.Future{UserID: "@bystander:test", RoomID: "!elsewhere:test", Type: f.Type, Content: []byte(`{}`), Timeout: time.Minute}
	}
	made := &crowdFuture{asked: f}
	c.mu.Lock()
	c.made = append(c.made, made)
	c.mu.Unlock()
	freeze := c.freeze
	c.later(func(s *Server) { c.creating(s, freeze, made) })
}

// creating creates a future, and repeats the request once if the server is busy.
func (c *crowd) creating(s *Server, freeze *freezer, made *crowdFuture) {
	for range 2 {
		f := made.asked
		asked := time.Now()
		answer, err := s.PerformFutureCreation(context.Background(), &f)
		c.mu.Lock()
		stops, stalls := c.stops, c.stalls
		if err == nil {
			made.answered, made.nid, made.secret = true, answer.NID, answer.Secret
			made.group = answer.UserID + " " + answer.GroupID
			made.asked.Timeout, made.asked.RoomID = answer.Timeout, answer.RoomID // a repeat has those of the first future
			made.lower = time.UnixMilli(answer.Created).Add(answer.Timeout)
		}
		c.mu.Unlock()
		_, refusal := errors.AsType[*api.Refusal](err)
		switch {
		case err == nil:
			if err := s.PerformTokenAction(context.Background(), answer.Token(api.GroupToken)); !errors.Is(err, api.ErrGone) && err != api.ErrStopping {
				c.fault("group token", "%v", err)
			}
		case refusal, errors.Is(err, api.ErrUnknownGroup), stops:
		case errors.Is(err, api.ErrStopping):
			c.fault("C13", "creation: %v, and the server is not", err)
		case errors.Is(err, api.ErrOverloaded):
			if !stalls && !freeze.isFrozen() {
				c.fault("creation", "%v", err)
			}
			time.Sleep(time.Duration(asked.UnixNano()%40) * time.Second)
			if s.isStopping() || c.isGoing(&made.asked) {
				return
			}
			continue
		default:
			c.fault("creation", "%v", err)
		}
		return
	}
}

// isGoing reports whether the end of the account or of the room has begun.
func (c *crowd) isGoing(f *api.Future) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.going[f.UserID] || c.going[f.RoomID]
}

func (c *crowd) act(kind api.TokenKind) {
	c.mu.Lock()
	if len(c.made) == 0 {
		c.mu.Unlock()
		return
	}
	made := c.made[c.random.IntN(len(c.made))]
	c.mu.Unlock()
	c.use(made, kind)
}

func (c *crowd) use(made *crowdFuture, kind api.TokenKind) {
	c.mu.Lock()
	if !made.answered {
		c.mu.Unlock()
		return
	}
	if kind != api.RefreshToken {
		c.touch(made)
	}
	made.sendAsked = made.sendAsked || kind == api.SendToken
	secret, timeout := made.secret, made.asked.Timeout
	c.mu.Unlock()
	c.later(func(s *Server) {
		asked := time.Now()
		err := s.PerformTokenAction(context.Background(), secret.Token(kind))
		if kind == api.RefreshToken && err == nil {
			c.mu.Lock()
			defer c.mu.Unlock()
			for _, f := range c.made { // several requests may have got the same future
				if f.answered && f.nid == made.nid {
					if t := asked.Add(timeout); t.After(f.lower) {
						f.lower = t
					}
				}
			}
		}
	})
}

// touch records that the future may end without an event, or before its deadline.
func (c *crowd) touch(made *crowdFuture) {
	for _, f := range c.made {
		if f.answered && f.nid == made.nid {
			f.mayEnd = true
		}
	}
}

// end removes an account or a room. Nothing new is begun there afterwards.
func (c *crowd) end(what string) {
	name := userName(c.random.IntN(2))
	if what == "room" {
		name = roomName(c.random.IntN(2))
	}
	if c.going[name] {
		return
	}
	c.mu.Lock()
	c.going[name] = true
	c.mu.Unlock()
	c.later(func(s *Server) {
		err := error(nil)
		if what == "room" {
			err = s.PerformRoomPurge(context.Background(), name)
		} else {
			err = s.PerformUserRemoval(context.Background(), name)
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		if err == nil {
			c.gone[name] = time.Now()
		}
	})
}

func (c *crowd) judge() {
	counts := c.server.QueryFutureCounts(context.Background())
	if counts.Scheduled+counts.Sending > 0 {
		c.fault("C5", "half an hour after the last timer there are %+v", counts)
	}
	byNID := map[api.NID]*crowdFuture{}
	for _, f := range c.made {
		if f.answered {
			byNID[f.nid] = f
		}
	}
	events := map[string]int{}
	seen := map[api.NID]fakeEvent{}
	for _, e := range c.rooms.all() {
		if _, twice := seen[e.nid]; twice {
			c.fault("doubled", "future %d", e.nid)
		}
		seen[e.nid] = e
		c.judgeEnd(e)
		whole, err := c.server.db.Load(context.Background(), e.nid)
		if err != nil || whole == nil {
			c.fault("lost", "the disk knows nothing of future %d: %v", e.nid, err)
			continue
		}
		events[whole.UserID+" "+whole.GroupID]++
		if f := byNID[e.nid]; f != nil && !f.sendAsked && e.built.Before(f.lower) {
			c.fault("C7", "future %d came %v before what was promised", e.nid, f.lower.Sub(e.built))
		}
	}
	for group, n := range events {
		if n > 1 && c.crash > 0 {
			c.fault("C1", "%d events of group %s, with a crash", n, group)
		} else if n > 1 {
			c.fault("C2", "%d events of group %s, without a crash", n, group)
		}
	}
	for _, f := range byNID {
		ended := f.mayEnd || c.going[f.asked.UserID] || c.going[f.asked.RoomID] ||
			slices.ContainsFunc(c.made, func(o *crowdFuture) bool { return o.group == f.group && o.sendAsked })
		if f.answered && f.asked.Timeout != 0 && !ended && events[f.group] == 0 {
			c.fault("C3", "future %d of group %s was answered with 200 and nothing was ever sent", f.nid, f.group)
		}
	}
}

// judgeEnd: an event of a removed account or room must have been claimed before the removal was answered.
func (c *crowd) judgeEnd(e fakeEvent) {
	f, err := c.server.db.Load(context.Background(), e.nid)
	if err != nil || f == nil {
		return
	}
	for _, name := range []string{f.UserID, f.RoomID} {
		if at, ok := c.gone[name]; ok && e.built.After(at) {
			c.fault("C12", "future %d of %s was sent %v after its end had been answered", e.nid, name, e.built.Sub(at))
		}
	}
}
