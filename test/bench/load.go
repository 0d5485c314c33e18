package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/matrix-org/dendrite/futures/test/rig"
)

// each calls f with 0 to n-1, at most workers at a time, and stops at the first error.
func each(ctx context.Context, workers, n int, f func(ctx context.Context, i int) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var next atomic.Int64
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for i := int(next.Add(1) - 1); i < n && ctx.Err() == nil; i = int(next.Add(1) - 1) {
				if err := f(ctx, i); err != nil {
					cancel(err)
				}
			}
		})
	}
	wg.Wait()
	return context.Cause(ctx)
}

// line is a connection on which one request follows another. It does as little as possible, so that the server takes
// the time.
type line struct {
	net.Conn
	in *bufio.Reader
}

func dial(address string) (line, error) {
	conn, err := net.Dial("tcp", address)
	return line{conn, bufio.NewReader(conn)}, err
}

// ask sends a request that must succeed.
func (l line) ask(request []byte) error {
	if _, err := l.Write(request); err != nil {
		return err
	}
	return readOK(l.in)
}

// close may be called if there is no connection.
func (l line) close() {
	if l.Conn != nil {
		l.Close()
	}
}

// readOK reads a response, which must be a 200.
func readOK(in *bufio.Reader) error {
	length := 0
	for first := true; ; first = false {
		line, err := in.ReadSlice('\n')
		if err != nil {
			return err
		}
		if first && !bytes.HasPrefix(line, []byte("HTTP/1.1 200")) {
			return fmt.Errorf("a request was answered with %q", bytes.TrimSpace(line))
		}
		if value, ok := bytes.CutPrefix(line, []byte("Content-Length: ")); ok {
			if length, err = strconv.Atoi(string(bytes.TrimSpace(value))); err != nil {
				return err
			}
		}
		if len(bytes.TrimSpace(line)) == 0 {
			_, err = in.Discard(length)
			return err
		}
	}
}

// members are rooms for events, one at a time in each.
type members struct {
	*user
	rooms []string
	txns  atomic.Int64
}

// join creates a user on the server, and rooms for it.
func (s *server) join(ctx context.Context, name string, rooms int) (*members, error) {
	u, err := s.register(ctx, name)
	if err != nil {
		return nil, err
	}
	m := &members{user: u}
	m.rooms, err = u.createRooms(ctx, rooms)
	return m, err
}

// message is the content of a message. The number makes each different.
func message(i int64) map[string]any {
	return map[string]any{"msgtype": "m.text", "body": fmt.Sprintf("This is event %d of a number of events that are all alike.", i)}
}

// send sends n messages to all rooms: one in flight in each, to inFlight rooms at a time. stateEach, if not 0, makes
// each such event a state event. It returns the time.
func (m *members) send(ctx context.Context, n, inFlight, stateEach int) (time.Duration, error) {
	free := make(chan string, len(m.rooms))
	for _, room := range m.rooms {
		free <- room
	}
	start := time.Now()
	err := each(ctx, min(inFlight, len(m.rooms)), n, func(ctx context.Context, i int) error {
		room := <-free
		defer func() { free <- room }()
		txn := m.txns.Add(1)
		path := rig.Path("rooms", room, "send", "m.room.message", "t"+strconv.FormatInt(txn, 10))
		if stateEach > 0 && i%stateEach == 0 {
			path = rig.Path("rooms", room, "state", "com.example.status", "")
		}
		_, err := m.do(ctx, http.MethodPut, path, nil, message(txn))
		return err
	})
	return time.Since(start), err
}

// schedule schedules n messages in all rooms, all due at that time.
func (m *members) schedule(ctx context.Context, n int, due time.Time) error {
	return each(ctx, 32, n, func(ctx context.Context, i int) error {
		_, err := m.future(ctx, m.rooms[i%len(m.rooms)], time.Until(due))
		return err
	})
}

// future schedules one message and returns its refresh token.
func (m *members) future(ctx context.Context, room string, timeout time.Duration) (refresh string, err error) {
	txn := m.txns.Add(1)
	if timeout <= 0 {
		return "", errors.New("scheduling took longer than planned")
	}
	r, err := m.do(ctx, http.MethodPut, rig.Path("rooms", room, "send_future", "m.room.message", "f"+strconv.FormatInt(txn, 10)),
		url.Values{"future_timeout": {strconv.FormatInt(timeout.Milliseconds(), 10)}}, message(txn))
	return r.Future().Refresh, err
}

// sent returns how many futures the server has sent since its start.
func (s *server) sent(ctx context.Context, c *rig.Client) (int, error) {
	r, err := c.Do(ctx, http.MethodGet, "/metrics", nil, nil)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(r.Body)) {
		if value, ok := strings.CutPrefix(line, "dendrite_futureserver_sent_total "); ok {
			n, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			return int(n), err
		}
	}
	return 0, errors.New("the server does not tell how many futures it has sent")
}

// fire schedules n messages in all rooms for one moment. It returns the cost from there until the last is confirmed and
// everything that follows is done.
func (m *members) fire(ctx context.Context, s *server, n int, atDue func()) (t toll, err error) {
	before, err := s.sent(ctx, &m.Client)
	if err != nil {
		return t, err
	}
	due := time.Now().Add(time.Second + time.Duration(n)*4*time.Millisecond)
	if err := m.schedule(ctx, n, due); err != nil {
		return t, err
	}
	if err := pause(ctx, time.Until(due)); err != nil {
		return t, err
	}
	if atDue != nil {
		atDue()
	}
	cpu, err := s.cpu()
	if err != nil {
		return t, err
	}
	for wait := 100 * time.Millisecond; ; {
		if err := pause(ctx, wait); err != nil {
			return t, err
		}
		after, err := s.sent(ctx, &m.Client)
		if err != nil {
			return t, err
		}
		t.took = time.Since(due)
		switch done := after - before; {
		case done >= n:
			err = s.finish(ctx, cpu, &t)
			return t, err
		case done > 0:
			// Polling costs the server work, so it is frequent only near the end. The first events are the slowest.
			left := t.took * time.Duration(n-done) / time.Duration(done)
			wait = max(20*time.Millisecond, min(left*3/4, t.took/2, 2*time.Second))
		}
		if t.took > 10*time.Minute {
			return t, errors.New("the futures are not sent")
		}
	}
}
