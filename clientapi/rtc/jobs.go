package rtc

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
)

// Futures is the part of the futureserver that delegated leaves need.
type Futures interface {
	api.Delegations
	PerformDelayedEventAction(ctx context.Context, id, owner string, a api.Action) error
}

// details is the stored job of a delegation: on which SFUs to look for its participant, and under which identities.
type details struct {
	SFUs       []string `json:"sfus"` // their URLs
	Alias      string   `json:"alias"`
	Identities []string `json:"identities"` // the client uses one of them
}

// callKey is a call: an alias on one or several SFUs, whose URLs are joined by spaces.
type callKey struct {
	alias, sfus string
}

func (c callKey) on(url string) bool { return slices.Contains(strings.Fields(c.sfus), url) }

// delegates runs all delegated leaves: one goroutine for each leave, and one that polls for each call.
type delegates struct {
	ctx     context.Context // ends all goroutines
	futures Futures
	// look asks the SFUs of a call for all participants, or only for those identities.
	look func(ctx context.Context, c callKey, identities ...string) (present, error)
	// remove removes a participant from the SFUs of a call.
	remove  func(ctx context.Context, c callKey, identities ...string) error
	metrics *metrics
	lines   lines

	mu    sync.Mutex
	jobs  map[string]*job      // by delay_id
	calls map[callKey]*polling // with jobs
}

type polling struct {
	jobs map[*job]bool
	stop context.CancelFunc
}

// A job is one delegation.
type job struct {
	*api.Delegated
	details
	call  callKey
	news  chan func(*watch, time.Time) action
	state string // for the metrics; under the lock of delegates

	unconfirmed atomic.Bool // the SFU has not answered since the start
}

// newDelegates returns delegates that still lack look and remove.
func newDelegates(ctx context.Context, futures Futures, m *metrics) *delegates {
	return &delegates{ctx: ctx, futures: futures, metrics: m, jobs: make(map[string]*job), calls: make(map[callKey]*polling)}
}

// resume starts the delegations that were in force when the server stopped.
func (d *delegates) resume() {
	for _, delegated := range d.futures.QueryDelegations() {
		if err := d.begin(delegated, resumedWatch(delegated.Timeout, time.Now())); err != nil {
			logrus.WithError(err).WithField("room_id", delegated.RoomID).Error("A delegated leave cannot be read; it will be sent when its delay is over")
		}
	}
}

// accept stores a delegation and starts its watch. Its errors are those of api.Delegations.
func (d *delegates) accept(ctx context.Context, wanted api.Delegation, job details) error {
	var err error
	if wanted.Job, err = json.Marshal(job); err != nil {
		return err
	}
	delegated, err := d.futures.PerformDelegation(ctx, wanted)
	if err != nil {
		return err
	}
	return d.begin(delegated, newWatch(delegated.Timeout, time.Now()))
}

// begin starts the job, unless it runs already.
func (d *delegates) begin(delegated *api.Delegated, w *watch) error {
	j := &job{Delegated: delegated, news: make(chan func(*watch, time.Time) action, 16)}
	if err := json.Unmarshal(delegated.Job, &j.details); err != nil {
		return err
	}
	j.call = callKey{j.Alias, strings.Join(j.SFUs, " ")}
	d.mu.Lock()
	defer d.mu.Unlock()
	if known := d.jobs[j.DelayID]; known != nil && known.Done == j.Done {
		return nil
	}
	j.unconfirmed.Store(j.Starts > 0)
	d.jobs[j.DelayID] = j
	p := d.calls[j.call]
	if p == nil {
		p = &polling{jobs: make(map[*job]bool)}
		d.calls[j.call] = p
		var ctx context.Context
		ctx, p.stop = context.WithCancel(d.ctx)
		go d.poll(ctx, j.call)
	}
	p.jobs[j] = true
	d.metrics.state(j, w)
	go d.ask(j)
	go d.run(j, w)
	return nil
}

// end removes a job.
func (d *delegates) end(j *job) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.metrics.state(j, nil)
	if d.jobs[j.DelayID] == j {
		delete(d.jobs, j.DelayID)
	}
	p := d.calls[j.call]
	if delete(p.jobs, j); len(p.jobs) == 0 {
		p.stop()
		delete(d.calls, j.call)
	}
}

// run carries out the actions of the watch until the delayed event has ended.
func (d *delegates) run(j *job, w *watch) {
	defer d.end(j)
	for {
		timer := time.NewTimer(time.Until(w.next()))
		act := nothing
		select {
		case <-j.Done:
			return
		case <-d.ctx.Done():
			return
		case news := <-j.news:
			act = news(w, time.Now())
		case <-timer.C:
			act = w.tick(time.Now())
		}
		timer.Stop()
		d.note(j, w)
		if !d.act(j, w, act) {
			return
		}
	}
}

func (d *delegates) note(j *job, w *watch) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.metrics.state(j, w)
}

// act carries out an action. goesOn is false if the job is done.
func (d *delegates) act(j *job, w *watch, act action) (goesOn bool) {
	switch act {
	case restart:
		d.metrics.restarts.Inc()
		return d.perform(j, api.Restart)
	case ask:
		go d.ask(j)
	case send, drop:
		d.metrics.sends.WithLabelValues(reasonLabel(w.leaving.why)).Inc()
		logrus.WithFields(logrus.Fields{"room_id": j.RoomID, "user_id": j.UserID, "reason": w.leaving.why}).
			Info("A participant has left the call; their leave event is sent")
		d.perform(j, api.Send)
		if act == drop {
			if err := d.remove(d.ctx, j.call, j.Identities...); err != nil {
				logrus.WithError(err).WithField("room_id", j.RoomID).Info("Cannot remove a participant who is gone; the SFU will notice")
			}
		}
		return false
	}
	return true
}

const (
	firstRetry = 250 * time.Millisecond
	mostRetry  = 10 * time.Second
)

// perform acts on the delayed event and retries temporary errors. It returns false if the event has ended or the room
// refuses it; then the job is done.
func (d *delegates) perform(j *job, a api.Action) bool {
	for pause := firstRetry; ; pause = min(2*pause, mostRetry) {
		err := d.futures.PerformDelayedEventAction(d.ctx, j.DelayID, j.UserID, a)
		var refused *api.Refusal
		var finished *api.FinishedError
		switch {
		case err == nil:
			return true
		case errors.As(err, &refused), errors.As(err, &finished), errors.Is(err, api.ErrGone), errors.Is(err, api.ErrStopping):
			if refused != nil {
				logrus.WithError(err).WithFields(logrus.Fields{"room_id": j.RoomID, "user_id": j.UserID}).
					Warn("The room refuses a delegated leave; it will fail when its delay is over")
			}
			return false
		}
		select {
		case <-time.After(pause):
		case <-j.Done:
			return false
		case <-d.ctx.Done():
			return false
		}
	}
}

// ask asks the SFUs for the job's participant.
func (d *delegates) ask(j *job) {
	there, err := d.look(d.ctx, j.call, j.Identities...)
	select {
	case j.news <- d.reading(j, there, err, (*watch).asked):
	case <-j.Done:
	case <-d.ctx.Done():
	}
	if err == nil {
		d.confirm(j)
	}
}

// reading turns an answer of the SFUs into an event for the job's watch.
func (d *delegates) reading(j *job, there present, err error, absent func(*watch, time.Time, error) action) func(*watch, time.Time) action {
	for _, identity := range j.Identities {
		if sid, ok := there[identity]; ok {
			return func(w *watch, now time.Time) action {
				switch {
				case d.lines.has(j): // perhaps this was not reported, because the job's queue was full
					w.heard(now)
				case w.leaving.why == signalLost && w.leaving.asking && d.lines.manyLost(now):
					return w.suspend(now)
				}
				return w.found(now, sid)
			}
		}
	}
	return func(w *watch, now time.Time) action { return absent(w, now, err) }
}

// offer passes an event to the job. It drops the event if the job's queue is full; the next poll repeats the news,
// and reading looks at the signalling connections itself.
func (d *delegates) offer(j *job, news func(*watch, time.Time) action) {
	select {
	case j.news <- news:
	default:
	}
}

func (d *delegates) polled(c callKey, there present, err error) {
	for _, j := range d.of(func(k callKey) bool { return k == c }) {
		d.offer(j, d.reading(j, there, err, (*watch).polled))
		if err == nil {
			d.confirm(j)
		}
	}
}

// confirm tells the futureserver, once after a start, that the SFU has answered.
func (d *delegates) confirm(j *job) {
	if !j.unconfirmed.CompareAndSwap(true, false) {
		return
	}
	if _, err := d.futures.PerformDelegation(d.ctx, j.Delegation); err != nil {
		j.unconfirmed.Store(true)
	}
}

// of returns the jobs of some calls.
func (d *delegates) of(wanted func(callKey) bool) (found []*job) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for c, p := range d.calls {
		if wanted(c) {
			for j := range p.jobs {
				found = append(found, j)
			}
		}
	}
	return found
}

// inform passes an event of a signalling connection to the jobs of its participant.
func (d *delegates) inform(l line, what func(*watch, time.Time) action) {
	for _, j := range d.of(func(c callKey) bool { return c.alias == l.alias && c.on(l.sfu) }) {
		if slices.Contains(j.Identities, l.identity) {
			d.offer(j, what)
		}
	}
}

// webhook passes the news of an SFU to the jobs that it concerns.
func (d *delegates) webhook(sfu string, n *news) {
	for _, j := range d.of(func(c callKey) bool { return c.alias == n.Room.Name && c.on(sfu) }) {
		if n.Event != roomFinished && !slices.Contains(j.Identities, n.Participant.Identity) {
			continue
		}
		d.offer(j, func(w *watch, now time.Time) action {
			switch n.Event {
			case participantJoined:
				return w.joined(now, n.Participant.SID)
			case participantAborted:
				return w.aborted(now, n.Participant.SID, n.Participant.DisconnectReason)
			case participantLeft:
				return w.left(now, n.Participant.SID, n.Participant.DisconnectReason)
			}
			return w.finished(now)
		})
	}
}
