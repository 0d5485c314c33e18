package setup

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/sirupsen/logrus"
)

// What happens when NATS or PostgreSQL goes away under a running server. Some of Dendrite's consumers then end the
// process at once, by logrus.Fatal or by a panic. If NATS announces its shutdown, they end silently, and clients wait
// for ever. But a stopped process answers no heartbeats, and all calls would end. So a consumer that gives up is
// blocked, and the server goes on answering what it can. When NATS and the database are back, the server stops cleanly,
// to be restarted by its service manager.

const (
	outageCheck   = 2 * time.Second // for one check whether all is back
	outagePause   = 250 * time.Millisecond
	steady        = 8           // successful checks in a row: a service that is stopping still answers
	hurriedStop   = time.Second // for each part of a stop when consumers have ended
	readerStopped = "nats server shutting down"
)

// surviveOutages makes the server outlive an absence of NATS or the database.
func (s *Server) surviveOutages() {
	if len(s.components.Config.Global.JetStream.Addresses) > 0 {
		// Otherwise the connection would be given up for good after two minutes. The connection is new, and the call
		// that follows takes its lock, so the goroutine that reconnects it sees this.
		s.components.conn.Opts.MaxReconnect = -1
		s.components.conn.SetClosedHandler(func(*nats.Conn) {
			s.giveUp(errors.New("NATS has ended the connection for good"))
		})
	}
	logrus.AddHook(lastWords{s})
}

// lastWords is a log hook that notices when Dendrite's consumers end. The logger belongs to the process, so with
// several servers in one process, which only tests have, it also hears the others.
type lastWords struct{ server *Server }

// Levels implements logrus.Hook.
func (lastWords) Levels() []logrus.Level {
	return []logrus.Level{logrus.PanicLevel, logrus.FatalLevel, logrus.WarnLevel}
}

// Fire implements logrus.Hook. The logging goroutine calls it before a panic or the end of the process. In that case
// Fire does not return.
func (h lastWords) Fire(entry *logrus.Entry) error {
	why := fmt.Errorf("one of Dendrite's components cannot go on: %s", entry.Message)
	switch {
	case entry.Level == logrus.WarnLevel:
		if entry.Message == readerStopped {
			go h.server.endWhenBack(why)
		}
	case byItself():
		logrus.WithFields(entry.Data).Error(entry.Message)
		h.server.endWhenBack(why)
		select {}
	}
	return nil
}

// byItself reports whether the caller of the logger is a goroutine of Dendrite's own, which runs none of our code.
// Failed starts and requests are not such goroutines.
func byItself() bool {
	const dendrite, ours = "github.com/matrix-org/dendrite/", "github.com/matrix-org/dendrite/futures/"
	calls := make([]uintptr, 64)
	frames := runtime.CallersFrames(calls[:runtime.Callers(3, calls)]) // skips Callers, byItself and Fire
	found := false
	for frame, more := frames.Next(); more; frame, more = frames.Next() {
		if strings.HasPrefix(frame.Function, ours) {
			return false
		}
		found = found || strings.HasPrefix(frame.Function, dendrite)
	}
	return found
}

// endWhenBack ends the server as soon as NATS and the database are back. Only the first call has an effect.
func (s *Server) endWhenBack(why error) {
	s.outage.Do(func() {
		logrus.Warnf("%s; the server will end when NATS and the database are back", why)
		reason := why.Error()
		s.health.crippled.Store(&reason)
		look := time.NewTicker(outagePause)
		defer look.Stop()
		for good := 0; good < steady; {
			select {
			case <-look.C:
			case <-s.stopping:
				return
			}
			if good++; !s.supported() {
				good = 0
			}
		}
		s.giveUp(why)
	})
}

// giveUp ends the server, unless it is already stopping.
func (s *Server) giveUp(why error) {
	select {
	case <-s.stopping:
	default:
		s.finish(why)
	}
}

// supported reports whether NATS and the database answer.
func (s *Server) supported() bool {
	ctx, cancel := context.WithTimeout(s.process.Context(), outageCheck)
	defer cancel()
	return s.components.roomDB.PingContext(ctx) == nil && s.askNATS(ctx) == nil
}
