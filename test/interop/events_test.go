package interop_test

import (
	"net/http"
	"slices"
	"time"

	"github.com/tidwall/gjson"

	"github.com/matrix-org/dendrite/futures/test/rig"
)

func eventScenarios() []scenario {
	return []scenario{
		{"messages and state", every, messagesAndState},
		{"redact", every, redact},
		{"redact by send", []string{"11", "12"}, redactBySend},
		{"redact later", []string{"11", "12"}, redactLater},
		{"redact without power", every, redactWithoutPower},
	}
}

func messagesAndState(s *scene) {
	owner, guest, room := s.meet(nil)
	texts := []string{"plain", "a \"quoted\" <b>&amp;</b> \\ \u2028 😀 \u0007", "key order"}
	for _, pairing := range [][2]*rig.User{{owner, guest}, {guest, owner}} {
		from, to := pairing[0], pairing[1]
		for _, text := range texts {
			id := from.Send(room, "m.room.message", map[string]any{"msgtype": "m.text", "body": text, "z é\n\"": 1, "a": []any{nil, true, -5}})
			if got := to.WaitFor(room, is(id), patience).Get("content.body").String(); got != text {
				s.Errorf("%q arrived as %q", text, got)
			}
		}
		for _, key := range []string{"", "a key", "käse/\"<&>"} {
			id := from.SendState(room, piece, key, map[string]any{"by": from.ID})
			to.WaitFor(room, is(id), patience)
			if got := to.GetState(room, piece, key).Get("by").String(); got != from.ID {
				s.Errorf("the piece of state %q is by %q, want %s", key, got, from.ID)
			}
		}
	}
	s.agree(room, owner, guest)
}

// redactions has the users of the scenarios about redactions: who may redact whose message.
type redactions struct {
	*scene
	owner, guest *rig.User
	room         string
}

func (s *scene) redactions() *redactions {
	s.Helper()
	owner, guest, room := s.meet(nil)
	return &redactions{s, owner, guest, room}
}

// each calls redact for all that may be redacted: the guest's message by the guest and by the owner, the owner's own
// message. Then both must see the message without content.
func (r *redactions) each(redact func(by *rig.User, target string)) {
	r.Helper()
	type redaction struct{ by, of *rig.User }
	var targets []string
	for _, x := range []redaction{{r.owner, r.guest}, {r.guest, r.guest}, {r.owner, r.owner}} {
		target := x.of.Send(r.room, "m.room.message", rig.Text("a secret"))
		x.by.WaitFor(r.room, is(target), patience)
		redact(x.by, target)
		targets = append(targets, target)
	}
	for _, target := range targets {
		r.gone(target, r.owner, r.guest)
	}
	r.agree(r.room, r.owner, r.guest)
}

// gone waits until the users see the event without its content, in all answers.
func (r *redactions) gone(target string, users ...*rig.User) {
	r.Helper()
	for _, u := range users {
		u.WaitFor(r.room, r.redactionOf(u, target), patience)
		eventually(r, u.ID+" sees the event "+target+" empty", func() bool {
			return r.event(u, target).Get("content").Raw == "{}"
		})
		timeline := r.timeline(u, r.room)
		if i := slices.IndexFunc(timeline, is(target)); i < 0 {
			r.Errorf("%s does not see the redacted event %s any more", u.ID, target)
		} else if timeline[i].Get("content").Raw != "{}" {
			r.Errorf("%s gets the redacted event in /messages as %s", u.ID, timeline[i].Raw)
		}
	}
}

// redactionOf is a predicate for the redaction of the event. The place of its target has changed with version 11;
// clients get it in both places.
func (r *redactions) redactionOf(u *rig.User, target string) func(gjson.Result) bool {
	return func(event gjson.Result) bool {
		if !isType("m.room.redaction")(event) {
			return false
		}
		top, inside := event.Get("redacts").String(), event.Get("content.redacts").String()
		if top != target && inside != target {
			return false
		}
		if top != target || (inside != target && (r.version == "11" || r.version == "12")) {
			r.Errorf("%s is not told of the redaction's target in both places: %s", u.ID, event.Raw)
		}
		return true
	}
}

func (r *redactions) event(u *rig.User, id string) gjson.Result {
	r.Helper()
	return r.wants(u.Do(http.MethodGet, rig.Path("rooms", r.room, "event", id), nil, nil), 200, "").JSON
}

func (r *redactions) byVerb(by *rig.User, target string) rig.Response {
	r.Helper()
	return by.Do(http.MethodPut, rig.Path("rooms", r.room, "redact", target, by.NextTxn()), nil, map[string]any{"reason": "a test"})
}

func redact(s *scene) {
	r := s.redactions()
	r.each(func(by *rig.User, target string) { s.wants(r.byVerb(by, target), 200, "") })
}

func redactBySend(s *scene) {
	r := s.redactions()
	r.each(func(by *rig.User, target string) {
		by.Send(r.room, "m.room.redaction", map[string]any{"redacts": target})
	})
}

// redactLater: a message that is deleted after a set time, by a delayed event of generation 1.
func redactLater(s *scene) {
	r := s.redactions()
	r.each(func(by *rig.User, target string) {
		answer := by.Delay(r.room, "send/m.room.redaction/"+by.NextTxn(), map[string]any{"redacts": target}, 500*time.Millisecond)
		s.wants(answer, 200, "")
		if id := answer.JSON.Get("delay_id").String(); id == "" {
			s.Errorf("scheduling a redaction is answered %s", answer.Body)
		}
	})
}

func redactWithoutPower(s *scene) {
	r := s.redactions()
	target := r.owner.Send(r.room, "m.room.message", rig.Text("stays"))
	r.guest.WaitFor(r.room, is(target), patience)
	s.wants(r.byVerb(r.guest, target), 403, "M_FORBIDDEN")

	// Our server has no delayed /redact and must not redact at once. (Synapse has it.)
	own, _ := s.sides(r.owner, r.guest)
	mine := own.Send(r.room, "m.room.message", rig.Text("stays too"))
	answer := own.Delay(r.room, "redact/"+mine+"/"+own.NextTxn(), map[string]any{}, time.Second)
	if answer.Status != http.StatusBadRequest {
		s.Errorf("/redact with a delay is answered %d %s", answer.Status, answer.Body)
	}
	s.agree(r.room, r.owner, r.guest)
	for _, u := range []*rig.User{r.owner, r.guest} {
		for id, body := range map[string]string{target: "stays", mine: "stays too"} {
			if got := r.event(u, id).Get("content.body").String(); got != body {
				s.Errorf("%s sees the message %q as %q", u.ID, body, got)
			}
		}
	}
}

// sides returns the owner and the guest; the user on our server comes first.
func (s *scene) sides(owner, guest *rig.User) (ours, theirs *rig.User) {
	if s.home.name == "ours" {
		return owner, guest
	}
	return guest, owner
}
