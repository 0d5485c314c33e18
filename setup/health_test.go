package setup

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
)

// A patient is a server whose services the test can remove.
type patient struct {
	*testing.T
	*health

	end chan struct{} // closed when the server stops

	mu       sync.Mutex // guards the fields below
	database func(context.Context) error
	consumer []string
	vital    api.Vitals
}

// becomes changes a part of the patient.
func (p *patient) becomes(change func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change()
}

func (p *patient) askDatabase(ctx context.Context) error {
	var ask func(context.Context) error
	p.becomes(func() { ask = p.database })
	return ask(ctx)
}

func (p *patient) askVitals() (v api.Vitals) {
	p.becomes(func() { v = p.vital })
	return v
}

func (p *patient) askConsumers(context.Context, time.Duration) (stuck []string, _ error) {
	p.becomes(func() { stuck = p.consumer })
	return stuck, nil
}

func withPatient(t *testing.T, f func(p *patient)) {
	synctest.Test(t, func(t *testing.T) {
		p := &patient{T: t, database: there, end: make(chan struct{})}
		p.health = newHealth(30*time.Second, &check{name: "database", ask: p.askDatabase})
		p.health.vitals, p.health.stuck, p.health.stopping = p.askVitals, p.askConsumers, p.end
		ctx, cancel := context.WithCancel(t.Context())
		go p.watch(ctx)
		p.is("")
		f(p)
		cancel()
		synctest.Wait()
	})
}

// is waits for as long as the health check may take, and checks that it gives that reason; "" for healthy.
func (p *patient) is(reason string) {
	p.Helper()
	time.Sleep(5 * time.Second)
	synctest.Wait()
	next := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) })
	get := func(path string) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		p.monitor(next).ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		return w
	}
	want := http.StatusOK
	if reason != "" {
		want = http.StatusServiceUnavailable
	}
	for _, path := range []string{"/health", "/_dendrite/monitor/health"} {
		if w := get(path); w.Code != want || !strings.Contains(w.Body.String(), reason) {
			p.Errorf("%s: %d %s, want %d %s", path, w.Code, w.Body, want, reason)
		}
	}
	for _, path := range []string{"/up", "/_dendrite/monitor/up"} {
		if w := get(path); w.Code != http.StatusOK {
			p.Errorf("%s: %d", path, w.Code)
		}
	}
	if w := get("/healthy"); w.Code != http.StatusTeapot {
		p.Errorf("another path is answered %d", w.Code)
	}
}

func there(context.Context) error { return nil }

func TestHealth(t *testing.T) {
	withPatient(t, func(p *patient) {
		p.becomes(func() { p.database = func(context.Context) error { return errors.New("refused") } })
		p.is("database: has not answered for ")
		p.becomes(func() { p.database = there })
		p.is("")

		hang := make(chan struct{}) // like a request to a suspended server, which may ignore its context
		p.becomes(func() { p.database = func(context.Context) error { <-hang; return nil } })
		p.is("database: has not answered for ")
		p.becomes(func() { p.database = there })
		close(hang)
		p.is("")

		p.becomes(func() { p.vital.Overdue = 31 * time.Second })
		p.is("an event has been due for 31s")
		p.becomes(func() { p.vital = api.Vitals{Overdue: 29 * time.Second} })
		p.is("")
		p.becomes(func() { p.vital = api.Vitals{Stalled: 4 * time.Second} })
		p.is("futures database: has not answered for 4s")
		p.becomes(func() { p.vital = api.Vitals{Stalled: 2 * time.Second} })
		p.is("")
		p.becomes(func() { p.consumer = []string{"DendriteSync"} })
		p.is("consumer DendriteSync: no progress for more than 30s")
		p.becomes(func() { p.consumer = nil })
		p.is("")
		why := "one of Dendrite's components cannot go on"
		p.crippled.Store(&why)
		p.is(why)
	})
	withPatient(t, func(p *patient) {
		close(p.end)
		p.becomes(func() { p.vital.Stalled = time.Minute })
		p.is("the server is stopping")
	})
}

// The service manager is notified when the server serves, when it stops, that it lives, and why it is not healthy.
func TestServiceManager(t *testing.T) {
	dir, err := os.MkdirTemp("", "notify") // a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(dir, "notify"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	t.Setenv("NOTIFY_SOCKET", socket.LocalAddr().String())
	t.Setenv("WATCHDOG_USEC", "20000000")
	next := func() string {
		t.Helper()
		message := make([]byte, 1000)
		if err := socket.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		n, err := socket.Read(message)
		if err != nil {
			t.Fatal(err)
		}
		return string(message[:n])
	}
	s := start(t, options(t, t.TempDir()))
	for state := next(); state != "READY=1"; state = next() {
		t.Errorf("before it is ready it says %s", state)
	}
	if a := ask(t, "GET", "http://"+s.Addr().String()+"/health", ""); a.status != http.StatusOK {
		t.Errorf("it is said to be ready, but the health check answers %v", a)
	}
	for range 2 {
		for state := next(); state != "WATCHDOG=1"; state = next() {
			if !strings.HasPrefix(state, "STATUS=") {
				t.Errorf("it says %s", state)
			}
		}
	}
	if err := s.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	for state := next(); state != "STOPPING=1"; state = next() {
		if state != "WATCHDOG=1" {
			t.Errorf("it says %s", state)
		}
	}
}

// Without a watchdog, or if it watches another process, there are no such messages.
func TestWatchdogIsForThisProcess(t *testing.T) {
	for _, env := range [][2]string{{"", ""}, {"no number", ""}, {"20000000", "1"}} {
		t.Setenv("WATCHDOG_USEC", env[0])
		t.Setenv("WATCHDOG_PID", env[1])
		if wantsWatchdog() {
			t.Errorf("with %v it is watched", env)
		}
	}
}

func TestEachDatabaseIsAskedOnce(t *testing.T) {
	s := start(t, options(t, t.TempDir()))
	dbs, err := s.components.databases(s.components.Config)
	if err != nil || len(dbs) != 5 || slices.Contains(dbs, nil) {
		t.Errorf("%v, %v", dbs, err)
	}
}
