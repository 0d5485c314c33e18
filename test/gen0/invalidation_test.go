package gen0

import (
	"time"

	"github.com/matrix-org/dendrite/futures/test/rig"
)

// invalidation tests 5.7: newer state wins. Newer state from another server is in federation_test.go.
func invalidation() []requirement {
	return []requirement{
		{"5.7 by the same user,10.14", func(s *scene) { newerState(s, s.Alice) }},
		{"5.7 by another user,10.14", func(s *scene) { newerState(s, s.Bob) }},
		{"5.7 membership", newerMembership},
		{"5.7 messages,10.15", messagesLive},
		{"5.7 other state,10.16", otherState},
		{"5.7 a future that fires", firingInvalidates},
		{"5.7 scheduling", schedulingInvalidatesNothing},
		{"5.7 last timeout future", lastTimeoutInvalidated},
		{"5.7 one's own earlier state", earlierState},
		{"5.7 the same again", equalState},
	}
}

func newerState(s *scene, by *rig.User) {
	s.SetPower("state_default", 0)
	const timeout = 3 * soon
	fresh, over := s.state("test", "fresh", "old", timeout, ""), rig.Future{}
	s.Alice.SendState(s.Room, "test", "over", rig.Text("first"))
	over = s.state("test", "over", "old", timeout, "")
	for _, key := range []string{"fresh", "over"} {
		by.SendState(s.Room, "test", key, rig.Text("new"))
	}
	s.getsGone(fresh)
	s.getsGone(over)
	s.gone(fresh, over)
	s.passes(timeout)
	s.Has(0, "old")
	for _, key := range []string{"fresh", "over"} {
		if got := s.Alice.GetState(s.Room, "test", key).Get("body").String(); got != "new" {
			s.Errorf("the state is %q", got)
		}
	}
}

// newerMembership does what MatrixRTC does: rejoin before the heartbeat stops.
func newerMembership(s *scene) {
	const call = "org.matrix.msc3401.call.member"
	s.Alice.SendState(s.Room, call, s.Alice.ID, rig.Text("joined"))
	leave := s.state(call, s.Alice.ID, "left", 2*soon, "")
	s.works(leave.Refresh)
	s.Alice.SendState(s.Room, call, s.Alice.ID, rig.Text("joined again"))
	s.getsGone(leave)
	s.passes(3 * soon)
	s.Has(0, "left")
}

func messagesLive(s *scene) {
	s.message("x", 2*soon, "")
	s.note(s.Alice.SendFuture(s.Room, "test", rig.Text("y"), rig.Params{Timeout: 2 * soon}))
	for _, eventType := range []string{"m.room.message", "test"} {
		s.Alice.SendState(s.Room, eventType, "", rig.Text("new"))
	}
	s.Sees("x")
	s.Sees("y")
}

func otherState(s *scene) {
	f := s.state("test", "key", "x", later, "")
	s.Alice.SendState(s.Room, "test", "", rig.Text("other key"))
	s.Alice.SendState(s.Room, "test2", "key", rig.Text("other type"))
	s.Alice.SendState(s.Alice.CreateRoom(nil), "test", "key", rig.Text("other room"))
	s.passes(soon)
	s.works(f.Refresh)
	s.works(f.Send)
	s.Sees("x")
}

func firingInvalidates(s *scene) {
	first, second := s.state("test", "", "first", soon, ""), s.state("test", "", "second", later, "")
	s.Sees("first")
	s.getsGone(second)
	s.gone(first, second)
}

func schedulingInvalidatesNothing(s *scene) {
	s.state("test", "", "first", 2*soon, "")
	second := s.state("test", "", "second", later, "")
	s.works(second.Cancel)
	s.Sees("first")
	s.Has(0, "second")
}

func lastTimeoutInvalidated(s *scene) {
	f, action := s.state("test", "", "old", later, "g"), s.message("action", 0, "g")
	other := s.state("test", "", "other", later, "h")
	rescue, saved := s.message("rescue", later, "h"), s.message("saved", 0, "h")
	s.Alice.SendState(s.Room, "test", "", rig.Text("new"))
	s.getsGone(f)
	s.gone(f, action)
	s.getsGone(other)
	s.works(rescue.Refresh, saved.Send) // its group has another timeout future
	s.Sees("saved")
	s.Has(0, "old", "action", "other", "rescue")
}

// earlierState is invariant 6: first state, at once the future, many times.
func earlierState(s *scene) {
	var f rig.Future
	for round := range 20 {
		s.Alice.SendState(s.Room, "test", "", rig.Text("joined"))
		s.Alice.SendState(s.Room, "test", "", map[string]any{"body": "joined", "round": round})
		f = s.state("test", "", "left", later, "")
		if round%2 == 0 {
			s.passes(10 * time.Millisecond)
		}
		s.works(f.Refresh)
	}
	s.passes(soon)
	s.works(f.Send)
	s.Sees("left")
}

// equalState: Dendrite answers a repeat of the current state with the old event, so there is no newer state.
func equalState(s *scene) {
	s.Alice.SendState(s.Room, "test", "", rig.Text("same"))
	f := s.state("test", "", "x", 2*soon, "")
	s.Alice.SendState(s.Room, "test", "", rig.Text("same"))
	s.works(f.Refresh)
	s.Sees("x")
}
