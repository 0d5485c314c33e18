// Package internal is the core of the futureserver: one future's life, from the request to its outcome. It
// knows the rooms only through api.Room and the disk only through storage.Database.
//
// Every transition is decided under one lock in memory (table.go and what it is made of, act.go), made durable
// by one row change in a group commit (commit.go), and never undone. What is due waits in its room's queue
// (run.go) until it is built, claimed, submitted and proved (fire.go). recover.go starts and stops it all.
package internal

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
	"github.com/matrix-org/dendrite/futures/futureserver/internal/wheel"
	"github.com/matrix-org/dendrite/futures/futureserver/storage"
)

// Config is what an operator can set. All fields are required.
type Config struct {
	Futures       Limits
	Delayed       Limits        // of managed futures
	Slack         time.Duration // of the stored deadline; see refresh
	RoomsInFlight int
	Retention     time.Duration // of finished futures
	KeepPerUser   int           // how many finished futures are kept of one user
}

// Hooks are told what happens. They may be nil.
type Hooks struct {
	Step  func(string) // each step of a future's life; tests stop the process there
	Storm func(bool)   // whether rooms wait because as many as may be are in flight; called when that changes, in order
}

// Limits are those of one kind of futures.
type Limits struct {
	MaxTimeout time.Duration // at most 49 days
	MaxPerUser int
}

// limits returns those that apply to a future.
func (s *Server) limits(isManaged bool) Limits {
	if isManaged {
		return s.cfg.Delayed
	}
	return s.cfg.Futures
}

// Server is the futureserver. It implements api.FutureInternalAPI.
type Server struct {
	cfg     Config
	db      storage.Database
	room    api.Room
	metrics *Metrics
	hooks   Hooks
	clock   clock

	delayIDs *delayIDs // of what has been sent

	naming [64]sync.Mutex // by user: held while a group name is looked up on disk

	mu        sync.Mutex // guards everything below
	table     *table
	wheel     *wheel.Wheel
	wakeAt    int64 // when the run loop will look at the wheel
	wake      chan struct{}
	ready     readyHeap // rooms with something to do
	inFlight  int
	storm     bool // rooms wait because as many as may be are in flight
	longTurns int  // in flight for so long that they do not count
	lastNID   api.NID
	passing   map[api.Secret]passing
	next      *batch // gathers what the next transaction writes
	kick      chan struct{}
	unwritten int      // ends that are decided and not yet on disk
	dirty     []uint32 // slots whose stored deadline is to be raised
	offset    int64    // of the wall clock, when deadlines were last known to be right on disk
	stopping  bool     // nothing new is accepted
	failed    error    // why the server cannot go on

	ctx        context.Context // of everything that is in flight
	cancel     context.CancelFunc
	work       sync.WaitGroup // futures on their way into a room
	loops      sync.WaitGroup // the run loop and the writer
	stopCalled bool
	stopRun    chan struct{}
	stopped    chan struct{} // closed when the writer has written its last batch
}

// clock counts Unix milliseconds by the monotonic clock: a step of the wall clock does not reach it.
type clock struct{ start time.Time }

// now never is ahead of the true time.
func (c clock) now() int64 {
	return c.start.UnixMilli() + time.Since(c.start).Milliseconds()
}

// ceil never is behind the clock's own true time, so that a deadline counted from it is never early.
func (c clock) ceil() int64 {
	return c.start.UnixMilli() + int64((time.Since(c.start)+time.Millisecond-1)/time.Millisecond)
}

// until is how long it is until this clock shows that time, an hour at most. Not a whole number of milliseconds:
// counted from now(), it would end up to one too late.
func (c clock) until(ms int64) time.Duration {
	since := time.Since(c.start)
	left := min(ms-c.start.UnixMilli()-since.Milliseconds(), time.Hour.Milliseconds())
	return time.Duration(left)*time.Millisecond - since%time.Millisecond
}

// wall converts a time of this clock to the wall clock's, as it stands now: that is what goes to disk.
func (c clock) wall(ms int64) int64 {
	now := time.Now() // one reading for both clocks: two would differ by chance
	step := now.Round(0).Sub(c.start.Round(0)) - now.Sub(c.start)
	if c.start.Nanosecond()%int(time.Millisecond) != 0 {
		ms++ // this clock began a part of a millisecond early
	}
	return ms + step.Round(time.Millisecond).Milliseconds()
}

// PerformFutureCreation implements api.FutureInternalAPI.
func (s *Server) PerformFutureCreation(ctx context.Context, f *api.Future) (*api.Future, error) {
	if f.TxnKey == nil {
		f.Secret = api.NewSecret()
		return s.create(ctx, f)
	}
	f.Secret = api.TransactionSecret(s.db.Key(), f.UserID, f.TxnKey)
	made, err := s.create(ctx, f)
	if err == nil || err == api.ErrStopping {
		return made, err
	}
	// A repeat gets its first answer even if it could not be accepted anew.
	if first, lookErr := s.first(ctx, f.Secret); lookErr == nil && first != nil {
		return first, nil
	}
	return nil, err
}

func (s *Server) create(ctx context.Context, f *api.Future) (*api.Future, error) {
	if most := s.limits(f.Policy.Has(api.Managed)).MaxTimeout; f.Timeout > most {
		return nil, &api.TimeoutError{Max: most}
	}
	slot, err := s.reserve(ctx, f)
	if err != nil {
		return nil, err
	}
	// Only now, with the slot registered, is the room asked: a change of state after the answer finds the
	// future and marks it, one before is in the answer.
	if f.Base, err = s.room.Admit(ctx, f); err != nil {
		s.abandon(slot)
		return nil, err
	}
	b, i, err := s.insert(slot, f)
	if err != nil {
		return nil, err
	}
	s.hooks.Step("accepted")
	if err := b.wait(ctx); err == api.ErrOverloaded {
		s.withdraw(slot, f.NID)
		return nil, err
	} else if err != nil && ctx.Err() != nil {
		return nil, err // as if the answer had been lost: the future may be stored
	}
	if err := b.insertErr(i); err != nil {
		return nil, err
	}
	if b.result.Duplicate[i] {
		return nil, errRepeated
	}
	s.metrics.scheduled.Inc()
	if b.again[i] {
		tuple, _ := f.Tuple()
		err = s.PerformStateChange(ctx, f.RoomID, []api.StateKeyTuple{tuple})
	}
	return f, err
}

// reserve checks the limits and the group, and takes a slot for the future.
func (s *Server) reserve(ctx context.Context, f *api.Future) (uint32, error) {
	f.State = api.Scheduled
	named := f.GroupID != ""
	if !named && f.Timeout == 0 {
		return 0, api.ErrUnknownGroup
	}
	used := false
	if named {
		lock := &s.naming[fnv(f.UserID)%uint32(len(s.naming))]
		lock.Lock()
		defer lock.Unlock()
		var err error
		if used, err = s.groupUsed(ctx, f.UserID, f.GroupID); err != nil {
			return 0, err
		}
	} else {
		f.GroupID = f.Token(api.GroupToken).String()
	}

	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopping {
		return 0, api.ErrStopping
	}
	if err := s.checkLimit(f.UserID, f.Policy.Has(api.Managed)); err != nil {
		return 0, err
	}
	if named {
		if err := s.checkGroup(f, used); err != nil {
			return 0, err
		}
	}
	s.lastNID++
	f.NID = s.lastNID
	r := record{nid: f.NID, user: s.table.hash(f.UserID), secret: f.Secret, timeout: uint32(f.Timeout.Milliseconds()), flags: creating}
	if t, ok := f.Tuple(); ok && f.Policy.Watched() {
		r.flags |= watched
		r.key = keyFilter(storage.KeyHash(t.Type, t.StateKey))
	}
	if f.Policy.Has(api.Managed) {
		r.flags |= managed
	}
	slot, rec := s.table.put(r, s.table.hash(f.RoomID))
	if named {
		s.table.joinGroup(slot, rec, f.UserID, f.GroupID)
	}
	return slot, nil
}

// groupUsed reports whether a user's group is over.
func (s *Server) groupUsed(ctx context.Context, userID, groupID string) (bool, error) {
	s.mu.Lock()
	if s.table.openGroup(userID, groupID) != nil {
		s.mu.Unlock()
		return false, nil
	}
	if err := s.ended(ctx); err != nil {
		return false, err
	}
	return s.db.GroupUsed(ctx, userID, groupID)
}

// checkLimit counts the user's futures of one kind. A limit may have been lowered since they were made: then
// it takes the end of several to get below it.
func (s *Server) checkLimit(userID string, isManaged bool) error {
	most := s.limits(isManaged).MaxPerUser
	slots := s.table.slotsOf(s.table.hash(userID))
	if len(slots) < most {
		return nil
	}
	n := 0
	var deadlines []int64
	for _, slot := range slots {
		if r := s.table.at(slot); (r.flags&managed != 0) == isManaged {
			n++
			if r.deadline != 0 {
				deadlines = append(deadlines, r.deadline)
			}
		}
	}
	if n < most {
		return nil
	}
	slices.Sort(deadlines)
	e := &api.LimitError{Max: most}
	if tooMany := n - most; tooMany < len(deadlines) {
		e.RetryAfter = max(0, time.Duration(deadlines[tooMany]-s.clock.now())*time.Millisecond)
	}
	return e
}

// checkGroup: a group takes members while it has a timeout future that can fire, and an action future needs
// one that is running. A group that is over stays closed for ever, or two events of one name could reach the
// room.
func (s *Server) checkGroup(f *api.Future, used bool) error {
	g := s.table.openGroup(f.UserID, f.GroupID)
	action := f.Timeout == 0
	if g == nil && (used || action) || g != nil && !s.hasTimeout(g, action) {
		return api.ErrUnknownGroup
	}
	return nil
}

// hasTimeout reports whether a group has a timeout future that can still fire; committedOnly leaves out those
// whose insert is under way.
func (s *Server) hasTimeout(g *group, committedOnly bool) bool {
	not := doomed
	if committedOnly {
		not |= creating
	}
	return slices.ContainsFunc(g.slots, func(slot uint32) bool {
		r := s.table.at(slot)
		return r.timeout != 0 && r.flags&(not|sending) == 0
	})
}

// abandon takes back a reservation.
func (s *Server) abandon(slot uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leave(slot, s.table.at(slot))
}

// withdraw has a future ended as soon as it is stored.
func (s *Server) withdraw(slot uint32, nid api.NID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.table.live(slot, nid); r != nil {
		s.end(s.batch(), slot, r, api.Discarded, nil)
	}
}

// insert starts the clock and hands the future to the next transaction.
func (s *Server) insert(slot uint32, f *api.Future) (*batch, int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.table.at(slot)
	if s.stopping || r.flags&doomed != 0 {
		s.leave(slot, r)
		return nil, 0, api.ErrStopping
	}
	if len(s.next.Inserts) >= maxBatch {
		s.leave(slot, r)
		return nil, 0, api.ErrOverloaded
	}
	if _, repeated := s.holder(f.Secret); repeated && f.TxnKey != nil {
		s.leave(slot, r)
		return nil, 0, errRepeated
	}
	now := s.clock.ceil()
	f.Created = s.clock.wall(now)
	if r.timeout != 0 {
		r.deadline = now + int64(r.timeout)
		f.Deadline = f.Created + int64(r.timeout)
	}
	b := s.batch()
	s.passing[f.Secret] = passing{nid: f.NID, user: r.user, made: b}
	b.Inserts = append(b.Inserts, f)
	b.slots = append(b.slots, slot)
	return b, len(b.Inserts) - 1, nil
}

// arm makes a stored future live: its tokens work and its timer runs. Under the lock.
func (s *Server) arm(slot uint32, r *record) {
	r.flags &^= creating
	s.table.addTokens(slot, r, s.table.tokens.add)
	if r.timeout != 0 {
		s.wheel.Add(slot)
		if r.deadline < s.wakeAt {
			notify(s.wake)
		}
	}
}

// QueryFuturesByUser implements api.FutureInternalAPI.
func (s *Server) QueryFuturesByUser(ctx context.Context, userID string) ([]*api.Future, error) {
	fs, err := s.QueryFutures(ctx, api.Filter{UserID: userID})
	fs = slices.DeleteFunc(fs, func(f *api.Future) bool { return f.State != api.Scheduled || f.Policy.Has(api.Managed) })
	slices.SortFunc(fs, func(a, b *api.Future) int {
		return cmp.Or(
			cmp.Compare(isZero(a.Timeout), isZero(b.Timeout)), // action futures last
			cmp.Compare(a.Deadline, b.Deadline), cmp.Compare(a.NID, b.NID))
	})
	return fs, err
}

func isZero(d time.Duration) byte {
	if d == 0 {
		return 1
	}
	return 0
}

// QueryFutures implements api.FutureInternalAPI. The disk says what the futures are about; memory, which is
// ahead of it, whether they are still live and until when.
func (s *Server) QueryFutures(ctx context.Context, filter api.Filter) ([]*api.Future, error) {
	var fs []*api.Future
	var err error
	switch {
	case filter.UserID != "":
		fs, err = s.db.LoadAll(ctx, s.nidsOf(filter.UserID, func(*record) bool { return true }))
	case filter.NID != 0:
		fs, err = s.db.LoadAll(ctx, []api.NID{filter.NID})
	default:
		fs, err = s.db.SelectLive(ctx, filter.RoomID, filter.Limit)
	}
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	fs = slices.DeleteFunc(fs, func(f *api.Future) bool {
		return filter.RoomID != "" && f.RoomID != filter.RoomID || filter.NID != 0 && f.NID != filter.NID || !s.refine(f)
	})
	return atMost(filter.Limit, fs), nil
}

// nidsOf lists those of a user's futures that are wanted, in order.
func (s *Server) nidsOf(userID string, wanted func(*record) bool) (nids []api.NID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, slot := range s.table.slotsOf(s.table.hash(userID)) {
		if r := s.table.at(slot); wanted(r) {
			nids = append(nids, r.nid)
		}
	}
	slices.Sort(nids)
	return nids
}

// atMost cuts off what is beyond a limit; 0 stands for none.
func atMost[T any](limit int, list []T) []T {
	if limit == 0 {
		return list
	}
	return list[:min(limit, len(list))]
}

// refine tells a future read from disk what memory knows better, and reports whether it is live. Under the lock.
func (s *Server) refine(f *api.Future) bool {
	_, r := s.lookUp(f)
	if r == nil {
		return false
	}
	f.State = r.state()
	if f.Timeout != 0 {
		f.Deadline = s.clock.wall(r.deadline)
	}
	return true
}

// lookUp finds the live record of a future read from disk, nil if it has ended meanwhile.
func (s *Server) lookUp(f *api.Future) (uint32, *record) {
	for _, slot := range s.table.slotsOf(s.table.hash(f.UserID)) {
		if r := s.table.at(slot); r.nid == f.NID && r.flags&creating == 0 {
			return slot, r
		}
	}
	return 0, nil
}

// QueryFutureCounts implements api.FutureInternalAPI.
func (s *Server) QueryFutureCounts(context.Context) api.Counts {
	s.mu.Lock()
	defer s.mu.Unlock()
	return api.Counts{
		Scheduled: s.table.scheduled,
		Sending:   s.table.sending,
		Users:     s.table.users.len,
		Rooms:     s.table.rooms.places.len(),
	}
}

// HasStateFutures reports whether newer state in that room could concern any future, cheaply.
func (s *Server) HasStateFutures(roomID string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for range s.table.watchedIn(s.table.hash(roomID)) {
		return true
	}
	return false
}

// Done is closed when the server has stopped, by itself or by Stop.
func (s *Server) Done() <-chan struct{} { return s.stopped }

// Err returns why the server could not go on, nil if it was stopped.
func (s *Server) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failed
}

// notify wakes a loop that may be waking already.
func notify(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
