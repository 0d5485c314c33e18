package internal

import (
	"bytes"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
)

// listener records the ended futures that it is told of.
type listener struct {
	mu    sync.Mutex
	heard []*api.Future
}

func (l *listener) hear(f *api.Future) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.heard = append(l.heard, f)
}

func (l *listener) outcome(nid api.NID) *api.Future {
	l.mu.Lock()
	defer l.mu.Unlock()
	i := slices.IndexFunc(l.heard, func(f *api.Future) bool { return f.NID == nid })
	if i < 0 {
		return &api.Future{}
	}
	return l.heard[i]
}

// restartListening starts the server again with a listener.
func (b *bench) restartListening(l *listener) {
	b.Helper()
	if err := b.Stop(b.Context()); err != nil {
		b.Fatal(err)
	}
	db, err := openTestDatabase(b.path)
	if err != nil {
		b.Fatal(err)
	}
	if b.Server, err = New(b.Context(), testConfig(), db, b.rooms, NewMetrics(nil), Hooks{Ended: l.hear}); err != nil {
		b.Fatal(err)
	}
}

// Each outcome is reported once, with the details of the future and its deadline, even shortly before a stop.
func TestOutcomesAreTold(t *testing.T) {
	inBubble(t, func(b *bench) {
		l := new(listener)
		b.restartListening(l)
		sent, cancelled, last := b.create(message(time.Second)), b.create(message(time.Minute)), b.create(message(time.Minute))
		b.after(2*time.Second, 1)
		b.use(cancelled, api.CancelToken, nil)
		b.use(last, api.CancelToken, nil)
		if err := b.Stop(b.Context()); err != nil {
			t.Fatal(err)
		}
		for nid, want := range map[api.NID]api.State{sent.NID: api.Sent, cancelled.NID: api.Cancelled, last.NID: api.Cancelled} {
			if f := l.outcome(nid); f.State != want || f.RoomID == "" || f.Type == "" {
				t.Errorf("future %d: %+v, want %s", nid, f, want)
			}
		}
		if f := l.outcome(sent.NID); f.Deadline != sent.Deadline {
			t.Errorf("the deadline was %d, not %d", sent.Deadline, f.Deadline)
		}
		if len(l.heard) != 3 {
			t.Errorf("%d outcomes were told", len(l.heard))
		}
		b.start(testConfig())
	})
}

// The log line of a failure names the future, its kind and its deadline.
func TestFailureIsLogged(t *testing.T) {
	var log bytes.Buffer
	logger := logrus.StandardLogger()
	out := logger.Out
	logrus.SetOutput(&log)
	defer logrus.SetOutput(out)
	inBubble(t, func(b *bench) {
		f := b.create(message(time.Second))
		b.rooms.setMode(refusing)
		time.Sleep(2 * time.Second)
		synctest.Wait()
		for _, want := range []string{"a future failed", "future=", "kind=future", "reason=forbidden", api.Spell(f.Deadline)} {
			if !strings.Contains(log.String(), want) {
				t.Errorf("the log lacks %s:\n%s", want, &log)
			}
		}
		for _, k := range []api.TokenKind{api.SendToken, api.CancelToken, api.RefreshToken, api.GroupToken} {
			if strings.Contains(log.String(), f.Token(k).String()) {
				t.Errorf("the log holds a token:\n%s", &log)
			}
		}
	})
}
