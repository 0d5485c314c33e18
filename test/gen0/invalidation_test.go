package gen0

import (
	"time"

	"github.com/matrix-org/dendrite/futures/test/rig"
)

// invalidation proves 5.7: newer state wins. Another server's state is in federation_test.go.
func invalidation() []requirement {
	return []requirement{
		{"5.7 by the same user,10.14", func(s *scene) { newerState(s, s.alice) }},
		{"5.7 by another user,10.14", func(s *scene) { newerState(s, s.bob) }},
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
	s.setPower("state_default", 0)
	const timeout = 3 * soon
	fresh, over := s.state("test", "fresh", "old", timeout, ""), rig.Future{}
	s.alice.SendState(s.room, "test", "over", text("first"))
	over = s.state("test", "over", "old", timeout, "")
	for _, key := range []string{"fresh", "over"} {
		by.SendState(s.room, "test", key, text("new"))
	}
	s.getsGone(fresh)
	s.getsGone(over)
	s.gone(fresh, over)
	s.passes(timeout)
	s.has(0, "old")
	for _, key := range []string{"fresh", "over"} {
		if got := s.alice.GetState(s.room, "test", key).Get("body").String(); got != "new" {
			s.Errorf("the state is %q", got)
		}
	}
}

// newerMembership is what MatrixRTC does: rejoin before the heartbeat stops.
func newerMembership(s *scene) {
	const call = "org.matrix.msc3401.call.member"
	s.alice.SendState(s.room, call, s.alice.ID, text("joined"))
	leave := s.state(call, s.alice.ID, "left", 2*soon, "")
	s.works(leave.Refresh)
	s.alice.SendState(s.room, call, s.alice.ID, text("joined again"))
	s.getsGone(leave)
	s.passes(3 * soon)
	s.has(0, "left")
}

func messagesLive(s *scene) {
	s.message("x", 2*soon, "")
	s.note(s.alice.SendFuture(s.room, "test", text("y"), rig.Params{Timeout: 2 * soon}))
	for _, eventType := range []string{"m.room.message", "test"} {
		s.alice.SendState(s.room, eventType, "", text("new"))
	}
	s.sees("x")
	s.sees("y")
}

func otherState(s *scene) {
	f := s.state("test", "key", "x", later, "")
	s.alice.SendState(s.room, "test", "", text("other key"))
	s.alice.SendState(s.room, "test2", "key", text("other type"))
	s.alice.SendState(s.alice.CreateRoom(nil), "test", "key", text("other room"))
	s.passes(soon)
	s.works(f.Refresh)
	s.works(f.Send)
	s.sees("x")
}

func firingInvalidates(s *scene) {
	first, second := s.state("test", "", "first", soon, ""), s.state("test", "", "second", later, "")
	s.sees("first")
	s.getsGone(second)
	s.gone(first, second)
}

func schedulingInvalidatesNothing(s *scene) {
	s.state("test", "", "first", 2*soon, "")
	second := s.state("test", "", "second", later, "")
	s.works(second.Cancel)
	s.sees("first")
	s.has(0, "second")
}

func lastTimeoutInvalidated(s *scene) {
	f, action := s.state("test", "", "old", later, "g"), s.message("action", 0, "g")
	other := s.state("test", "", "other", later, "h")
	rescue, saved := s.message("rescue", later, "h"), s.message("saved", 0, "h")
	s.alice.SendState(s.room, "test", "", text("new"))
	s.getsGone(f)
	s.gone(f, action)
	s.getsGone(other)
	s.works(rescue.Refresh, saved.Send) // its group has another timeout future
	s.sees("saved")
	s.has(0, "old", "action", "other", "rescue")
}

// earlierState is design invariant 6: state, then at once the future, over and over.
func earlierState(s *scene) {
	var f rig.Future
	for round := range 20 {
		s.alice.SendState(s.room, "test", "", text("joined"))
		s.alice.SendState(s.room, "test", "", map[string]any{"body": "joined", "round": round})
		f = s.state("test", "", "left", later, "")
		if round%2 == 0 {
			s.passes(10 * time.Millisecond)
		}
		s.works(f.Refresh)
	}
	s.passes(soon)
	s.works(f.Send)
	s.sees("left")
}

// equalState: Dendrite answers a repeat of the current state with the old event, so nothing is newer.
func equalState(s *scene) {
	s.alice.SendState(s.room, "test", "", text("same"))
	f := s.state("test", "", "x", 2*soon, "")
	s.alice.SendState(s.room, "test", "", text("same"))
	s.works(f.Refresh)
	s.sees("x")
}
