package interop_test

import (
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/tidwall/gjson"

	"github.com/matrix-org/dendrite/futures/test/rig"
)

func delayedScenarios() []scenario {
	return []scenario{
		{"futures fire", late, futuresFire},
		{"delayed events fire", late, delayedEventsFire},
		{"newer state", late, newerState},
		{"thrown out before the time", late, thrownOut},
	}
}

// futuresFire: generation 0, which only our server has: by timer, by token, messages and state, and one event of a
// group.
func futuresFire(s *scene) {
	owner, guest, room := s.meet(nil)
	ours, theirs := s.sides(owner, guest)
	const timeout = time.Second
	start := time.Now()
	ours.SendFuture(room, "m.room.message", rig.Text("timeout"), rig.Params{Timeout: timeout})
	ours.StateFuture(room, piece, "desk", rig.Text("left"), rig.Params{Timeout: timeout})
	group := ours.SendFuture(room, "m.room.message", rig.Text("loses"), rig.Params{Timeout: time.Minute})
	action := ours.SendFuture(room, "m.room.message", rig.Text("wins"), rig.Params{Group: group.Group})
	if r := s.ours.UseToken(s, action.Send); r.Status != http.StatusOK {
		s.Fatalf("the send token is answered %d %s", r.Status, r.Body)
	}
	for _, body := range []string{"wins", "timeout", "left"} {
		event := theirs.WaitFor(room, rig.HasBody(body), patience)
		if ts := event.Get("origin_server_ts").Int(); body != "wins" && ts < start.Add(timeout).UnixMilli() {
			s.Errorf("%q came %d ms early", body, start.Add(timeout).UnixMilli()-ts)
		}
	}
	s.agree(room, owner, guest)
	for _, body := range []string{"wins", "timeout", "left"} {
		s.has(1, body, room, owner, guest)
	}
	s.has(0, "loses", room, owner, guest)
}

// delayedEventsFire: generation 1, on both sides.
func delayedEventsFire(s *scene) {
	owner, guest, room := s.meet(nil)
	users := []*rig.User{owner, guest}
	var bodies []string
	for _, u := range users {
		message, state, sent := "message of "+u.ID, "state of "+u.ID, "sent by "+u.ID
		s.delay(u, room, "send/m.room.message/"+u.NextTxn(), message, time.Second)
		s.delay(u, room, "state/"+piece+"/"+url.PathEscape(u.ID), state, time.Second)
		id := s.delay(u, room, "send/m.room.message/"+u.NextTxn(), sent, time.Hour)
		s.wants(u.Do(http.MethodPost, rig.UnstableDelayed+"/"+id, nil, map[string]any{"action": "send"}), 200, "")
		bodies = append(bodies, message, state, sent)
	}
	for _, body := range bodies {
		s.sees(body, room, users...)
	}
	s.agree(room, users...)
	for _, body := range bodies {
		s.has(1, body, room, users...)
	}
}

// delay schedules an event with generation 1 and returns its delay_id.
func (s *scene) delay(u *rig.User, room, rest, body string, delay time.Duration) string {
	s.Helper()
	r := s.wants(u.Delay(room, rest, rig.Text(body), delay), 200, "")
	id := r.JSON.Get("delay_id").String()
	if id == "" {
		s.Fatalf("scheduling is answered %s", r.Body)
	}
	return id
}

// newerState: state set on the other side ends what was scheduled for the same key, and nothing else.
func newerState(s *scene) {
	owner, guest, room := s.meet(nil)
	ours, theirs := s.sides(owner, guest)
	for _, u := range []*rig.User{ours, theirs} {
		for _, key := range []string{"future", "delayed", "mine"} {
			u.SendState(room, piece, key+u.ID, rig.Text("before"))
		}
	}
	s.exchange(room, owner, guest)

	hour := rig.Params{Timeout: time.Hour}
	future := ours.StateFuture(room, piece, "future"+ours.ID, rig.Text("late"), hour)
	mine := ours.StateFuture(room, piece, "mine"+ours.ID, rig.Text("late"), hour)
	delayed := s.delay(ours, room, "state/"+piece+"/"+url.PathEscape("delayed"+ours.ID), "late", time.Hour)
	other := s.delay(ours, room, "state/"+piece+"/other", "late", time.Hour)
	synapses := s.delay(theirs, room, "state/"+piece+"/"+url.PathEscape("delayed"+theirs.ID), "late", time.Hour)

	theirs.SendState(room, piece, "future"+ours.ID, rig.Text("newer"))
	theirs.SendState(room, piece, "delayed"+ours.ID, rig.Text("newer"))
	ours.SendState(room, piece, "mine"+ours.ID, rig.Text("newer"))
	ours.SendState(room, piece, "delayed"+theirs.ID, rig.Text("newer"))

	over := func(what string, u *rig.User, id string, pending func(*scene, *rig.User) []string) {
		s.Helper()
		eventually(s, what+" ends", func() bool { return !slices.Contains(pending(s, u), id) })
	}
	over("our future, by their state,", ours, future.Send, pendingFutures)
	over("our future, by our own newer state,", ours, mine.Send, pendingFutures)
	over("our delayed event, by their state,", ours, delayed, pendingDelayed)
	over("their delayed event, by our state,", theirs, synapses, pendingDelayed)
	if !slices.Contains(pendingDelayed(s, ours), other) {
		s.Errorf("a delayed event for another key has ended too")
	}
	s.agree(room, owner, guest)
	s.has(0, "late", room, owner, guest)
}

// pendingFutures returns the send tokens of the user's running futures.
func pendingFutures(s *scene, u *rig.User) (tokens []string) {
	s.Helper()
	for _, e := range s.wants(u.Do(http.MethodGet, rig.Path("futures"), nil, nil), 200, "").JSON.Array() {
		tokens = append(tokens, e.Get("response.send_token").String())
	}
	return tokens
}

// pendingDelayed returns the delay_ids of the user's delayed events that have not ended.
func pendingDelayed(s *scene, u *rig.User) (ids []string) {
	s.Helper()
	r := s.wants(u.Do(http.MethodGet, rig.UnstableDelayed, nil, nil), 200, "")
	for _, e := range r.JSON.Get("delayed_events").Array() {
		if !e.Get("finalised").Exists() && !e.Get("finalised_ts").Exists() {
			ids = append(ids, e.Get("delay_id").String())
		}
	}
	return ids
}

// thrownOut: one guest is kicked, one banned, one loses the power to speak, all by the other side. Their scheduled
// events do not arrive.
func thrownOut(s *scene) {
	owner, witness, room := s.meet(nil)
	s.setPower(owner, room, func(levels map[string]any) {
		users, _ := levels["users"].(map[string]any)
		users[witness.ID] = 60
	})
	victims := []*rig.User{s.register(s.away, "kicked"), s.register(s.away, "banned"), s.register(s.away, "muted")}
	for _, victim := range victims {
		s.join(victim, room, s.home)
		s.member(owner, room, victim, "join")
	}
	const delay = 6 * time.Second
	start := time.Now()
	for _, victim := range victims {
		s.delay(victim, room, "send/m.room.message/"+victim.NextTxn(), "late", delay)
		s.delay(victim, room, "state/"+piece+"/"+url.PathEscape(victim.ID), "late", delay)
		if s.away.name == "ours" {
			victim.SendFuture(room, "m.room.message", rig.Text("late"), rig.Params{Timeout: delay})
			victim.StateFuture(room, piece, "of "+victim.ID, rig.Text("late"), rig.Params{Timeout: delay})
		}
	}
	s.wants(membership(owner, room, "kick", victims[0]), 200, "")
	s.wants(membership(owner, room, "ban", victims[1]), 200, "")
	levels := s.setPower(owner, room, func(levels map[string]any) {
		levels["events_default"] = 50
		levels["events"] = map[string]any{piece: 50}
	})
	s.told(owner, witness, room, isMember(victims[0], "leave"))
	s.told(owner, witness, room, isMember(victims[1], "ban"))
	witness.WaitFor(room, is(levels), patience)
	if took := time.Since(start); took > delay-time.Second {
		s.Fatalf("this machine is too slow: the guests were thrown out after %s", took)
	}
	s.delay(witness, room, "send/m.room.message/"+witness.NextTxn(), "the time is over", delay)
	s.sees("the time is over", room, owner, witness)
	s.agree(room, owner, witness)
	s.has(0, "late", room, owner, witness)
}

// setPower changes the room's power levels and returns the event's ID.
func (s *scene) setPower(u *rig.User, room string, change func(levels map[string]any)) string {
	s.Helper()
	levels, _ := gjson.Parse(u.GetState(room, "m.room.power_levels", "").Raw).Value().(map[string]any)
	if levels["users"] == nil {
		levels["users"] = map[string]any{}
	}
	change(levels)
	return u.SendState(room, "m.room.power_levels", "", levels)
}
