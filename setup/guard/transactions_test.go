package guard

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/http"
	"testing"
	"testing/synctest"
	"time"
)

// newMemory has nothing to recall, and no store.
func newMemory() *Transactions {
	t := &Transactions{
		recalled: make(chan struct{}), since: time.Now(),
		young: map[key]answer{}, old: map[key]answer{}, running: map[key]chan struct{}{}, unsure: map[key]bool{},
	}
	close(t.recalled)
	return t
}

func (t *Transactions) answered(tx transaction, status int, body string) {
	t.end(context.Background(), tx, tx.key(), &response{status: status, body: []byte(body)})
}

// TestRepeatsWait: a repeat waits for the first request and gets its answer. If that was an error, the repeat is
// carried out.
func TestRepeatsWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, tx := newMemory(), transaction{endpoint: Send, user: "@a:b", id: "1"}
		if _, known, _ := m.begin(t.Context(), tx.key()); known {
			t.Fatal("the first one is known")
		}
		answers := make(chan string, 3)
		for range 3 {
			go func() {
				a, known, err := m.begin(t.Context(), tx.key())
				answers <- fmt.Sprint(a.eventID, known, err)
			}()
		}
		synctest.Wait()
		if len(answers) != 0 {
			t.Fatalf("a repeat does not wait: %s", <-answers)
		}
		m.answered(tx, http.StatusForbidden, "{}")
		if got := <-answers; got != "false <nil>" {
			t.Errorf("the next one after a refusal gets %s", got)
		}
		m.answered(tx, http.StatusOK, `{"event_id":"$e"}`)
		for range 2 {
			if got := <-answers; got != "$etrue <nil>" {
				t.Errorf("a repeat gets %s", got)
			}
		}
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		other := transaction{endpoint: Send, user: "@a:b", id: "2"}
		if _, _, err := m.begin(t.Context(), other.key()); err != nil {
			t.Error(err)
		}
		if _, known, err := m.begin(gone, other.key()); known || err == nil {
			t.Error("a client that has gone goes on waiting")
		}
	})
}

// TestRemembered: an answer is remembered for at least half an hour, but not for ever, and memory is bounded.
func TestRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		know := func(id int) bool {
			_, known := m.lookUp(transaction{endpoint: Send, id: fmt.Sprint(id)}.key())
			return known
		}
		add := func(id int) { m.remember(transaction{endpoint: Send, id: fmt.Sprint(id)}.key(), answer{eventID: "$e"}) }
		time.Sleep(remembered - time.Second)
		add(1)
		time.Sleep(2 * time.Second)
		add(2) // begins a generation
		time.Sleep(remembered - 3*time.Second)
		if add(3); !know(1) || !know(2) {
			t.Error("an answer was forgotten within half an hour")
		}
		time.Sleep(time.Minute)
		if add(4); know(1) || !know(2) {
			t.Error("the first generation is not forgotten when the third begins")
		}
		for id := range 3 * mostAnswers {
			var k key
			binary.BigEndian.PutUint32(k[:], uint32(id))
			m.remember(k, answer{})
		}
		if n := len(m.young) + len(m.old); n > 2*mostAnswers {
			t.Errorf("%d answers are remembered", n)
		}
	})
}

// TestKeys: transactions that differ in any part have different keys.
func TestKeys(t *testing.T) {
	seen := map[key]transaction{}
	for _, tx := range []transaction{
		{Send, "u", 1, "r", "t", "i"}, {Redact, "u", 1, "r", "t", "i"}, {Send, "v", 1, "r", "t", "i"}, {Send, "u", 2, "r", "t", "i"},
		{Send, "u", 1, "s", "t", "i"}, {Send, "u", 1, "r", "x", "i"}, {Send, "u", 1, "r", "t", "j"}, {Send, "u", 1, "rt", "", "i"},
	} {
		if other, ok := seen[tx.key()]; ok {
			t.Errorf("%v and %v have one key", tx, other)
		}
		seen[tx.key()] = tx
	}
	keys := transaction{user: "u", session: 1, room: "r", id: "i"}.keys("m.room.redaction", []byte(`{"content":{"redacts":"$t"}}`))
	if want := (transaction{Redact, "u", 1, "r", "$t", "i"}).key(); len(keys) != 2 || keys[1] != want {
		t.Errorf("a redaction has the keys %v", keys)
	}
}
