package internal

import (
	"context"
	"slices"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
	"github.com/matrix-org/dendrite/futures/futureserver/storage"
)

// The operator's log line for each ended future. The details are on disk, so a separate goroutine reads them there, and
// nobody waits for it.

const (
	mostOutcomes  = 16_384 // waiting for their log line; beyond that they are only counted
	outcomesOnce  = 64
	lastLinesTime = time.Second // at a stop
)

// outcomes are the ended futures whose log lines have not been written yet.
type outcomes struct {
	ends chan storage.End
	left chan int // how many more there were
	idle chan struct{}
}

func newOutcomes() *outcomes {
	return &outcomes{make(chan storage.End, mostOutcomes), make(chan int, 1), make(chan struct{})}
}

// note queues ends that have become durable, if that log level is enabled. It does not block. Failed futures have a log
// line already, with the room's message.
func (o *outcomes) note(ends []storage.End) {
	if o == nil || !logrus.IsLevelEnabled(logrus.InfoLevel) {
		return
	}
	missed := 0
	for i := range ends {
		if ends[i].State == api.Failed {
			continue
		}
		select {
		case o.ends <- ends[i]:
		default:
			missed++
		}
	}
	if missed > 0 {
		select {
		case n := <-o.left:
			missed += n
		default:
		}
		o.left <- missed
	}
}

// tellOutcomes writes the log lines until the channel is closed. Then it writes the rest, for at most lastLinesTime.
func (s *Server) tellOutcomes(tell func(*api.Future)) {
	o := s.outcomes
	defer close(o.idle)
	ctx, cancel := context.WithCancel(context.WithoutCancel(s.ctx)) // ends a moment after the server's context
	defer cancel()
	stop := context.AfterFunc(s.ctx, func() { time.AfterFunc(lastLinesTime, cancel) })
	defer stop()
	for end := range o.ends {
		ends := []storage.End{end}
		for len(ends) < outcomesOnce && len(o.ends) > 0 {
			ends = append(ends, <-o.ends)
		}
		s.tellSome(ctx, ends, tell)
		select {
		case n := <-o.left:
			logrus.Infof("futureserver: %d more futures ended at that time", n)
		default:
		}
	}
}

// tellSome reads the futures and logs them. If one cannot be read, or is already forgotten, it logs what it knows.
func (s *Server) tellSome(ctx context.Context, ends []storage.End, tell func(*api.Future)) {
	nids := make([]api.NID, len(ends))
	for i := range ends {
		nids[i] = ends[i].NID
	}
	fs, _ := s.db.LoadAll(ctx, nids)
	for _, end := range ends {
		f := &api.Future{NID: end.NID, Deadline: end.Deadline}
		if i := slices.IndexFunc(fs, func(f *api.Future) bool { return f.NID == end.NID }); i >= 0 {
			f = fs[i]
		}
		f.State, f.Failure, f.Deadline = end.State, end.Failure, end.Deadline
		tell(f)
	}
}

// close has the last log lines written.
func (o *outcomes) close() {
	if o != nil {
		close(o.ends)
		<-o.idle
	}
}
