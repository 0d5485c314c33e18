package internal

import (
	"context"
	"errors"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
	"github.com/matrix-org/dendrite/futures/futureserver/storage"
)

// One future's way into its room. The claim is the write-ahead log: first the event is built, which fixes its
// ID, then one transaction closes the group and stores the PDU, and only then is it submitted. Whatever goes
// wrong afterwards, the answer is to submit the same PDU again until the room proves that it has it.

const (
	submitTimeout = 1500 * time.Millisecond // for the first try; doubled for each further one
	submitMost    = 10 * time.Second
	giveUpAfter   = 24 * time.Hour // of trying without an answer from the room
)

// fire takes the job as far as it goes now and returns how long to wait before it goes on, 0 if it is over.
func (s *Server) fire(j *job) (pause time.Duration) {
	if j.since == 0 {
		j.since = s.clock.now()
	}
	if !j.claimed {
		f, event, err := s.build(j)
		switch {
		case err != nil:
			return s.refused(j, f, err)
		case event == nil:
			return 0 // there is nothing to fire any more
		}
		s.step("built")
		if !s.claim(j, f, event) {
			return 0
		}
		s.step("claimed")
	}
	return s.deliver(j)
}

// wanted returns the record if the job may still fire it. A future that was refreshed after it became due
// goes back to the wheel: until it is claimed, it is alive. Under the lock.
func (s *Server) wanted(j *job) *record {
	r := s.table.live(j.slot, j.nid)
	if r == nil || r.state() != api.Scheduled {
		j.answer(api.ErrGone)
		return nil
	}
	if j.send == nil && r.deadline > s.clock.now() {
		s.wheel.Add(j.slot)
		s.wakeAt = min(s.wakeAt, r.deadline)
		notify(s.wake)
		return nil
	}
	return r
}

// build makes the event, without deciding anything. All three results are nil if there is nothing to build.
func (s *Server) build(j *job) (*api.Future, *api.Event, error) {
	if j.send != nil && j.send.ctx.Err() != nil {
		return nil, nil, nil // nobody waits for it any more, and nothing has happened
	}
	s.mu.Lock()
	r := s.wanted(j)
	s.mu.Unlock()
	if r == nil {
		return nil, nil, nil
	}
	ctx, cancel := context.WithTimeout(s.ctx, submitMost)
	defer cancel()
	f, err := s.load(ctx, j.nid)
	if err != nil {
		return nil, nil, err
	}
	event, err := s.room.Build(ctx, f)
	return f, event, err
}

func (s *Server) load(ctx context.Context, nid api.NID) (*api.Future, error) {
	f, err := s.db.Load(ctx, nid)
	if err == nil && (f == nil || f.State == api.Sending && f.Event == nil) {
		err = errors.New("a live future is not whole in the database")
	}
	return f, err
}

// refused deals with an event that could not be built.
func (s *Server) refused(j *job, f *api.Future, err error) (pause time.Duration) {
	refusal, final := errors.AsType[*api.Refusal](err)
	switch {
	case errors.Is(err, api.ErrNewerState):
		s.conclude(j, api.Invalidated, nil)
		j.answer(api.ErrGone)
		return 0
	case j.send != nil:
		j.answer(err) // the future and its group stay as they were
		return 0
	case final:
		s.logFailure(f, refusal)
		s.conclude(j, api.Failed, refusal)
		return 0
	}
	return s.tryAgain(j, f, err)
}

// tryAgain says when, and gives up on a future that has had no answer from its room for a day.
func (s *Server) tryAgain(j *job, f *api.Future, err error) (pause time.Duration) {
	tried := s.clock.now() - j.since
	if tried > giveUpAfter.Milliseconds() {
		refusal := &api.Refusal{Kind: api.Internal, Message: "The server could not find out what the room says."}
		s.logFailure(f, refusal)
		s.conclude(j, api.Failed, refusal)
		j.answer(refusal)
		return 0
	}
	// Not much longer than it has been tried, so that after an outage all goes on soon.
	pause = min(backoff(j.attempt), time.Second+time.Duration(tried/8)*time.Millisecond)
	j.attempt++
	if j.attempt == 3 && s.ctx.Err() == nil {
		logrus.WithError(err).WithField("future", int64(j.nid)).Warn("futureserver: a due event is stuck; it will be tried on")
	}
	s.metrics.retried.Inc()
	return pause
}

// claim decides: it closes the group and makes this event the one. It reports whether that is durable.
func (s *Server) claim(j *job, f *api.Future, event *api.Event) bool {
	s.mu.Lock()
	r := s.wanted(j)
	if r == nil {
		s.mu.Unlock()
		return false
	}
	now := s.clock.now()
	if j.send == nil {
		s.metrics.late(now - r.deadline)
	}
	c := storage.Claim{NID: j.nid, Event: event, At: s.clock.wall(now)}
	for _, slot := range s.table.siblings(j.slot, r) {
		sibling := s.table.at(slot)
		if sibling.flags&creating != 0 {
			sibling.flags |= doomed
			continue
		}
		c.Discards = append(c.Discards, sibling.nid)
		s.metrics.ended(api.Discarded, nil)
		s.leave(slot, sibling)
	}
	if r.flags&managed == 0 { // the ID of a delayed event says until its end what becomes of it
		s.table.removeTokens(j.slot, r)
	}
	s.wheel.Remove(j.slot)
	s.table.leaveGroup(j.slot, r)
	s.table.claim(r)
	b := s.batch()
	i := len(b.Claims)
	b.Claims = append(b.Claims, c)
	s.mu.Unlock()

	<-b.done
	if b.err != nil { // the server stops, and the next one will find it scheduled
		j.answer(b.err)
		return false
	}
	if b.result.Lost[i] {
		logrus.WithField("future", int64(j.nid)).Error("futureserver: another process has taken a future")
		s.forget(j)
		j.answer(api.ErrGone)
		return false
	}
	f.State, f.Event = api.Sending, event
	j.claimed, j.future, j.at, j.attempt, j.since = true, f, 0, 0, now
	return true
}

// deliver submits the claimed event and asks the room what became of it.
func (s *Server) deliver(j *job) (pause time.Duration) {
	ctx, cancel := context.WithTimeout(s.ctx, min(submitTimeout<<min(j.attempt, 4), submitMost))
	defer cancel()
	if j.future == nil {
		f, err := s.load(ctx, j.nid)
		if err != nil {
			return s.tryAgain(j, nil, err)
		}
		j.future = f
	}
	f := j.future
	s.delayIDs.submit(f)
	err := s.room.Submit(ctx, f)
	s.step("submitted")

	ctx, cancel = context.WithTimeout(s.ctx, submitMost)
	defer cancel()
	verdict, verdictErr := s.room.Verdict(ctx, f)
	switch verdict {
	case api.Proved:
		s.step("proved")
		s.conclude(j, api.Sent, nil)
		j.answer(nil)
		return 0
	case api.Refused:
		refusal := &api.Refusal{Kind: api.Forbidden, Message: "The room does not accept the event."}
		if r, ok := errors.AsType[*api.Refusal](err); ok {
			refusal = r
		}
		s.logFailure(f, refusal)
		s.conclude(j, api.Failed, refusal)
		j.answer(refusal)
		return 0
	}
	return s.tryAgain(j, f, errors.Join(err, verdictErr))
}

// conclude gives the future its final state. Its durability is not waited for: if it is lost, the same PDU
// is submitted again after the restart, and the room knows it.
func (s *Server) conclude(j *job, state api.State, refusal *api.Refusal) {
	s.mu.Lock()
	r := s.table.live(j.slot, j.nid)
	if r == nil {
		s.mu.Unlock()
		return
	}
	b := s.batch()
	if state == api.Failed && r.state() == api.Scheduled { // the whole group is consumed (generation 0, 5.2)
		for _, slot := range s.table.siblings(j.slot, r) {
			s.close(b, slot, s.table.at(slot), api.Discarded, nil)
		}
	}
	s.end(b, j.slot, r, state, refusal)
	s.mu.Unlock()
}

// forget drops a future from memory alone.
func (s *Server) forget(j *job) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.table.live(j.slot, j.nid); r != nil {
		s.leave(j.slot, r)
	}
}

// logFailure is the operator's line for each future that fails.
func (s *Server) logFailure(f *api.Future, refusal *api.Refusal) {
	entry := logrus.WithField("reason", refusal.Kind.String())
	if f != nil {
		entry = entry.WithFields(logrus.Fields{"room_id": f.RoomID, "user_id": f.UserID, "event_type": f.Type})
	}
	entry.Warn("futureserver: a future failed: " + refusal.Message)
}
