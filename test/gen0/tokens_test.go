package gen0

import (
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/matrix-org/dendrite/futures/test/rig"
)

// tokenCalls tests section 4: the three kinds of tokens.
func tokenCalls() []requirement {
	return []requirement{
		{"4.1,4.2,10.13 credentials and body", ignored},
		{"4.3,5.21,10.5", heartbeat},
		{"4.3 others keep their timers", othersKeepTimers},
		{"4.4,5.9,10.6", sendAction},
		{"4.4 timeout future,10.7", sendTimeout},
		{"4.5,10.8", cancelAction},
		{"4.5 last timeout future,10.9", cancelLast},
		{"4.5 one of two,5.6,10.10", cancelOneOfTwo},
		{"4.6,4.7,4.8,7.1,7.2,7.4,10.12", alike},
		{"4.10,4.11,3.8", sendRefused},
		{"4.12", cors},
		{"5.4,10.20", race},
	}
}

func ignored(s *scene) {
	f := s.message("x", later, "")
	for _, header := range []string{"", "Bearer wrong", "Bearer " + s.Bob.Token, "Bearer", "Basic eDp5"} {
		for _, body := range []string{"", "{}", `{"action":"cancel"}`, "[", "\xff", strings.Repeat("x", 100<<10)} {
			for _, method := range []string{http.MethodPut, http.MethodPost} {
				req, err := http.NewRequestWithContext(s.Context(), method, s.Server.URL+rig.Path("futures", f.Refresh), strings.NewReader(body))
				if err != nil {
					s.Fatal(err)
				}
				req.Header.Set("Authorization", header)
				res, err := s.Server.Client().HTTP.Do(req)
				if err != nil {
					s.Fatal(err)
				}
				res.Body.Close()
				if res.StatusCode != 200 {
					s.Errorf("%s with %q and a body of %d bytes: %s", method, header, len(body), res.Status)
				}
			}
		}
	}
}

func heartbeat(s *scene) {
	const timeout = 3 * time.Second
	f := s.message("x", timeout, "")
	var last time.Time
	beat := time.Tick(timeout * 6 / 10)
	for range 5 {
		<-beat
		last = time.Now()
		s.works(f.Refresh)
	}
	s.Has(0, "x")
	event := s.Sees("x")
	if early := time.Until(last.Add(timeout)); early > 0 {
		s.Errorf("it came %s too early", early)
	}
	if ts := event.Get("origin_server_ts").Int(); ts < last.Add(timeout).UnixMilli() {
		s.Errorf("origin_server_ts is %d, %d before the deadline", ts, last.Add(timeout).UnixMilli()-ts)
	}
	s.gone(f)
	s.Has(1, "x")
}

func othersKeepTimers(s *scene) {
	s.message("short", 2*time.Second, "g")
	long := s.message("long", 3*time.Second, "g")
	beat := time.Tick(soon)
	for range 2 {
		<-beat
		s.works(long.Refresh)
	}
	s.Sees("short")
	s.gone(long)
	s.Has(0, "long")
}

func sendAction(s *scene) {
	timeout, other := s.message("timeout", 2*time.Second, "g"), s.message("other", later, "g")
	action, spare := s.message("action", 0, "g"), s.message("spare", 0, "g")
	s.works(action.Send)
	s.Sees("action")
	s.gone(timeout, other, action, spare)
	if n := len(s.futures(s.Alice)); n > 0 {
		s.Errorf("%d futures are left", n)
	}
	s.passes(2500 * time.Millisecond)
	s.Has(1, "timeout", "other", "action", "spare")
}

func sendTimeout(s *scene) {
	f, action := s.message("x", later, "g"), s.message("action", 0, "g")
	s.works(f.Send)
	s.Sees("x")
	s.gone(f, action)
	s.passes(soon)
	s.Has(0, "action")
}

func cancelAction(s *scene) {
	f, action := s.message("x", 2*time.Second, "g"), s.message("action", 0, "g")
	s.works(action.Cancel)
	s.gone(action)
	s.works(f.Refresh)
	s.Sees("x")
	s.Has(0, "action")
}

func cancelLast(s *scene) {
	f, action := s.message("x", soon, "g"), s.message("action", 0, "g")
	s.works(f.Cancel)
	s.gone(f, action)
	if n := len(s.futures(s.Alice)); n > 0 {
		s.Errorf("%d futures are left", n)
	}
	s.passes(2 * soon)
	s.Has(0, "x", "action")
}

func cancelOneOfTwo(s *scene) {
	one, two := s.message("one", soon, "g"), s.message("two", 2*soon, "g")
	action := s.message("action", 0, "g")
	s.works(one.Cancel)
	s.gone(one)
	s.works(two.Refresh)
	s.Sees("two")
	s.gone(action)
	s.Has(0, "one", "action")
}

// alike checks that the answers for live tokens of all kinds are equal, and those for spent tokens.
func alike(s *scene) {
	a, b, c := s.message("a", later, "g"), s.message("b", later, ""), s.message("c", later, "g")
	shape := func(r rig.Response) string {
		headers := []string{}
		for name, values := range r.Header {
			if name != "Date" {
				headers = append(headers, name+": "+strings.Join(values, ","))
			}
		}
		slices.Sort(headers)
		return strings.Join(append(headers, http.StatusText(r.Status), string(r.Body)), "\n")
	}
	equal := func(tokens ...string) string {
		s.Helper()
		first := shape(s.use(tokens[0]))
		for _, token := range tokens[1:] {
			if other := shape(s.use(token)); other != first {
				s.Errorf("one is answered\n%s\nanother\n%s", first, other)
			}
		}
		return first
	}
	if live := equal(a.Refresh, b.Cancel, a.Send); !strings.HasSuffix(live, "OK\n{}") {
		s.Errorf("live tokens are answered\n%s", live)
	}
	event := s.Sees("a")
	tampered := []byte(c.Send)
	tampered[0] ^= 1
	dead := equal(a.Send, a.Cancel, a.Refresh, b.Cancel, b.Send, c.Send, c.Refresh, string(tampered),
		strings.Repeat("A", 22), "x", b.Group, event.Get("event_id").String(), s.Room)
	if !strings.Contains(dead, "Gone") || !strings.Contains(dead, "M_NOT_FOUND") || strings.ContainsAny(dead, "@!$") {
		s.Errorf("dead tokens are answered\n%s", dead)
	}
}

func sendRefused(s *scene) {
	f := s.note(s.Bob.StateFuture(s.Room, "test", "", rig.Text("x"), rig.Params{Timeout: later, Group: "g"}))
	action := s.note(s.Bob.SendFuture(s.Room, "m.room.message", rig.Text("action"), rig.Params{Group: "g"}))
	r := s.use(f.Send)
	s.Wants(r, 403, "M_FORBIDDEN")
	for _, secret := range []string{s.Room, s.Alice.ID, s.Bob.ID, "localhost", "test"} {
		if strings.Contains(string(r.Body), secret) {
			s.Errorf("%q is in %s", secret, r.Body)
		}
	}
	s.works(f.Refresh)
	if n := len(s.futures(s.Bob)); n != 2 {
		s.Errorf("%d futures are left, want 2", n)
	}
	s.SetPower("state_default", 0)
	s.works(f.Send)
	s.Sees("x")
	s.gone(f, action)
}

func cors(s *scene) {
	f := s.message("x", later, "")
	for _, path := range []string{
		rig.Path("futures", f.Refresh), rig.Path("futures"), s.At("v3", "send_future/m.room.message/t"), s.At("v3", "state_future/test"),
	} {
		for _, method := range []string{"OPTIONS", "PUT", "GET"} {
			r := s.As("", method, path, nil)
			if r.Header.Get("Access-Control-Allow-Origin") != "*" || method == "OPTIONS" && r.Status != 200 {
				s.Errorf("%s %s: %d %v", method, path[:24], r.Status, r.Header)
			}
		}
	}
}

func race(s *scene) {
	const rounds = 100
	for round := range rounds {
		timeout := s.message("race", later, "")
		action := s.message("race", 0, timeout.Group)
		var sent, gone atomic.Int64
		var both sync.WaitGroup
		for _, token := range []string{timeout.Send, action.Send} {
			both.Go(func() {
				switch s.use(token).Status {
				case 200:
					sent.Add(1)
				case 410:
					gone.Add(1)
				}
			})
		}
		both.Wait()
		if sent.Load() != 1 || gone.Load() != 1 {
			s.Fatalf("round %d: %d were sent, %d gone", round, sent.Load(), gone.Load())
		}
	}
	s.passes(100 * time.Millisecond)
	s.Has(rounds, "race")
}
