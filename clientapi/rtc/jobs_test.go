package rtc

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
)

// A call is what these tests play: delayed leaves with their timers, and an SFU.
type call struct {
	*testing.T
	*delegates
	stop func()

	mu       sync.Mutex
	leaves   map[string]*leave
	there    present
	away     error // what the SFU answers
	overload int   // so many actions fail first
}

type leave struct {
	delegated api.Delegated
	timer     *time.Timer
	done      chan struct{}
	sent      time.Time
	early     bool // by Send, not by its timer
	restarts  int
}

// inCall runs the test in a bubble of its own time.
func inCall(t *testing.T, f func(c *call)) {
	synctest.Test(t, func(t *testing.T) {
		c := &call{T: t, leaves: make(map[string]*leave), there: make(present)}
		c.start(false)
		f(c)
		c.stop()
		synctest.Wait()
		for _, l := range c.leaves {
			l.timer.Stop()
		}
		if len(c.jobs)+len(c.calls) != 0 {
			t.Errorf("left behind: %d jobs, %d calls", len(c.jobs), len(c.calls))
		}
	})
}

// start starts the server. Again, it gives each leave its whole delay first.
func (c *call) start(again bool) {
	ctx, cancel := context.WithCancel(c.Context())
	c.stop = cancel
	c.delegates = newDelegates(ctx, c, newMetrics(nil))
	c.delegates.look, c.delegates.remove = c.ask, c.kick
	c.mu.Lock()
	for _, l := range c.leaves {
		l.delegated.Starts++
		l.timer.Reset(l.delegated.Timeout)
	}
	c.mu.Unlock()
	if again {
		c.resume()
	}
}

const alias = "alias"

var aliceLine = line{"wss://sfu", alias, "alice"}

// schedule has a client schedule a leave and delegate it.
func (c *call) schedule(id string, delay time.Duration) *leave {
	c.Helper()
	c.mu.Lock()
	l := &leave{done: make(chan struct{})}
	l.timer = time.AfterFunc(delay, func() { c.end(l) })
	l.delegated = api.Delegated{Timeout: delay, Done: l.done}
	c.leaves[id] = l
	c.mu.Unlock()
	if err := c.accept(c.ctx, api.Delegation{DelayID: id, UserID: "@alice:test", RoomID: "!room", Key: id},
		details{SFUs: []string{"wss://sfu"}, Alias: alias, Identities: []string{"other", "alice"}}); err != nil {
		c.Fatal(err)
	}
	synctest.Wait()
	return l
}

func (c *call) end(l *leave) {
	c.mu.Lock()
	defer c.mu.Unlock()
	l.end(false)
}

func (l *leave) end(early bool) {
	if l.sent.IsZero() {
		l.sent, l.early = time.Now(), early
		l.timer.Stop()
		close(l.done)
	}
}

func (c *call) PerformDelegation(_ context.Context, d api.Delegation) (*api.Delegated, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	l := c.leaves[d.DelayID]
	if l == nil || !l.sent.IsZero() {
		return nil, api.ErrGone
	}
	d.Starts = 0
	l.delegated.Delegation = d
	copied := l.delegated
	return &copied, nil
}

func (c *call) QueryDelegations() (all []*api.Delegated) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, l := range c.leaves {
		copied := l.delegated
		all = append(all, &copied)
	}
	return all
}

func (c *call) PerformDelayedEventAction(_ context.Context, id, owner string, a api.Action) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	l := c.leaves[id]
	switch {
	case c.overload > 0:
		c.overload--
		return api.ErrOverloaded
	case owner != "@alice:test":
		return api.ErrGone
	case !l.sent.IsZero():
		return &api.FinishedError{Future: &api.Future{State: api.Sent}}
	case a == api.Send:
		l.end(true)
	default:
		l.restarts++
		l.timer.Reset(l.delegated.Timeout)
	}
	return nil
}

func (c *call) ask(_ context.Context, key callKey, identities ...string) (present, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !key.on("wss://sfu") || key.alias != alias {
		c.Errorf("asks for %v", key)
	}
	there := make(present)
	for identity, sid := range c.there {
		there[identity] = sid
	}
	return there, c.away
}

func (c *call) kick(_ context.Context, _ callKey, identities ...string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, identity := range identities {
		delete(c.there, identity)
	}
	return nil
}

// connect changes who is connected, without a webhook.
func (c *call) connect(sid string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if delete(c.there, "alice"); sid != "" {
		c.there["alice"] = sid
	}
}

func (c *call) setOverload(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.overload = n
}

func (c *call) setAway(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.away = err
}

// hook is a webhook.
func (c *call) hook(event, sid, reason string) {
	c.post(event, sid, reason)
	synctest.Wait()
}

func (c *call) post(event, sid, reason string) {
	n := &news{Event: event}
	n.Room.Name, n.Participant.Identity, n.Participant.SID, n.Participant.DisconnectReason = alias, "alice", sid, reason
	c.webhook("wss://sfu", n)
}

// after says what has become of the leave after that time.
func (c *call) after(l *leave, d time.Duration) (sent time.Time, early bool) {
	time.Sleep(d)
	synctest.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	return l.sent, l.early
}

// isConfirmed reports whether the delegation is, since the last start.
func (c *call) isConfirmed(l *leave) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return l.delegated.Starts == 0
}

// stays fails if the leave has been sent after that time.
func (c *call) stays(l *leave, d time.Duration) {
	c.Helper()
	if sent, early := c.after(l, d); !sent.IsZero() {
		c.Fatalf("the leave was sent, early: %v", early)
	}
}

// goes fails unless the leave is sent because the participant is gone, within that time.
func (c *call) goes(l *leave, d time.Duration) {
	c.Helper()
	if sent, early := c.after(l, d); sent.IsZero() || !early {
		c.Fatalf("the leave was sent at %v, early: %v", sent, early)
	}
}

// TestCall: a participant stays for as long as they are connected, and no longer.
func TestCall(t *testing.T) {
	for name, f := range map[string]func(c *call, l *leave){
		"with webhooks": func(c *call, l *leave) {
			c.connect("1")
			c.hook(participantJoined, "1", "")
			c.stays(l, 10*time.Minute)
			c.connect("")
			c.hook(participantLeft, "1", "CLIENT_INITIATED")
			c.goes(l, 0)
		},
		"the webhooks are lost": func(c *call, l *leave) {
			c.connect("1")
			c.stays(l, 10*time.Minute)
			c.connect("")
			c.goes(l, time.Minute)
		},
		"reconnecting": func(c *call, l *leave) {
			c.connect("1")
			c.hook(participantJoined, "1", "")
			c.connect("")
			c.hook(participantLeft, "1", "SIGNAL_CLOSE")
			c.stays(l, time.Second)
			c.connect("2")
			c.stays(l, time.Minute)
			c.hook(participantJoined, "2", "")
			c.hook(participantLeft, "1", "DUPLICATE_IDENTITY")
			c.stays(l, 10*time.Minute)
		},
		"the signalling connection is over for a moment": func(c *call, l *leave) {
			c.connect("1")
			c.connected(aliceLine)
			c.hook(participantJoined, "1", "")
			c.disconnected(aliceLine, true)
			c.stays(l, comeBackSignal-time.Millisecond)
			c.connected(aliceLine)
			c.connected(aliceLine)
			c.disconnected(aliceLine, true)
			c.stays(l, time.Hour)
			c.disconnected(aliceLine, true)
			c.goes(l, comeBackSignal)
		},
		"the SFU is away": func(c *call, l *leave) {
			c.connect("1")
			c.stays(l, time.Minute)
			c.setAway(errAway)
			c.connect("")
			c.stays(l, 50*time.Minute)
			c.setAway(nil)
			c.goes(l, 2*time.Minute)
		},
		"the SFU is away for ever": func(c *call, l *leave) {
			c.connect("1")
			c.stays(l, time.Minute)
			c.setAway(errAway)
			c.connect("")
			c.stays(l, time.Hour-time.Minute)
			if sent, early := c.after(l, 3*time.Minute); sent.IsZero() || early {
				c.Errorf("sent at %v, early %v", sent, early)
			}
		},
	} {
		t.Run(name, func(t *testing.T) { inCall(t, func(c *call) { f(c, c.schedule("id", 20*time.Second)) }) })
	}
}

// TestCallEnds: the leave is sent once, whatever comes.
func TestCallEnds(t *testing.T) {
	for name, f := range map[string]func(c *call, l *leave){
		"the machine dies": func(c *call, l *leave) {
			c.connect("1")
			c.connected(aliceLine)
			c.hook(participantJoined, "1", "")
			c.stays(l, 40*time.Second)
			c.disconnected(aliceLine, true)
			c.goes(l, comeBackSignal)
			if len(c.there) != 0 {
				c.Error("the SFU still has the participant")
			}
		},
		"the SFU restarts": func(c *call, l *leave) {
			c.connect("1")
			c.connected(aliceLine)
			c.hook(participantJoined, "1", "")
			c.setAway(errAway)
			c.disconnected(aliceLine, false)
			c.stays(l, 20*time.Second)
			c.connect("")
			c.setAway(nil)
			c.goes(l, comeBackFromRestart)
		},
		"nobody comes": func(c *call, l *leave) { c.goes(l, 20*time.Second) },
		"the call is over": func(c *call, l *leave) {
			c.connect("1")
			c.hook(participantJoined, "1", "")
			c.connect("")
			c.hook(roomFinished, "", "")
			c.goes(l, 0)
		},
		"the server is overloaded": func(c *call, l *leave) {
			c.connect("1")
			c.hook(participantJoined, "1", "")
			c.setOverload(3)
			c.connect("")
			c.hook(participantLeft, "1", "ROOM_DELETED")
			c.goes(l, 2*time.Second)
		},
		"somebody else sends it": func(c *call, l *leave) {
			c.connect("1")
			c.hook(participantJoined, "1", "")
			c.end(l)
			c.hook(participantLeft, "1", "CLIENT_INITIATED")
		},
	} {
		t.Run(name, func(t *testing.T) { inCall(t, func(c *call) { f(c, c.schedule("id", 20*time.Second)) }) })
	}
}

// TestManyJobs: a call of many, whose webhooks all come at once.
func TestManyJobs(t *testing.T) {
	inCall(t, func(c *call) {
		c.connect("1")
		var all []*leave
		for n := range 100 {
			all = append(all, c.schedule(fmt.Sprint(n), time.Minute))
		}
		for range 10 {
			go c.post(participantJoined, "1", "")
		}
		for _, l := range all {
			c.stays(l, time.Second)
		}
		c.connect("")
		for range 10 {
			c.hook(participantLeft, "1", "CLIENT_INITIATED")
		}
		for _, l := range all {
			c.goes(l, 0)
		}
	})
}

// TestResume: after a start nobody is thrown out who is there, and nobody stays who is gone.
func TestResume(t *testing.T) {
	for name, f := range map[string]func(c *call, l *leave){
		"there": func(c *call, l *leave) {
			c.stays(l, 10*time.Minute)
			if !c.isConfirmed(l) {
				c.Error("the delegation is not confirmed")
			}
		},
		"gone": func(c *call, l *leave) {
			c.connect("")
			c.stays(l, 59*time.Second)
			c.goes(l, time.Second)
		},
		"the SFU comes later": func(c *call, l *leave) {
			c.connect("")
			c.stays(l, 5*time.Minute)
			if c.isConfirmed(l) {
				c.Error("the delegation is confirmed")
			}
			c.setAway(nil)
			c.stays(l, 30*time.Second)
			c.connect("2")
			c.stays(l, 10*time.Minute)
		},
	} {
		t.Run(name, func(t *testing.T) {
			inCall(t, func(c *call) {
				c.connect("1")
				l := c.schedule("id", 20*time.Second)
				c.stays(l, time.Minute)
				c.stop()
				synctest.Wait()
				if name == "the SFU comes later" {
					c.setAway(errAway)
				}
				c.start(true)
				f(c, l)
			})
		})
	}
}

// TestUnknownDelayedEvent: what cannot be delegated leaves nothing behind.
func TestUnknownDelayedEvent(t *testing.T) {
	inCall(t, func(c *call) {
		err := c.accept(c.ctx, api.Delegation{DelayID: "unknown"}, details{})
		if !errors.Is(err, api.ErrGone) {
			t.Error(err)
		}
	})
}
