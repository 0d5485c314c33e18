package ledger

import (
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
	"github.com/matrix-org/dendrite/futures/test/model"
)

// Random histories of the ledger alone, judged by the model: many callers at once, verbs interleaved at will, a writer that
// takes as long as it likes, inserts that fail, and a crash between any two changes. There is no clock and no disk, so that
// a history takes some microseconds. Each follows from its number.

var (
	histories    = flag.Int("ledger.histories", 100_000, "random histories of the ledger")
	firstHistory = flag.Int("ledger.first", 0, "the number of the first one")
)

func TestHistories(t *testing.T) {
	var next atomic.Int64
	var workers sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		workers.Go(func() {
			for n := next.Add(1) - 1; n < int64(*histories) && !t.Failed(); n = next.Add(1) - 1 {
				h := newHistory(uint64(*firstHistory) + uint64(n))
				if err := h.run(); err != nil {
					t.Errorf("history %d: %v\n%s", int64(*firstHistory)+n, err, h.log[:min(len(h.log), 4000)])
				}
			}
		})
	}
	workers.Wait()
}

const testSlack = 30_000

func testConfig() Config {
	limits := Limits{MaxTimeout: time.Hour, MaxPerUser: 12}
	return Config{Futures: limits, Delayed: limits, Slack: testSlack * time.Millisecond, Grace: 10 * time.Second, MaxBytes: 5000}
}

// history is one under way.
type history struct {
	*rand.Rand
	l    *Ledger
	disk *disk
	now  int64
	log  []byte

	next, writing *Changes
	jobs          []*job
	calls         []*call           // creations that are under way
	waits         map[uint64][]wait // what is answered when those changes are written
	known         map[api.NID]*known
	world         *model.World
	events        map[string]int     // by group
	inRoom        map[api.NID]string // events
	crashed       bool
	names         map[string]bool // of groups that a stored future was ever in, or may have been
}

// known is a future whose creation was answered.
type known struct {
	f    *api.Future
	seen *model.Future
}

type call struct {
	f        *api.Future
	look     Look
	looked   bool
	arrival  *Arrival
	asked    int64
	inserted bool
}

type job struct {
	ref   Ref
	at    int64
	asked bool
	built int64 // 0: not yet
}

type wait struct {
	what  string
	nid   api.NID
	asked int64
}

func newHistory(seed uint64) *history {
	h := &history{
		Rand: rand.New(rand.NewPCG(seed, 3)), now: 1_000_000_000, disk: &disk{rows: map[api.NID]*row{}},
		known: map[api.NID]*known{}, world: model.New(testSlack*time.Millisecond, time.Hour), events: map[string]int{},
		inRoom: map[api.NID]string{}, waits: map[uint64][]wait{}, names: map[string]bool{},
	}
	h.l = New(testConfig(), h.time())
	h.next = &Changes{Number: 1}
	return h
}

func (h *history) time() Time { return Time{Now: h.now, Ceil: h.now, Age: h.now} }

func (h *history) at(ms int64) time.Time { return time.UnixMilli(ms) }

func (h *history) note(format string, args ...any) {
	h.log = fmt.Appendf(h.log, "%d "+format+"\n", append([]any{h.now}, args...)...)
}

func (h *history) run() error {
	for range 10 + h.IntN(50) {
		if err := h.step(); err != nil {
			return err
		}
	}
	return h.finish()
}

func (h *history) step() error {
	switch n := h.IntN(100); {
	case n < 16:
		h.ask()
	case n < 44:
		return h.goOn()
	case n < 52:
		h.now += []int64{0, 1, 5, 1000, 8000, 40_000}[h.IntN(6)]
		h.note("time passes")
		h.due()
	case n < 60:
		h.begin()
	case n < 70:
		return h.end()
	case n < 78:
		return h.fire()
	case n < 83:
		h.use("refresh")
	case n < 88:
		h.use("cancel")
	case n < 91:
		h.use("send")
	case n < 93:
		h.newerState()
	case n < 94:
		h.remove()
	case n < 97:
		h.withdraw()
	default:
		return h.crash()
	}
	return nil
}

// ask begins to create a future.
func (h *history) ask() {
	f := &api.Future{
		UserID: fmt.Sprintf("@user%d:test", h.IntN(2)), RoomID: fmt.Sprintf("!room%d:test", h.IntN(2)), Type: "m.test",
		Timeout: time.Duration([]int{1, 5, 1000, 8000, 60_000, 0, 0}[h.IntN(7)]) * time.Millisecond, Policy: api.CancelOnNewerState,
		GroupID: []string{"", "a", "a", "b", "c"}[h.IntN(5)], Secret: api.Secret{1, byte(h.Uint32()), byte(h.Uint32()), byte(h.Uint32()), byte(h.Uint32())},
	}
	if f.Timeout == 0 && f.GroupID == "" {
		f.GroupID = "a"
	}
	if last := len(h.known); h.IntN(6) == 0 && last > 0 { // a name that the server has given
		for _, k := range h.known {
			if k.f.UserID == f.UserID {
				f.GroupID = k.f.GroupID
			}
		}
	}
	if h.IntN(4) == 0 {
		f.TxnKey = []byte{1}
		f.Secret = api.Secret{2, byte(h.IntN(3)), f.UserID[5]}
	}
	if h.IntN(3) == 0 {
		key := "key"
		f.StateKey = &key
	}
	h.calls = append(h.calls, &call{f: f, asked: h.now})
}

// goOn takes one of the creations a step further.
func (h *history) goOn() error {
	if len(h.calls) == 0 {
		return nil
	}
	i := h.IntN(len(h.calls))
	c := h.calls[i]
	drop := func() { h.calls = slices.Delete(h.calls, i, i+1) }
	if c.arrival == nil {
		if c.look.taken && !c.looked { // the disk answers as of now; the answer is used later
			c.look.Used, c.looked = h.disk.groupUsed(c.f.UserID, c.f.GroupID), true
			return nil
		}
		a, err := h.l.Reserve(c.f, &c.look, h.time())
		switch {
		case errors.Is(err, ErrLook):
			c.looked = false
		case err != nil:
			drop()
			return h.judgeRefusal(c, err)
		default:
			c.arrival = a
			h.note("reserve %d of group %s, timeout %v", c.f.NID, groupName(c.f), c.f.Timeout)
		}
		return nil
	}
	if !c.inserted {
		if h.IntN(8) == 0 { // the room refuses it
			h.note("refused %d", c.f.NID)
			h.l.Abandon(c.arrival, errors.New("refused"), h.next)
		}
		if err := h.l.Insert(c.arrival, h.next, h.time()); err != nil {
			h.note("insert %d: %v", c.f.NID, err)
			drop()
			return nil
		}
		c.inserted = true
		h.note("insert %d, changes %d", c.f.NID, h.next.Number)
	}
	return nil
}

func groupName(f *api.Future) string { return f.UserID + " " + f.GroupID }

// judgeRefusal: a name that was never used is refused to no timeout future.
func (h *history) judgeRefusal(c *call, err error) error {
	h.note("refused a member of %s: %v", groupName(c.f), err)
	if errors.Is(err, api.ErrUnknownGroup) && c.f.Timeout != 0 && !h.names[groupName(c.f)] {
		return fmt.Errorf("the name %s was never used, and is refused", groupName(c.f))
	}
	if errors.Is(err, api.ErrUnknownGroup) && c.f.Timeout != 0 && h.world.GroupOpen(groupName(c.f), h.at(h.now)) == 1 && !h.pending(c.f) {
		return fmt.Errorf("group %s is open, and refuses a timeout future", groupName(c.f))
	}
	return nil
}

// pending reports whether something that may have ended the group is decided and not answered yet.
func (h *history) pending(f *api.Future) bool {
	for _, ws := range h.waits {
		for _, w := range ws {
			if k := h.known[w.nid]; k != nil && groupName(k.f) == groupName(f) {
				return true
			}
		}
	}
	return false
}

// withdraw is a creator that has waited long enough.
func (h *history) withdraw() {
	if len(h.calls) == 0 {
		return
	}
	c := h.calls[h.IntN(len(h.calls))]
	if c.arrival != nil && c.arrival.Err == nil && !c.arrival.Stored {
		h.note("withdraw %d", c.f.NID)
		h.l.Abandon(c.arrival, api.ErrOverloaded, h.next)
	}
}

// begin hands the gathered changes to the disk.
func (h *history) begin() {
	if h.writing != nil {
		return
	}
	h.l.Gather(h.next, 100, h.time())
	h.note("write changes %d", h.next.Number)
	h.writing = h.next
	h.next = &Changes{Number: h.next.Number + 1}
}

// end is when the disk has them; at times it refuses inserts, and then nobody knows.
func (h *history) end() error {
	if h.writing == nil {
		return nil
	}
	c := h.writing
	h.writing = nil
	var failed []error
	result, err := h.disk.apply(&c.Batch)
	if err != nil {
		return err
	}
	if len(c.Inserts) > 0 && h.IntN(6) == 0 {
		failed = make([]error, len(c.Inserts))
		i := h.IntN(len(failed))
		failed[i] = errors.New("the disk is full")
		if h.IntN(2) == 0 {
			delete(h.disk.rows, c.Inserts[i].NID)
		}
		h.note("insert of %d fails", c.Inserts[i].NID)
	}
	h.note("written changes %d", c.Number)
	h.l.Confirm(c, 0, len(c.Extends))
	h.l.Written(c, result, failed, h.time(), h.next)
	if err := h.answer(c.Number); err != nil {
		return err
	}
	return h.submit()
}

// answer tells those who waited for the changes.
func (h *history) answer(number uint64) error {
	for i := 0; i < len(h.calls); i++ {
		c := h.calls[i]
		if !c.inserted || c.arrival.Changes > number {
			continue
		}
		h.calls = slices.Delete(h.calls, i, i+1)
		i--
		if c.arrival.Err != nil {
			continue
		}
		h.note("created %d", c.f.NID)
		h.names[groupName(c.f)] = true
		k := &known{f: c.f, seen: &model.Future{Name: fmt.Sprint("future ", c.f.NID), Room: c.f.RoomID, Timeout: c.f.Timeout}}
		if c.f.StateKey != nil {
			k.seen.Key = "key"
		}
		h.known[c.f.NID] = k
		h.world.Created(k.seen, groupName(c.f), h.at(c.f.Created), h.at(h.now))
	}
	for _, w := range h.waits[number] {
		k := h.known[w.nid]
		if h.world.GroupOpen(groupName(k.f), h.at(h.now)) == -1 {
			continue // it ended after that was decided
		}
		err := error(nil)
		switch w.what {
		case "refresh":
			err = h.world.Refreshed(k.seen, true, h.at(w.asked), h.at(w.asked))
		case "cancel":
			err = h.world.Cancelled(k.seen, true, h.at(w.asked))
		case "end":
			h.world.Unanswered(groupName(k.f))
		}
		if err != nil {
			return err
		}
	}
	delete(h.waits, number)
	return nil
}

func (h *history) some() *known {
	if len(h.known) == 0 {
		return nil
	}
	nids := slices.Sorted(maps.Keys(h.known))
	return h.known[nids[h.IntN(len(nids))]]
}

// use is a token.
func (h *history) use(what string) {
	k := h.some()
	if k == nil {
		return
	}
	kind := map[string]api.TokenKind{"refresh": api.RefreshToken, "cancel": api.CancelToken, "send": api.SendToken}[what]
	ref, _, ok := h.l.ByToken(k.f.Token(kind))
	h.note("%s %d: %v", what, k.f.NID, ok)
	if !ok {
		return
	}
	switch what {
	case "refresh":
		if h.l.Refresh(ref, h.IntN(5) != 0, h.time(), h.next) == Waits {
			h.wait(what, k)
		} else if h.world.GroupOpen(groupName(k.f), h.at(h.now)) != -1 {
			if err := h.world.Refreshed(k.seen, true, h.at(h.now), h.at(h.now)); err != nil {
				panic(err)
			}
		}
	case "cancel":
		h.l.End(ref, api.Cancelled, h.time(), h.next)
		h.wait(what, k)
	case "send":
		h.world.Asked(k.seen)
		h.jobs = append(h.jobs, &job{ref: ref, asked: true})
	}
}

func (h *history) wait(what string, k *known) {
	h.waits[h.next.Number] = append(h.waits[h.next.Number], wait{what, k.f.NID, h.now})
}

// newerState sets the piece of state that futures of a room watch.
func (h *history) newerState() {
	room := fmt.Sprintf("!room%d:test", h.IntN(2))
	for _, nid := range h.l.Watchers(room, nil) {
		if ref, ok := h.l.Watcher(room, nid); ok {
			h.note("newer state ends %d", nid)
			h.l.End(ref, api.Invalidated, h.time(), h.next)
			if k := h.known[nid]; k != nil {
				h.wait("end", k)
				h.world.Unanswered(groupName(k.f))
			}
		}
	}
}

// remove ends an account or a room.
func (h *history) remove() {
	name := fmt.Sprintf("@user%d:test", h.IntN(2))
	room := fmt.Sprintf("!room%d:test", h.IntN(2))
	for _, k := range h.known {
		if k.f.UserID == name || k.f.RoomID == room {
			h.wait("end", k)
			h.world.Unanswered(groupName(k.f))
		}
	}
	h.note("remove %s and %s", name, room)
	h.l.RemoveUser(name, h.time(), h.next)
	for slot := uint32(1); slot != 0; {
		slot = h.l.PurgeRoom(room, slot, 3, h.time(), h.next)
	}
}

// due gives what is due to the rooms.
func (h *history) due() {
	for !h.l.Due(h.time(), 5, func(ref Ref, deadline int64, _ uint64) {
		h.jobs = append(h.jobs, &job{ref: ref, at: deadline})
	}) {
	}
}

// fire takes one of the jobs a step further: its event is built, or claimed.
func (h *history) fire() error {
	if len(h.jobs) == 0 {
		return nil
	}
	i := h.IntN(len(h.jobs))
	j := h.jobs[i]
	if h.l.Ready(j.ref, j.at, j.asked) != Ready {
		h.jobs = slices.Delete(h.jobs, i, i+1)
		return nil
	}
	if j.built == 0 {
		j.built = h.now
		return nil
	}
	h.jobs = slices.Delete(h.jobs, i, i+1)
	h.note("claim %d, changes %d", j.ref.NID, h.next.Number)
	h.l.Claim(j.ref, &api.Event{ID: fmt.Sprint(j.built)}, h.time(), h.next)
	return nil
}

// submit sends what is claimed on disk, once more if it was sent before a crash.
func (h *history) submit() error {
	for _, nid := range slices.Sorted(maps.Keys(h.disk.rows)) {
		r := h.disk.rows[nid]
		if r.state != api.Sending {
			continue
		}
		if err := h.arrive(nid, r); err != nil {
			return err
		}
		for _, v := range h.l.OfUser(r.f.UserID) {
			if v.NID == nid {
				h.l.Conclude(v.Ref, api.Sent, nil, h.time(), h.next)
			}
		}
	}
	return nil
}

// arrive is the event in its room; the same event again changes nothing.
func (h *history) arrive(nid api.NID, r *row) error {
	switch h.inRoom[nid] {
	case r.event:
		return nil
	case "":
	default:
		return fmt.Errorf("future %d is sent as two events", nid)
	}
	h.inRoom[nid] = r.event
	h.note("event of %d", nid)
	g := groupName(r.f)
	if h.events[g]++; h.events[g] > 1 {
		return fmt.Errorf("%d events of group %s", h.events[g], g)
	}
	h.names[g] = true
	k := h.known[nid]
	if k == nil {
		h.world.Unanswered(g)
		return nil
	}
	built, err := strconv.ParseInt(r.event, 10, 64)
	if err != nil {
		return err
	}
	return h.world.Happened(k.seen, h.at(built), h.at(h.now))
}
