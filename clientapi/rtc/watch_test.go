package rtc

import (
	"errors"
	"testing"
	"time"
)

var errAway = errors.New("the SFU is away")

// A step is what a watch is told, some time after its start, and what it answers.
type step struct {
	at   time.Duration
	tell func(*watch, time.Time) action
	want action
}

func joined(sid string) func(*watch, time.Time) action {
	return func(w *watch, now time.Time) action { return w.joined(now, sid) }
}

func found(sid string) func(*watch, time.Time) action {
	return func(w *watch, now time.Time) action { return w.found(now, sid) }
}

func left(sid, reason string) func(*watch, time.Time) action {
	return func(w *watch, now time.Time) action { return w.left(now, sid, reason) }
}

func aborted(sid, reason string) func(*watch, time.Time) action {
	return func(w *watch, now time.Time) action { return w.aborted(now, sid, reason) }
}

func asked(err error) func(*watch, time.Time) action {
	return func(w *watch, now time.Time) action { return w.asked(now, err) }
}

func polled(err error) func(*watch, time.Time) action {
	return func(w *watch, now time.Time) action { return w.polled(now, err) }
}

func unheard(byClient bool) func(*watch, time.Time) action {
	return func(w *watch, now time.Time) action { return w.unheard(now, byClient) }
}

func finished(w *watch, now time.Time) action { return w.finished(now) }

// tick fails if the watch wants to be called at another time.
func tick(w *watch, now time.Time) action {
	if !w.next().Equal(now) {
		return send + 1
	}
	return w.tick(now)
}

const s, m = time.Second, time.Minute

// A story is what a watch of that delay goes through.
type story struct {
	delay   time.Duration
	resumed bool
	steps   []step
}

// TestWatch goes through the states of a delegated leave, cell by cell.
func TestWatch(t *testing.T) {
	run(t, map[string]story{
		"6.5 waiting, the participant connects":    {10 * m, false, []step{{m, joined("1"), restart}, {m + 8*m, tick, restart}}},
		"6.5 waiting, the SFU says they are there": {10 * m, false, []step{{0, found("1"), restart}, {m, found("1"), nothing}}},
		"6.5 waiting, most of the delay is over":   {10 * s, false, []step{{8 * s, tick, restart}, {10 * s, tick, ask}, {10 * s, asked(nil), send}}},
		"6.5 waiting, an hour is over":             {3 * 60 * m, false, []step{{60 * m, tick, ask}, {60 * m, asked(nil), send}}},
		"6.5 waiting, and the webhook was lost":    {10 * s, false, []step{{8 * s, tick, restart}, {10 * s, tick, ask}, {10 * s, found("1"), restart}}},
		"6.5 waiting, and the SFU does not answer": {10 * s, false, []step{
			{8 * s, tick, restart}, {10 * s, tick, ask}, {10 * s, asked(errAway), nothing}, {16 * s, tick, restart}}},
		"6.5 waiting, the connection is aborted":   {10 * m, false, []step{{s, aborted("1", "JOIN_FAILURE"), nothing}, {8 * m, tick, restart}}},
		"6.5 waiting, the call is over":            {10 * m, false, []step{{s, finished, nothing}}},
		"6.5 connected, most of the delay is over": {10 * s, false, []step{{s, joined("1"), restart}, {9 * s, tick, restart}, {17 * s, tick, restart}}},
		"6.5 connected, the participant leaves": {10 * m, false, []step{
			{0, joined("1"), restart}, {s, left("1", "CLIENT_INITIATED"), ask}, {s, asked(nil), send}}},
		"6.5 connected, the connection is aborted": {10 * m, false, []step{
			{0, joined("1"), restart}, {s, left("1", "SIGNAL_CLOSE"), nothing}, {3 * s, tick, ask}, {3 * s, asked(nil), send}}},
		"6.5 connected, the call is over": {10 * m, false, []step{{0, joined("1"), restart}, {s, finished, ask}, {s, asked(nil), send}}},
	})
}

// TestComeBack: whoever reconnects is not thrown out.
func TestComeBack(t *testing.T) {
	run(t, map[string]story{
		"6.6 back under the same identity": {10 * m, false, []step{
			{0, joined("1"), restart}, {s, left("1", "CONNECTION_TIMEOUT"), nothing}, {2 * s, joined("2"), nothing}, {8 * m, tick, restart}}},
		"6.6 back, says the SFU": {10 * m, false, []step{
			{0, joined("1"), restart}, {s, left("1", "UNKNOWN"), nothing}, {3 * s, tick, ask}, {3 * s, found("2"), nothing}, {8 * m, tick, restart}}},
		"6.6 left and back at once": {10 * m, false, []step{
			{0, joined("1"), restart}, {s, left("1", "CLIENT_INITIATED"), ask}, {s, found("2"), nothing}}},
		"6.6 the duplicate identity, after its successor": {10 * m, false, []step{
			{0, joined("1"), restart}, {s, joined("2"), nothing}, {s, left("1", "DUPLICATE_IDENTITY"), nothing}, {8 * m, tick, restart}}},
		"6.6 the duplicate identity, before its successor": {10 * m, false, []step{
			{0, joined("1"), restart}, {s, left("1", "DUPLICATE_IDENTITY"), nothing}, {s, joined("2"), nothing}, {8 * m, tick, restart}}},
		"6.6 the machine dies": {10 * m, false, []step{
			{0, joined("1"), restart}, {s, unheard(true), nothing}, {3 * s, tick, ask}, {3 * s, found("1"), drop}}},
		"6.6 the machine dies, and the SFU knows": {10 * m, false, []step{
			{0, joined("1"), restart}, {s, unheard(true), nothing}, {3 * s, tick, ask}, {3 * s, asked(nil), send}}},
		"6.6 the machine dies, and the SFU does not answer": {10 * m, false, []step{
			{0, joined("1"), restart}, {s, unheard(true), nothing}, {3 * s, tick, ask}, {3 * s, asked(errAway), nothing}, {8 * m, tick, restart}}},
		"6.6 the client connects again": {10 * m, false, []step{
			{0, joined("1"), restart}, {s, unheard(true), nothing}, {2 * s, found("1"), nothing}, {2 * s, (*watch).heard, nothing}, {8 * m, tick, restart}}},
		"6.6 the SFU restarts, and refuses the client at first": {10 * m, false, []step{
			{0, joined("1"), restart}, {s, unheard(false), nothing}, {2 * s, (*watch).heard, nothing}, {3 * s, unheard(true), nothing},
			{8 * s, (*watch).heard, nothing}, {9 * s, joined("2"), nothing}, {8 * m, tick, restart}}},
		"6.6 the SFU restarts, and the machine dies": {10 * m, false, []step{
			{0, joined("1"), restart}, {s, unheard(false), nothing}, {2 * s, (*watch).heard, nothing}, {3 * s, unheard(true), nothing},
			{33 * s, tick, ask}, {33 * s, asked(nil), send}}},
		"6.6 the SFU ends the connection": {10 * m, false, []step{
			{0, joined("1"), restart}, {s, unheard(false), nothing}, {31 * s, tick, ask}, {31 * s, asked(nil), send}}},
		"6.6 moved to another node": {10 * m, false, []step{{0, joined("1"), restart}, {s, left("1", "MIGRATION"), nothing}, {8 * m, tick, restart}}},
		"6.6 the SFU shuts down": {10 * m, false, []step{
			{0, joined("1"), restart}, {s, left("1", "SERVER_SHUTDOWN"), nothing}, {31 * s, tick, ask}, {31 * s, asked(nil), send}}},
		"6.6 left, and the SFU does not answer": {10 * m, false, []step{
			{0, joined("1"), restart}, {s, left("1", "PARTICIPANT_REMOVED"), ask}, {s, asked(errAway), send}}},
		"6.6 lost, and the SFU does not answer": {10 * m, false, []step{
			{0, joined("1"), restart}, {s, left("1", ""), nothing}, {3 * s, tick, ask}, {3 * s, asked(errAway), nothing}, {8 * m, tick, restart}}},
		"9.2 the SFU lists who has just left": {10 * m, false, []step{
			{0, joined("1"), restart}, {s, left("1", "CLIENT_INITIATED"), ask}, {s, found("1"), nothing}, {3 * s, tick, ask}, {3 * s, asked(nil), send}}},
		"9.2 it was not true": {10 * m, false, []step{
			{0, joined("1"), restart}, {s, left("1", "STATE_MISMATCH"), nothing}, {3 * s, tick, ask}, {3 * s, found("1"), nothing},
			{5 * s, tick, ask}, {5 * s, found("1"), nothing}, {7 * s, tick, ask}, {7 * s, found("1"), nothing}, {8 * m, tick, restart}}},
		"9.2 webhooks in another order": {10 * m, false, []step{
			{0, joined("1"), restart}, {s, left("1", "CLIENT_INITIATED"), ask}, {s, joined("1"), nothing}, {s, asked(nil), send}}},
		"9.2 a webhook twice": {10 * m, false, []step{{0, joined("1"), restart}, {s, joined("1"), nothing}}},
	})
}

// TestUnreachable: starts of this server, an SFU that does not answer, and webhooks that are lost.
func TestUnreachable(t *testing.T) {
	run(t, map[string]story{
		"6.8 there after a start":     {10 * m, true, []step{{s, found("1"), restart}, {s + 8*m, tick, restart}}},
		"6.8 not there after a start": {10 * m, true, []step{{s, asked(nil), nothing}, {m, tick, ask}, {m, asked(nil), send}}},
		"6.8 the SFU is away": {10 * m, true, []step{
			{s, asked(errAway), nothing}, {8 * m, tick, restart}, {16 * m, tick, restart}, {17 * m, polled(nil), nothing}, {18 * m, tick, ask}, {18 * m, asked(nil), send}}},
		"6.8 the SFU is away, they are there after it": {10 * m, true, []step{
			{s, asked(errAway), nothing}, {8 * m, tick, restart}, {9 * m, polled(errAway), nothing}, {10 * m, polled(nil), nothing}, {10*m + s, found("2"), restart}}},
		"6.8 the SFU is away for more than an hour": {20 * m, false, []step{
			{0, joined("1"), restart}, {s, polled(errAway), nothing}, {16 * m, tick, restart}, {32 * m, tick, restart}, {48 * m, tick, restart},
			{70 * m, tick, send + 1}}},
		"6.9 missing in two polls": {10 * m, false, []step{
			{0, joined("1"), restart}, {30 * s, polled(nil), nothing}, {m, polled(nil), send}}},
		"6.9 missing in one": {10 * m, false, []step{
			{0, joined("1"), restart}, {30 * s, polled(nil), nothing}, {m, found("1"), nothing}, {90 * s, polled(nil), nothing}}},
		"6.9 missing, but the SFU was away between": {10 * m, false, []step{
			{0, joined("1"), restart}, {30 * s, polled(nil), nothing}, {m, polled(errAway), nothing}, {90 * s, polled(nil), send}}},
	})
}

func run(t *testing.T, stories map[string]story) {
	for name, c := range stories {
		t.Run(name, func(t *testing.T) {
			start := time.Unix(0, 0)
			w := newWatch(c.delay, start)
			if c.resumed {
				w = resumedWatch(c.delay, start)
			}
			for i, s := range c.steps {
				if got := s.tell(w, start.Add(s.at)); got != s.want {
					t.Fatalf("step %d, after %v: action %d, want %d; next at %v", i, s.at, got, s.want, w.next().Sub(start))
				}
			}
		})
	}
}
