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

// This file is about NATS and PostgreSQL going away under a running server. Dendrite's readers of JetStream
// then end the process at once, by logrus.Fatal or by a panic, or, when NATS announces its shutdown, end
// themselves without a word, and clients wait for ever. But a process that is down answers no heartbeats, and
// all calls would end. So a reader that gives up is held, the server goes on answering what it can, and only
// when NATS and the database are back does it end, in order, to be started afresh.

const (
	outageCheck   = 2 * time.Second // for one look whether all is back
	outagePause   = 250 * time.Millisecond
	steady        = 8           // good looks in a row: what is on its way down still answers
	hurriedStop   = time.Second // for each part of a stop when the readers are gone
	readerStopped = "nats server shutting down"
)

// surviveOutages makes the server outlive the absence of what it stands on.
func (s *Server) surviveOutages() {
	if len(s.components.Config.Global.JetStream.Addresses) > 0 {
		// Else the connection would be given up for good after two minutes. It has just been made, and is
		// locked by the call that follows, so whoever reconnects it sees this.
		s.components.conn.Opts.MaxReconnect = -1
		s.components.conn.SetClosedHandler(func(*nats.Conn) {
			s.giveUp(errors.New("NATS has ended the connection for good"))
		})
	}
	logrus.AddHook(lastWords{s})
}

// lastWords hears what Dendrite's readers say before they end. The logger is the process's, so it hears those
// of other servers in the same process too; only tests have some.
type lastWords struct{ server *Server }

// Levels implements logrus.Hook.
func (lastWords) Levels() []logrus.Level {
	return []logrus.Level{logrus.PanicLevel, logrus.FatalLevel, logrus.WarnLevel}
}

// Fire implements logrus.Hook. It is called by whoever logs, before a panic or the end of the process, and
// in that case does not return.
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

// byItself reports whether the logger's caller is a goroutine of Dendrite's own: one that runs its code and none
// of ours. A start that fails and a request that is answered do not belong to these.
func byItself() bool {
	const dendrite, ours = "github.com/matrix-org/dendrite/", "github.com/matrix-org/dendrite/futures/"
	calls := make([]uintptr, 64)
	frames := runtime.CallersFrames(calls[:runtime.Callers(3, calls)]) // without Callers, byItself and Fire
	found := false
	for frame, more := frames.Next(); more; frame, more = frames.Next() {
		if strings.HasPrefix(frame.Function, ours) {
			return false
		}
		found = found || strings.HasPrefix(frame.Function, dendrite)
	}
	return found
}

// endWhenBack ends the server as soon as NATS and the database are there. The first caller does it for all.
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

// giveUp ends the server, unless it is being stopped anyway.
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
