package interop_test

import (
	"net/url"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/futures/test/rig"
)

// TestOutage makes one of the servers unavailable at the wrong time: it is down, is killed, or the two are separated.
// Each part runs in a room of ours and in one of Synapse's.
func TestOutage(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	for _, part := range []struct {
		name     string
		play     func(*testing.T, *pair, []*stage)
		versions []string
	}{
		{"Synapse is down", synapseDown, late},
		{"ours is down", oursDown, late},
		{"ours is killed", oursKilled, late},
		{"partition", partition, late},
		// Before version 12 Dendrite resolves state in its own way, which we do not change (docs/base.md).
		{"partition with new keys", partitionWithNewKeys, []string{"12"}},
	} {
		for _, version := range part.versions {
			t.Run(part.name+"/v"+version, func(t *testing.T) {
				p.heal()
				var stages []*stage
				for _, home := range []string{"ours", "synapse"} {
					s := &stage{scene: newScene(t, p, version, home)}
					s.owner, s.guest, s.room = s.meet(nil)
					stages = append(stages, s)
				}
				part.play(t, p, stages)
				for _, s := range stages {
					s.agree(s.room, s.owner, s.guest)
				}
			})
		}
	}
}

// heal starts and connects what a failed part has left.
func (p *pair) heal() {
	if !p.ours.Running() {
		p.ours.Start()
	}
	if !p.synapse.Running() {
		p.synapse.Start()
	}
	p.ours.Proxy.Mend()
	p.synapse.Proxy.Mend()
}

// stage is one of the rooms of a part.
type stage struct {
	*scene
	room         string
	owner, guest *rig.User
}

// on returns the stage's user who is on that side.
func (s *stage) on(name string) *rig.User {
	if s.home.name == name {
		return s.owner
	}
	return s.guest
}

// schedule schedules an event of each generation for the user on our side. It returns their bodies.
func (s *stage) schedule(mark string, delay time.Duration) []string {
	s.Helper()
	u := s.on("ours")
	u.SendFuture(s.room, "m.room.message", rig.Text("future "+mark), rig.Params{Timeout: delay})
	u.StateFuture(s.room, piece, mark, rig.Text("state future "+mark), rig.Params{Timeout: delay})
	s.delay(u, s.room, "send/m.room.message/"+u.NextTxn(), "delayed "+mark, delay)
	s.delay(u, s.room, "state/"+piece+"/"+url.PathEscape("delayed "+mark), "delayed state "+mark, delay)
	return []string{"future " + mark, "state future " + mark, "delayed " + mark, "delayed state " + mark}
}

// once waits until both sides have all the bodies, and checks that each is there once.
func (s *stage) once(bodies ...string) {
	s.Helper()
	for _, body := range bodies {
		s.sees(body, s.room, s.owner, s.guest)
	}
	s.exchange(s.room, s.owner, s.guest)
	for _, body := range bodies {
		s.has(1, body, s.room, s.owner, s.guest)
	}
}

// synapseDown: events that our server sends while Synapse is down arrive when it is up again.
func synapseDown(_ *testing.T, p *pair, stages []*stage) {
	var bodies []string
	for _, s := range stages {
		bodies = s.schedule("synapse is down", 2*time.Second)
	}
	p.synapse.Kill()
	for _, s := range stages {
		for _, body := range bodies {
			s.sees(body, s.room, s.on("ours"))
		}
	}
	p.synapse.Start()
	for _, s := range stages {
		s.once(bodies...)
	}
}

// oursDown: events that were due while our server was down are sent after the start, and events that Synapse has sent
// meanwhile arrive.
func oursDown(_ *testing.T, p *pair, stages []*stage) {
	const delay = 4 * time.Second
	due := time.Now().Add(delay)
	var bodies []string
	for _, s := range stages {
		u := s.on("synapse")
		s.delay(u, s.room, "send/m.room.message/"+u.NextTxn(), "message of Synapse's", delay)
		s.delay(u, s.room, "state/"+piece+"/"+url.PathEscape(u.ID), "state of Synapse's", delay)
		bodies = append(s.schedule("ours is down", delay), "message of Synapse's", "state of Synapse's")
	}
	p.ours.Stop()
	for _, s := range stages {
		s.sees("message of Synapse's", s.room, s.on("synapse"))
		s.sees("state of Synapse's", s.room, s.on("synapse"))
	}
	<-time.After(time.Until(due.Add(time.Second))) // our events are certainly due
	p.ours.Start()
	for _, s := range stages {
		s.once(bodies...)
	}
}

// oursKilled: SIGKILL at the deadline, at two steps of a future's life and wherever it is then.
func oursKilled(t *testing.T, p *pair, stages []*stage) {
	const delay = 2 * time.Second
	for _, step := range []string{"claimed", "submitted", "any"} {
		due := time.Now().Add(delay)
		var bodies []string
		for _, s := range stages {
			bodies = s.schedule("killed at "+step, delay)
		}
		if step == "any" {
			<-time.After(time.Until(due))
			p.ours.Kill()
		} else {
			p.ours.CrashAt(step, 1)
			if !p.ours.WaitExit(patience) {
				t.Fatalf("no future was %s", step)
			}
		}
		p.ours.Start()
		for _, s := range stages {
			s.once(bodies...)
		}
	}
}

// partition: while the servers are separated, their users change the same things. When they are connected again, both
// must reach the same state.
func partition(_ *testing.T, p *pair, stages []*stage) {
	split(p, stages, "shared")
}

// partitionWithNewKeys: a user sets state on her side after she was banned on the other. It is in the state of one side
// only. It conflicts nevertheless with its absence, and must be removed.
func partitionWithNewKeys(_ *testing.T, p *pair, stages []*stage) {
	split(p, stages, "of the outcast")
	for _, s := range stages {
		if got := s.owner.GetState(s.room, piece, "of the outcast"); got.Exists() {
			s.Errorf("what the outcast set after her ban is in the state: %s", got.Raw)
		}
	}
}

// split runs a partition in which a banned user sets the piece of state with that key.
func split(p *pair, stages []*stage, key string) {
	outcasts := make(map[*stage]*rig.User)
	for _, s := range stages {
		s.Helper()
		outcast := s.register(s.away, "outcast")
		s.join(outcast, s.room, s.home)
		outcasts[s] = outcast
		s.setPower(s.owner, s.room, func(levels map[string]any) {
			levels["users"].(map[string]any)[s.guest.ID] = 100
		})
		s.owner.SendState(s.room, piece, "shared", rig.Text("before"))
		s.agree(s.room, s.owner, s.guest, outcast)
	}
	p.ours.Proxy.Cut()
	p.synapse.Proxy.Cut()
	for _, s := range stages {
		s.wants(membership(s.owner, s.room, "ban", outcasts[s]), 200, "")
		s.setPower(s.owner, s.room, func(levels map[string]any) { levels["invite"] = 70 })
		s.disagree(s.owner)
		s.setPower(s.guest, s.room, func(levels map[string]any) {
			levels["users"].(map[string]any)[outcasts[s].ID] = 50
		})
		s.disagree(s.guest)
		outcasts[s].SendState(s.room, piece, key, rig.Text("after the ban"))
	}
	p.ours.Proxy.Mend()
	p.synapse.Proxy.Mend()
	for _, s := range stages {
		s.agree(s.room, s.owner, s.guest)
		for _, u := range []*rig.User{s.owner, s.guest} {
			if got := u.GetState(s.room, "m.room.member", outcasts[s].ID).Get("membership").String(); got != "ban" {
				s.Errorf("to %s the outcast is %q after the partition, want ban", u.ID, got)
			}
		}
	}
}

// disagree sets what the user on the other side sets differently.
func (s *stage) disagree(u *rig.User) {
	s.Helper()
	u.SendState(s.room, "m.room.name", "", map[string]any{"name": "by " + u.ID})
	u.SendState(s.room, piece, "shared", rig.Text("by "+u.ID))
	u.SendState(s.room, piece, "only of "+u.ID, rig.Text("by "+u.ID))
	u.Send(s.room, "m.room.message", rig.Text("alone: "+u.ID))
}
