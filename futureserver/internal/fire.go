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

// A future's way into its room. The claim is the write-ahead log: first the event is built, which fixes its
// ID, then one transaction closes the group and stores the PDU, and only then is it submitted. Whatever goes
// wrong afterwards, the answer is to submit the same PDU again until the room proves that it has it.
//
// What is due in a room at the same time goes this way together: built on one look at the room, each event on the
// one before it, claimed in one transaction, submitted at once, and confirmed one by one.

const (
	submitTimeout = 1500 * time.Millisecond // for the first try with one event; doubled for each further one
	submitEach    = 250 * time.Millisecond  // more for each further event
	submitMost    = 10 * time.Second
	giveUpAfter   = 24 * time.Hour // of trying without an answer from the room
)

// fire takes the jobs of one room as far as they go now, and returns those that have to go on later. From its look at the
// room until its events are confirmed it is inside the room's gate, if need be over several attempts: whoever built
// meanwhile would build beside them.
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

// beginAttempt begins an attempt, and returns how to leave the gate in which the last one has stayed.
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

// load returns those jobs that may go on, with their futures, which it reads from disk unless they have them.
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

// stillWanted returns those jobs that may still fire, or are claimed. What several want at once is fired by the first; the
// others see later what became of it.
func (s *Server) stillWanted(jobs []job) (wanted, later []job) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range jobs {
		j := &jobs[i]
		switch {
		case j.claimed:
			wanted = append(wanted, *j)
		case j.send != nil && j.send.ctx.Err() != nil: // nobody waits for it any more, and nothing has happened
		case slices.ContainsFunc(wanted, func(first job) bool { return first.NID == j.NID }):
			later = append(later, *j)
		case s.wanted(j):
			wanted = append(wanted, *j)
		}
	}
	return wanted, later
}

// wanted reports whether the job may still fire its future. Under the lock.
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

// build makes the events, without deciding anything. Those that could be made are ready, in the order in which
// they build on each other.
func (s *Server) build(ctx context.Context, jobs []job) (ready, later []job) {
	for i, built := range s.room.Build(ctx, futures(jobs)) {
		j := &jobs[i]
		switch {
		case built.Err != nil:
			if !s.refused(j, built.Err) {
				later = append(later, *j)
			}
		case built.Event == nil: // it comes when those before it are in the room
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

// claim decides: it claims the longest prefix that may still be sent, for each event builds on its predecessor. It
// returns those whose claim is durable, and those that have to be built anew.
func (s *Server) claim(jobs []job) (claimed, later []job) {
	if len(jobs) == 0 {
		return nil, nil
	}
	b, first, n := s.decideClaims(jobs)
	jobs, later = jobs[:n], jobs[min(n+1, len(jobs)):] // the one in between is not wanted any more
	if n == 0 {
		return nil, later
	}
	<-b.done
	now := s.clock.now()
	for i := range jobs {
		j := &jobs[i]
		switch {
		case b.err != nil: // the server stops, and the next one will find it scheduled
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

// decideClaims claims the first n futures in memory; their claims begin at first in the batch.
func (s *Server) decideClaims(jobs []job) (b *batch, first, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b = s.batch()
	now := s.clock.time()
	for first = len(b.Claims); n < len(jobs) && s.wanted(&jobs[n]); n++ {
		late := s.ledger.Claim(jobs[n].Ref, jobs[n].future.Event, now, &b.Changes)
		if jobs[n].send == nil {
			s.metrics.late(min(late, now.Now-s.clock.start.UnixMilli())) // downtime is not lateness
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
		verdicts = make([]api.Verdict, len(jobs)) // Unknown
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

// conclude gives the future its final state. Its durability is not waited for: if it is lost, the same PDU
// is submitted again after the restart, and the room knows it.
func (s *Server) conclude(j *job, state api.State, refusal *api.Refusal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ledger.Conclude(j.Ref, state, refusal, s.clock.time(), &s.batch().Changes)
}

// forgetClaim drops a future from memory alone.
func (s *Server) forgetClaim(j *job) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ledger.Forget(j.Ref)
}

// refused deals with an event that could not be built, and reports whether the job is over.
func (s *Server) refused(j *job, err error) (over bool) {
	refusal, final := errors.AsType[*api.Refusal](err)
	switch {
	case errors.Is(err, api.ErrNewerState):
		s.conclude(j, api.Invalidated, nil)
		j.answer(api.ErrGone)
		return true
	case j.send != nil:
		j.answer(err) // the future and its group stay as they were
		return true
	case final:
		s.logFailure(j, refusal)
		s.conclude(j, api.Failed, refusal)
		return true
	}
	return s.tryAgain(j, err)
}

// tryAgain says when, and gives up on a future that has had no answer from its room for a day: then the job is
// over.
func (s *Server) tryAgain(j *job, err error) (over bool) {
	tried := s.clock.now() - j.since
	if tried > giveUpAfter.Milliseconds() {
		refusal := &api.Refusal{Kind: api.Internal, Message: "The server could not find out what the room says."}
		s.logFailure(j, refusal)
		s.conclude(j, api.Failed, refusal)
		j.answer(refusal)
		return true
	}
	// Not much longer than it has been tried, so that after an outage all goes on soon.
	j.pause = min(backoff(j.attempt), time.Second+time.Duration(tried/8)*time.Millisecond)
	j.attempt++
	if j.attempt == 3 && s.ctx.Err() == nil {
		logrus.WithError(err).WithField("future", int64(j.NID)).Warn("futureserver: a due event is stuck; it will be tried on")
	}
	s.metrics.retried.Inc()
	return false
}

// logFailure is the operator's line for each future that fails.
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
