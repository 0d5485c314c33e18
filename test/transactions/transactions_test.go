// Package transactions tests that a transaction ID stands for one event whenever it is used again: at the same time,
// after the answer, after a restart and after a crash.
package transactions_test

import (
	"flag"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/futures/test/rig"
)

func TestMain(m *testing.M) { rig.Main(m) }

var rounds = flag.Int("rounds", 4, "of killing the server while clients send")

// patience is for an event that the roomserver had not acknowledged when it was killed: JetStream redelivers it after
// 310 s.
const patience = 6 * time.Minute

// atOnce sends the same request several times simultaneously, and returns the one event ID that all answers must have.
func atOnce(t *testing.T, u *rig.User, path string, body any) string {
	t.Helper()
	var mu sync.Mutex
	var wg sync.WaitGroup
	var ids []string
	for range 8 {
		wg.Go(func() {
			r := u.Do(http.MethodPut, path, nil, body)
			mu.Lock()
			defer mu.Unlock()
			if r.Status != http.StatusOK {
				t.Errorf("%s is answered %d %s", path, r.Status, r.Body)
			}
			ids = append(ids, r.JSON.Get("event_id").Str)
		})
	}
	wg.Wait()
	slices.Sort(ids)
	if ids = slices.Compact(ids); len(ids) != 1 {
		t.Errorf("%s is answered with %d event IDs", path, len(ids))
	}
	return ids[0]
}

// counts returns how often each text is in the room, once all named ones are there. It keeps sending, because the
// roomserver handles redelivered events only when there is something to do in their room.
func counts(u *rig.User, room string, named ...string) map[string]int {
	for end := time.Now().Add(patience); ; {
		times := map[string]int{}
		for _, e := range u.Timeline(room) {
			times[e.Get("content.body").Str]++
		}
		if !slices.ContainsFunc(named, func(text string) bool { return times[text] == 0 }) || time.Now().After(end) {
			return times
		}
		u.Send(room, "m.room.message", rig.Text("poke"))
		time.Sleep(200 * time.Millisecond)
	}
}

func eachDatabase(t *testing.T, f func(t *testing.T, s *rig.Server)) {
	for _, database := range []string{"SQLite", "PostgreSQL"} {
		t.Run(database, func(t *testing.T) {
			t.Parallel()
			f(t, rig.New(t, rig.Config{Postgres: database == "PostgreSQL"}))
		})
	}
}

// TestOneEvent: one transaction, one event, one answer, over restarts and crashes.
func TestOneEvent(t *testing.T) {
	eachDatabase(t, func(t *testing.T, s *rig.Server) {
		alice := s.Register(t, "alice")
		room := alice.CreateRoom(nil)
		target := alice.Send(room, "m.room.message", rig.Text("target"))
		paths := []string{
			rig.Path("rooms", room, "send", "m.room.message", "t/1"),
			rig.Path("rooms", room, "send", "m.room.redaction", "t/1"),
			rig.Path("rooms", room, "redact", target, "t/1"),
		}
		bodies := []any{rig.Text("once"), map[string]any{"redacts": target, "body": "once"}, map[string]any{"body": "once"}}
		ids := make([]string, len(paths))
		for i, path := range paths {
			ids[i] = atOnce(t, alice, path, bodies[i])
		}
		check := func(when string) {
			t.Helper()
			for i, path := range paths {
				// The second and the third are one transaction in the events themselves.
				if id := atOnce(t, alice, path, bodies[i]); id != ids[i] && !(i > 0 && slices.Contains(ids[1:], id)) {
					t.Errorf("%s %s is answered %s, first it was %s", when, path, id, ids[i])
				}
			}
			alice.Send(room, "m.room.message", rig.Text(when))
			if n := counts(alice, room, when)["once"]; n != len(paths) {
				t.Errorf("%s: %d events, not %d", when, n, len(paths))
			}
		}
		check("after the answer")
		s.Stop()
		s.Start()
		check("after a restart")
		s.Kill()
		s.Start()
		check("after a crash")
	})
}

// TestCrashes kills the server while clients send, and lets them repeat all requests.
func TestCrashes(t *testing.T) {
	eachDatabase(t, func(t *testing.T, s *rig.Server) {
		const users, each = 4, 100
		alice := s.Register(t, "alice")
		room := alice.CreateRoom(map[string]any{"preset": "public_chat"})
		senders := make([]*rig.User, users)
		for i := range senders {
			senders[i] = s.Register(t, "sender"+string(rune('a'+i)))
			senders[i].Join(room)
		}
		var all []string
		for round := range *rounds {
			answered := make([]map[string]string, users) // by transaction ID, which is also the text
			var wg sync.WaitGroup
			name := func(i, n int) string { return fmt.Sprintf("r%d-u%d-%d", round, i, n) }
			for i, u := range senders {
				answered[i] = map[string]string{}
				wg.Go(func() {
					for n := range each {
						r, err := u.Client.Do(t.Context(), http.MethodPut, rig.Path("rooms", room, "send", "m.room.message", name(i, n)), nil, rig.Text(name(i, n)))
						if err != nil {
							return // killed
						}
						answered[i][name(i, n)] = r.JSON.Get("event_id").Str
					}
				})
			}
			time.Sleep(time.Duration(100+170*round) * time.Millisecond)
			s.Kill()
			wg.Wait()
			s.Start()
			for i, u := range senders {
				for n := range len(answered[i]) + 1 {
					r := u.Do(http.MethodPut, rig.Path("rooms", room, "send", "m.room.message", name(i, n)), nil, rig.Text(name(i, n)))
					id := r.JSON.Get("event_id").Str
					if r.Status != http.StatusOK || answered[i][name(i, n)] != "" && answered[i][name(i, n)] != id {
						t.Errorf("%s: %d %s, first it was %q", name(i, n), r.Status, r.Body, answered[i][name(i, n)])
					}
					answered[i][name(i, n)] = id
				}
			}
			for i := range senders {
				all = slices.AppendSeq(all, maps.Keys(answered[i]))
			}
		}
		times := counts(alice, room, all...)
		for _, text := range all {
			if times[text] != 1 {
				t.Errorf("%s is %d times in the room", text, times[text])
			}
		}
	})
}

// TestToDevice: a message to a device arrives once.
func TestToDevice(t *testing.T) {
	eachDatabase(t, func(t *testing.T, s *rig.Server) {
		alice, bob := s.Register(t, "alice"), s.Register(t, "bob")
		path := rig.Path("sendToDevice", "com.example.note", "t1")
		body := func(text string) any {
			return map[string]any{"messages": map[string]any{bob.ID: map[string]any{bob.DeviceID: rig.Text(text)}}}
		}
		atOnce(t, alice, path, body("once"))
		s.Stop()
		s.Start()
		atOnce(t, alice, path, body("once"))
		s.Kill()
		s.Start()
		atOnce(t, alice, path, body("once"))
		if r := alice.Do(http.MethodPut, rig.Path("sendToDevice", "com.example.note", "t2"), nil, body("last")); r.Status != http.StatusOK {
			t.Fatalf("%d %s", r.Status, r.Body)
		}
		var got []string
		since := ""
		for end := time.Now().Add(patience); !slices.Contains(got, "last"); {
			if time.Now().After(end) {
				t.Fatalf("the last message did not come after %q", got)
			}
			r := bob.Do(http.MethodGet, rig.Path("sync"), map[string][]string{"since": {since}, "timeout": {"1000"}}, nil)
			since = r.JSON.Get("next_batch").Str
			for _, e := range r.JSON.Get("to_device.events").Array() {
				got = append(got, e.Get("content.body").Str)
			}
		}
		if want := []string{"once", "last"}; !slices.Equal(got, want) {
			t.Errorf("bob got %q, not %q", got, want)
		}
	})
}

// TestScope: with another session, room, event type or endpoint it is another transaction.
func TestScope(t *testing.T) {
	eachDatabase(t, func(t *testing.T, s *rig.Server) {
		alice, bob := s.Register(t, "alice"), s.Register(t, "bob")
		room, other := alice.CreateRoom(map[string]any{"preset": "public_chat"}), alice.CreateRoom(nil)
		bob.Join(room)
		send := func(u *rig.User, room, eventType string) string {
			t.Helper()
			r := u.Do(http.MethodPut, rig.Path("rooms", room, "send", eventType, "1"), nil, rig.Text("text"))
			if r.Status != http.StatusOK {
				t.Fatalf("%d %s", r.Status, r.Body)
			}
			return r.JSON.Get("event_id").Str
		}
		phone := s.Login(t, alice)
		f := rig.Path("rooms", room, "send_future", "com.example.future", "1")
		if r := alice.Do(http.MethodPut, f, rig.Params{Timeout: time.Millisecond}.Query(), rig.Text("future")); r.Status != http.StatusOK {
			t.Fatalf("%d %s", r.Status, r.Body)
		}
		alice.WaitFor(room, rig.HasBody("future"), patience)
		ids := []string{
			send(alice, room, "m.room.message"), send(alice, other, "m.room.message"), send(alice, room, "com.example.other"),
			send(phone, room, "m.room.message"), send(bob, room, "m.room.message"),
		}
		phone.Do(http.MethodPost, rig.Path("logout"), nil, map[string]any{})
		s.Kill()
		s.Start()
		tablet := s.Login(t, alice) // on SQLite it once got the session ID of the phone
		ids = append(ids, send(tablet, room, "m.room.message"), send(alice, room, "com.example.future"))
		if slices.Sort(ids); len(slices.Compact(ids)) != 7 {
			t.Errorf("7 transactions, and the events %q", ids)
		}
	})
}
