package internal

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
	"github.com/matrix-org/dendrite/futures/futureserver/internal/ledger"
)

// How a future is sent. The claim is a write-ahead log. First the event is built, which fixes its ID. Then one
// transaction closes the group and stores the PDU. Only then is the PDU submitted. After any failure the same PDU is
// submitted again, until the room confirms that it has it.
//
// Futures of one room that are due at the same time are sent together: built from one look at the room, each event on
// the one before it, claimed in one transaction, submitted at once, and confirmed one by one.

const (
	submitTimeout = 1500 * time.Millisecond // for the first attempt with one event; doubles with each attempt
	submitEach    = 250 * time.Millisecond  // added for each further event
	submitMost    = 10 * time.Second
	giveUpAfter   = 24 * time.Hour // after so long without an answer from the room
)

// fire takes the jobs of one room as far as possible and returns those that must be retried later. It holds the room's
// gate from its look at the room until its events are confirmed, if necessary over several attempts. Otherwise others
// would build events beside its own.
func (s *Server) fire(jobs []job) (later []job) {
	leave := s.beginAttempt(jobs)
	ctx, cancel := context.WithTimeout(s.ctx, submitMost)
	defer cancel()
	jobs, later = s.load(ctx, jobs)
	if len(jobs) > 0 && !jobs[0].claimed {
		var rebuild, unwanted []job
		leave = s.room.Enter(ctx, jobs[0].future.RoomID)
		jobs, rebuild = s.build(ctx, jobs)
		jobs, unwanted = s.claim(jobs)
		later = slices.Concat(later, rebuild, unwanted)
	}
	unclear := s.deliver(jobs)
	if len(unclear) > 0 {
		unclear[0].leave = leave
	} else {
		leave()
	}
	return append(later, unclear...)
}

// beginAttempt begins an attempt. It returns how to leave the gate, which an earlier attempt may have kept.
func (s *Server) beginAttempt(jobs []job) (leave func()) {
	leave = func() {}
	for i := range jobs {
		j := &jobs[i]
		if j.leave != nil {
			leave, j.leave = j.leave, nil
		}
		j.pause = 0
		if j.since == 0 {
			j.since = s.clock.now()
		}
	}
	return leave
}

// load returns the jobs that may go on, with their futures. It reads the futures that are not loaded yet from disk.
func (s *Server) load(ctx context.Context, jobs []job) (loaded, later []job) {
	jobs, later = s.stillWanted(jobs)
	var nids []api.NID
	for i := range jobs {
		if jobs[i].future == nil {
			nids = append(nids, jobs[i].NID)
		}
	}
	fs, err := s.db.LoadAll(ctx, nids)
	for i := range jobs {
		j, err := &jobs[i], err
		if j.future == nil && err == nil {
			j.future, err = whole(fs, j.NID)
		}
		if j.future != nil {
			loaded = append(loaded, *j)
		} else if !s.refused(j, err) {
			later = append(later, *j)
		}
	}
	return loaded, later
}

// stillWanted returns the jobs that may still fire or are claimed. If several jobs are for the same future, the first
// fires it; the others find out later what became of it.
func (s *Server) stillWanted(jobs []job) (wanted, later []job) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range jobs {
		j := &jobs[i]
		switch {
		case j.claimed:
			wanted = append(wanted, *j)
		case j.send != nil && j.send.ctx.Err() != nil: // the requester has given up, and nothing has happened yet
		case slices.ContainsFunc(wanted, func(first job) bool { return first.NID == j.NID }):
			later = append(later, *j)
		case s.wanted(j):
			wanted = append(wanted, *j)
		}
	}
	return wanted, later
}

// wanted reports whether the job may still fire its future. The caller must hold the lock.
func (s *Server) wanted(j *job) bool {
	switch s.ledger.Ready(j.Ref, j.at, j.send != nil) {
	case ledger.Ready:
		return true
	case ledger.Early:
		s.rewind()
	default:
		j.answer(api.ErrGone)
	}
	return false
}

// whole finds a live future among those read from disk.
func whole(fs []*api.Future, nid api.NID) (*api.Future, error) {
	for _, f := range fs {
		if f.NID == nid && (f.State != api.Sending || f.Event != nil) {
			return f, nil
		}
	}
	return nil, errors.New("a live future is not whole in the database")
}

func futures(jobs []job) []*api.Future {
	fs := make([]*api.Future, len(jobs))
	for i := range jobs {
		fs[i] = jobs[i].future
	}
	return fs
}

// build builds the events and decides nothing. ready has the jobs with an event, in the order in which the events build
// on each other.
func (s *Server) build(ctx context.Context, jobs []job) (ready, later []job) {
	for i, built := range s.room.Build(ctx, futures(jobs)) {
		j := &jobs[i]
		switch {
		case built.Err != nil:
			if !s.refused(j, built.Err) {
				later = append(later, *j)
			}
		case built.Event == nil: // retried once its predecessors are in the room
			later = append(later, *j)
		default:
			j.future.Event = built.Event
			ready = append(ready, *j)
		}
	}
	if len(ready) > 0 {
		s.hooks.Step("built")
	}
	return ready, later
}

// claim claims the longest prefix of jobs that may still be sent, because each event builds on its predecessor. It
// returns those whose claim is durable, and those that must be built again.
func (s *Server) claim(jobs []job) (claimed, later []job) {
	if len(jobs) == 0 {
		return nil, nil
	}
	b, first, n := s.decideClaims(jobs)
	jobs, later = jobs[:n], jobs[min(n+1, len(jobs)):] // the job after the prefix is no longer wanted
	if n == 0 {
		return nil, later
	}
	<-b.done
	now := s.clock.now()
	for i := range jobs {
		j := &jobs[i]
		switch {
		case b.err != nil: // the server is stopping; the next one will find the future scheduled
			j.answer(b.err)
		case b.result.Lost[first+i]:
			logrus.WithField("future", int64(j.NID)).Error("futureserver: another process has taken a future")
			s.forgetClaim(j)
			j.answer(api.ErrGone)
		default:
			j.future.State = api.Sending
			j.claimed, j.at, j.attempt, j.since = true, 0, 0, now
			claimed = append(claimed, *j)
		}
	}
	if len(claimed) > 0 {
		s.hooks.Step("claimed")
	}
	return claimed, later
}

// decideClaims claims the first n futures in memory. Their claims start at index first of the batch.
func (s *Server) decideClaims(jobs []job) (b *batch, first, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b = s.batch()
	now := s.clock.time()
	for first = len(b.Claims); n < len(jobs) && s.wanted(&jobs[n]); n++ {
		late := s.ledger.Claim(jobs[n].Ref, jobs[n].future.Event, now, &b.Changes)
		if jobs[n].send == nil {
			s.metrics.late(min(late, now.Now-s.clock.start.UnixMilli())) // downtime does not count as lateness
		}
	}
	return b, first, n
}

// deliver submits the claimed events and asks the room what became of them.
func (s *Server) deliver(jobs []job) (later []job) {
	if len(jobs) == 0 {
		return nil
	}
	timeout := min(submitTimeout<<min(jobs[0].attempt, 4), submitMost) + time.Duration(len(jobs)-1)*submitEach
	ctx, cancel := context.WithTimeout(s.ctx, timeout)
	defer cancel()
	fs := futures(jobs)
	for _, f := range fs {
		s.delayIDs.submit(f)
	}
	err := s.room.Submit(ctx, fs)
	s.hooks.Step("submitted")

	ctx, cancel = context.WithTimeout(s.ctx, submitMost)
	defer cancel()
	verdicts, verdictErr := s.room.Verdict(ctx, fs)
	if verdictErr != nil {
		verdicts = make([]api.Verdict, len(jobs)) // all Unknown
	}
	for i, verdict := range verdicts {
		j := &jobs[i]
		switch verdict {
		case api.Confirmed:
			s.hooks.Step("proved")
			s.conclude(j, api.Sent, nil)
			if j.send == nil {
				s.metrics.delivered(s.clock.now() - j.due)
			}
			j.answer(nil)
		case api.Refused:
			refusal := &api.Refusal{Kind: api.Forbidden, Message: "The room does not accept the event."}
			s.logFailure(j, refusal)
			s.conclude(j, api.Failed, refusal)
			j.answer(refusal)
		default:
			if !s.tryAgain(j, errors.Join(err, verdictErr)) {
				later = append(later, *j)
			}
		}
	}
	return later
}

// conclude gives the future its final state. It does not wait for durability: if the state is lost, the same PDU is
// submitted again after the restart, and the room already knows it.
func (s *Server) conclude(j *job, state api.State, refusal *api.Refusal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ledger.Conclude(j.Ref, state, refusal, s.clock.time(), &s.batch().Changes)
}

// forgetClaim removes a future from memory only.
func (s *Server) forgetClaim(j *job) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ledger.Forget(j.Ref)
}

// refused handles an event that could not be built, and reports whether the job is over.
func (s *Server) refused(j *job, err error) (over bool) {
	refusal, final := errors.AsType[*api.Refusal](err)
	switch {
	case errors.Is(err, api.ErrNewerState):
		s.conclude(j, api.Invalidated, nil)
		j.answer(api.ErrGone)
		return true
	case j.send != nil:
		j.answer(err) // the future and its group stay unchanged
		return true
	case final:
		s.logFailure(j, refusal)
		s.conclude(j, api.Failed, refusal)
		return true
	}
	return s.tryAgain(j, err)
}

// tryAgain sets the time of the next attempt. If the room has not answered for a day it gives up, and the job is over.
func (s *Server) tryAgain(j *job, err error) (over bool) {
	tried := s.clock.now() - j.since
	if tried > giveUpAfter.Milliseconds() {
		refusal := &api.Refusal{Kind: api.Internal, Message: "The server could not find out what the room says."}
		s.logFailure(j, refusal)
		s.conclude(j, api.Failed, refusal)
		j.answer(refusal)
		return true
	}
	// The pause is at most a second and an eighth of the time since the first attempt, so that all goes on soon after
	// an outage.
	j.pause = min(backoff(j.attempt), time.Second+time.Duration(tried/8)*time.Millisecond)
	j.attempt++
	if j.attempt == 3 && s.ctx.Err() == nil {
		logrus.WithError(err).WithField("future", int64(j.NID)).Warn("futureserver: a due event is stuck; the server keeps trying")
	}
	s.metrics.retried.Inc()
	return false
}

// logFailure writes the operator's log line for a failed future.
func (s *Server) logFailure(j *job, refusal *api.Refusal) {
	fields := logrus.Fields{"future": int64(j.NID), "reason": refusal.Kind.String(), "deadline": api.Spell(s.deadlineOf(j))}
	if f := j.future; f != nil {
		fields["room_id"], fields["user_id"], fields["event_type"] = f.RoomID, f.UserID, f.Type
		fields["kind"] = api.KindOf(f.Policy).String()
	}
	logrus.WithFields(fields).Warn("futureserver: a future failed: " + refusal.Message)
}

// deadlineOf returns the true deadline of a job's future, Unix ms; 0 if it has none.
func (s *Server) deadlineOf(j *job) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if v, ok := s.ledger.At(j.Ref); ok && v.Deadline != 0 {
		return v.Deadline + s.clock.time().Offset
	}
	return 0
}
