package judge

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/tidwall/gjson"
)

const room = "!room:localhost"

// history is a sequence of requests and events, with times in ms.
type history struct {
	futures []*Future
	states  []*state
	events  []string // JSON
}

func (h *history) judge() Report {
	j := Judge{futures: make(map[string]*Future), states: map[seat][]*state{{room, "seat", ""}: h.states}}
	for _, f := range h.futures {
		j.futures[f.Mark] = f
	}
	var timeline []gjson.Result
	for _, e := range h.events {
		timeline = append(timeline, gjson.Parse(e))
	}
	return j.Judge(map[string][]gjson.Result{room: timeline})
}

// timer returns an accepted timeout future, requested at 1000 and due at 2000. action returns one without a timer.
func timer(mark string, attempts ...*attempt) *Future {
	return &Future{
		Spec:      Spec{Mark: mark, Room: room, Group: "g", Timeout: time.Second},
		scheduled: 1000, answered: 1010, attempts: attempts,
	}
}

func action(mark string, attempts ...*attempt) *Future {
	f := timer(mark, attempts...)
	f.Timeout = 0
	return f
}

func seated(mark string, attempts ...*attempt) *Future {
	f := timer(mark, attempts...)
	key := ""
	f.Type, f.StateKey = "seat", &key
	return f
}

func use(verb Verb, start, status int) *attempt {
	return &attempt{verb: verb, start: int64(start), end: int64(start) + 10, status: status}
}

func sent(mark string, ts int) string {
	return fmt.Sprintf(`{"event_id":"$%s%d","origin_server_ts":%d,"content":{"mark":"%s"}}`, mark, ts, ts, mark)
}

func seatTaken(start, end int64) *state {
	return &state{start: start, end: end}
}

// TestVerdicts judges short histories. Each names the counters of the report that must not be zero.
func TestVerdicts(t *testing.T) {
	refused, unknown := timer("a"), timer("a")
	refused.answered, refused.refused = 0, true
	unknown.answered = 0
	for _, story := range []struct {
		name string
		history
		want string
	}{
		{"fired in time", history{futures: []*Future{timer("a")}, events: []string{sent("a", 2000)}}, "sent=1"},
		{"the same event shown twice", history{futures: []*Future{timer("a")}, events: []string{sent("a", 2000), sent("a", 2000)}}, "sent=1"},
		{"never fired", history{futures: []*Future{timer("a")}}, "lost=1 discarded=1"},
		{"fired twice", history{futures: []*Future{timer("a")}, events: []string{sent("a", 2000), sent("a", 2001)}}, "sent=2 doubled=1"},
		{"two of a group", history{futures: []*Future{timer("a"), timer("b")}, events: []string{sent("a", 2000), sent("b", 2000)}}, "sent=2 doubled=1"},
		{"a millisecond early", history{futures: []*Future{timer("a")}, events: []string{sent("a", 1999)}}, "sent=1 early=1"},
		{"refreshed", history{futures: []*Future{timer("a", use(Refresh, 1500, 200))}, events: []string{sent("a", 2500)}}, "sent=1"},
		{"a refresh forgotten", history{futures: []*Future{timer("a", use(Refresh, 1500, 200))}, events: []string{sent("a", 2499)}}, "sent=1 early=1"},
		{"a refresh without an answer", history{futures: []*Future{timer("a", use(Refresh, 1500, 0))}, events: []string{sent("a", 2000)}}, "sent=1"},
		{"sent by token", history{futures: []*Future{timer("a", use(Send, 1500, 200))}, events: []string{sent("a", 1505)}}, "sent=1"},
		{"perhaps sent by token", history{futures: []*Future{timer("a", use(Send, 1500, 0))}, events: []string{sent("a", 1505)}}, "sent=1"},
		{"not sent by token", history{futures: []*Future{timer("a", use(Send, 1500, 410))}, events: []string{sent("a", 1505)}}, "sent=1 early=1"},
		{"sent, they said", history{futures: []*Future{action("a", use(Send, 1500, 200)), timer("b", use(Cancel, 1100, 200))}}, "lost=1 cancelled=1 discarded=1"},
		{"sent twice by token", history{futures: []*Future{timer("a", use(Send, 1500, 200), use(Send, 1600, 200))}, events: []string{sent("a", 1505)}}, "sent=1 respent=2"},
		{"cancelled", history{futures: []*Future{timer("a", use(Cancel, 1500, 200))}}, "cancelled=1"},
		{"perhaps cancelled", history{futures: []*Future{timer("a", use(Cancel, 1500, 0))}}, "discarded=1"},
		{"not cancelled", history{futures: []*Future{timer("a", use(Cancel, 1500, 410))}}, "lost=1 discarded=1"},
		{"cancelled in vain", history{futures: []*Future{timer("a", use(Cancel, 1500, 200))}, events: []string{sent("a", 2000)}}, "sent=1 revived=1"},
		{"one of two timers cancelled", history{futures: []*Future{timer("a", use(Cancel, 1500, 200)), timer("b")}}, "lost=1 cancelled=1 discarded=1"},
		{"an action by itself", history{futures: []*Future{action("a"), timer("b")}, events: []string{sent("a", 2000)}}, "sent=1 unasked=1 discarded=1"},
		{"the group's other won", history{futures: []*Future{timer("a"), timer("b")}, events: []string{sent("a", 2000)}}, "sent=1 discarded=1"},
		{"refused and sent", history{futures: []*Future{refused}, events: []string{sent("a", 2000)}}, "sent=1 unasked=1"},
		{"never answered, not sent", history{futures: []*Future{unknown}}, ""},
		{"never answered, sent", history{futures: []*Future{unknown}, events: []string{sent("a", 2000)}}, "sent=1"},
		{"a stranger", history{events: []string{sent("a", 2000)}}, "unasked=1"},
		{"newer state", history{futures: []*Future{seated("a")}, states: []*state{seatTaken(1500, 1510)}}, "invalidated=1"},
		{"perhaps newer state", history{futures: []*Future{seated("a")}, states: []*state{seatTaken(1500, 0)}}, "invalidated=1"},
		{"older state", history{futures: []*Future{seated("a")}, states: []*state{seatTaken(900, 910)}}, "lost=1 discarded=1"},
		{"newer state in vain", history{futures: []*Future{seated("a")}, states: []*state{seatTaken(1500, 1510)}, events: []string{sent("a", 2000)}}, "sent=1 stale=1"},
		{"newer state too late", history{futures: []*Future{seated("a")}, states: []*state{seatTaken(1995, 2005)}, events: []string{sent("a", 2010)}}, "sent=1"},
		{"newer state for a message", history{futures: []*Future{timer("a")}, states: []*state{seatTaken(1500, 1510)}}, "lost=1 discarded=1"},
	} {
		report := story.judge()
		if got := counters(&report); got != story.want {
			t.Errorf("%s: %s, want %s\n%v", story.name, got, story.want, report.Problems)
		}
		if report.Good() != (len(report.Problems) == 0) {
			t.Errorf("%s: good is %v with problems %v", story.name, report.Good(), report.Problems)
		}
	}
}

// counters lists the counters that are not zero, except Accepted.
func counters(r *Report) string {
	var s []string
	for _, c := range []struct {
		name string
		n    int
	}{
		{"sent", r.Sent}, {"lost", r.Lost}, {"doubled", r.Doubled}, {"early", r.Early}, {"stale", r.Stale},
		{"revived", r.Revived}, {"unasked", r.Unasked}, {"respent", r.Respent},
		{"cancelled", r.Cancelled}, {"invalidated", r.Invalidated}, {"discarded", r.Discarded},
	} {
		if c.n > 0 {
			s = append(s, fmt.Sprintf("%s=%d", c.name, c.n))
		}
	}
	return strings.Join(s, " ")
}

// TestRecords checks that Schedule, Answered, Use and State record the times that TestVerdicts sets by hand.
func TestRecords(t *testing.T) {
	var j Judge
	before := now()
	f := j.Schedule(Spec{Mark: "a", Room: room, Group: "g", Timeout: time.Hour})
	f.Answered(200)
	f.Use(Refresh)(200)
	f.Use(Send)
	f.Tokens = []string{"x"}
	j.State(room, "seat", "")()
	after := now()
	taken := j.states[seat{room, "seat", ""}][0]
	for _, at := range []int64{f.scheduled, f.answered, f.attempts[0].start, f.attempts[0].end, f.attempts[1].start, taken.start, taken.end} {
		if at < before || at > after {
			t.Errorf("a time of %d between %d and %d", at, before, after)
		}
	}
	if a := f.attempts[1]; a.status != 0 || !a.maybe() {
		t.Errorf("a use without an answer: %+v", a)
	}
	if tokens := j.Tokens(); len(tokens) != 1 || tokens[0] != "x" {
		t.Errorf("tokens %v", tokens)
	}
	if r := j.Judge(nil); r.Accepted != 1 || r.Lost != 1 || !strings.Contains(r.String(), "a, accepted, is not in the room") {
		t.Errorf("the report:\n%s", &r)
	}
}
