// Package guard tests whole servers after damage to their services: lost or damaged JetStream folders, crashes at bad
// moments, full disks. Everything that clients were told must nevertheless be in their timelines, at once.
package guard_test

import (
	"flag"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"github.com/matrix-org/dendrite/futures/test/rig"
)

var rounds = flag.Int("rounds", 1, "how often each test repeats what is a matter of chance")

func TestMain(m *testing.M) {
	flag.Parse()
	rig.Main(m)
}

const patience = 30 * time.Second

// TestNothingFiresBeforeTheReaders starts a server with overdue futures. Its JetStream knows no consumer, and its start
// takes long after the futures are recovered. Local clients must see the events.
func TestNothingFiresBeforeTheReaders(t *testing.T) {
	inMemory := map[string]any{"global.jetstream.in_memory": true}
	for _, c := range []struct {
		name string
		cfg  rig.Config
		wipe bool
	}{
		{"sqlite/in memory", rig.Config{Set: inMemory}, false},
		{"sqlite/wiped", rig.Config{}, true},
		{"postgres/in memory", rig.Config{Postgres: true, Set: inMemory}, false},
		{"postgres/wiped", rig.Config{Postgres: true}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := rig.New(t, c.cfg)
			alice := s.Register(t, "alice")
			room := alice.CreateRoom(nil)
			for round := range *rounds {
				startOverdue(t, s, alice, room, c.wipe, round)
			}
		})
	}
}

const overdue = 8 // futures that are due at the start

func startOverdue(t *testing.T, s *rig.Server, alice *rig.User, room string, wipe bool, round int) {
	before := alice.Do("GET", "/_matrix/client/v3/sync", nil, nil).JSON.Get("next_batch").String()
	due := time.Now().Add(3 * time.Second)
	for i := range overdue {
		alice.SendFuture(room, "m.room.message", rig.Text(body(round, i)), rig.Params{Timeout: time.Until(due)})
	}
	s.Stop()
	if wipe {
		if err := os.RemoveAll(filepath.Join(s.Dir, "jetstream")); err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(time.Until(due))
	s.PauseAt("unread", time.Second)
	s.Start()
	last := alice.Send(room, "m.room.message", rig.Text(fmt.Sprintf("after round %d", round)))
	alice.WaitFor(room, func(e gjson.Result) bool { return e.Get("event_id").String() == last }, patience)
	for i := range overdue {
		alice.WaitFor(room, rig.HasBody(body(round, i)), patience)
	}
	filter := url.Values{"since": {before}, "filter": {`{"room":{"timeline":{"limit":100}}}`}}
	timeline := "rooms.join." + gjson.Escape(room) + ".timeline.events.#.content.body"
	increment := alice.Do("GET", "/_matrix/client/v3/sync", filter, nil).JSON.Get(timeline).String()
	filter.Del("since")
	first := alice.Do("GET", "/_matrix/client/v3/sync", filter, nil).JSON.Get(timeline).String()
	for i := range overdue {
		for name, bodies := range map[string]string{"an incremental sync": increment, "a first sync": first} {
			if !gjson.Parse(bodies).IsArray() || !contains(gjson.Parse(bodies), body(round, i)) {
				t.Errorf("%q is not in %s", body(round, i), name)
			}
		}
	}
}

func contains(bodies gjson.Result, body string) bool {
	for _, b := range bodies.Array() {
		if b.String() == body {
			return true
		}
	}
	return false
}

func body(round, i int) string { return fmt.Sprintf("overdue %d of round %d", i, round) }
