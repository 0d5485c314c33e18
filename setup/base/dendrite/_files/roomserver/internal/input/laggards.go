package input

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/fclient"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/matrix-org/dendrite/roomserver/api"
	"github.com/matrix-org/dendrite/roomserver/types"
	"github.com/matrix-org/dendrite/setup/jetstream"
)

// A laggard is another server's event that follows on events which we do not have. Other servers must be asked for
// these, which can take minutes, and a room's events are processed one by one. So the room's worker puts laggards into
// another queue, a lane, that has a worker of its own, and goes on with the next event. A lane is like a room to
// JetStream: its events are on disk, and still there after a restart.
//
// What is done to the room is still done by one worker at a time: processRoomEvent holds the room's lock, except while
// it waits for other servers.

const (
	lanes       = 16 // of a room; each server has one, and shares it with few others
	lanePrefix  = "laggards "
	mostWaiting = 1000 // in a lane; more are not taken in

	slowAnswer = 10 * time.Second // a laggard that fails after so long was kept waiting
	quietTime  = time.Minute      // for which the server that sent it is not waited for again, in that room

	// How long a room's own worker waits for other servers in a minute. It has to when a user joins by way of
	// another server while others are in the room already, and the answer has gaps.
	workerWaits = 3 * time.Second
)

// errLags is the outcome of an event that has to wait for other servers, where it cannot.
var errLags = errors.New("what came before the event is not known")

// room is what the workers of one room share. Whoever changes the room holds the lock.
type room struct {
	sync.Mutex
	laggards [lanes]int    // that wait
	waited   time.Duration // for other servers by the room's own worker, since:
	since    time.Time
}

func (r *Inputer) room(id string) *room {
	v, ok := r.rooms.Load(id)
	if !ok {
		v, _ = r.rooms.LoadOrStore(id, new(room))
	}
	return v.(*room)
}

// laneOf is the lane for a server's laggards in a room.
func laneOf(server spec.ServerName) int {
	h := fnv.New32a()
	h.Write([]byte(server)) //nolint:errcheck // there is none
	return int(h.Sum32() % lanes)
}

// laneName is used as if it were a room ID, which begins with another character.
func laneName(roomID string, server spec.ServerName) string {
	return lanePrefix + strconv.Itoa(laneOf(server)) + " " + roomID
}

type patient struct{}

// mayWait reports whether the event may wait for other servers for as long as it takes.
func mayWait(ctx context.Context) bool { return ctx.Value(patient{}) != nil }

// lags reports whether an event that lacks others is for a lane. The events of a join are not: they come in an order,
// and nobody is in the room yet. Nor are ours.
func (r *Inputer) lags(ctx context.Context, input *api.InputRoomEvent, info *types.RoomInfo) bool {
	return !mayWait(ctx) && input.Kind == api.KindNew && !input.HasState && live(info) &&
		input.Origin != "" && !r.Cfg.Matrix.IsLocalServerName(input.Origin)
}

// live reports whether the room is known: until a join is complete it is not.
func live(info *types.RoomInfo) bool { return info != nil && !info.IsStub() }

// process has an event processed, or puts it into a lane.
func (w *worker) process(msg *nats.Msg, input *api.InputRoomEvent) error {
	ctx, host := w.r.ProcessContext.Context(), spec.ServerName(msg.Header.Get("virtual_host"))
	if strings.HasPrefix(w.roomID, lanePrefix) {
		return w.processLaggard(ctx, host, input)
	}
	err := w.r.processRoomEvent(ctx, host, input)
	if err == errLags {
		return w.r.setAside(ctx, msg, input)
	}
	return err
}

// setAside puts an event into its lane. Whoever waits for the answer gets it from there.
func (r *Inputer) setAside(ctx context.Context, msg *nats.Msg, input *api.InputRoomEvent) error {
	id := input.Event.RoomID().String()
	name, in, lane := laneName(id, input.Origin), r.room(id), laneOf(input.Origin)
	in.Lock()
	defer in.Unlock()
	if in.laggards[lane] >= mostWaiting {
		return fmt.Errorf("%w, and %d others wait to ask %s for the like", errLags, mostWaiting, input.Origin)
	}
	later := &nats.Msg{
		Subject: r.Cfg.Matrix.JetStream.Prefixed(jetstream.InputRoomEventSubj(name)),
		Header:  maps.Clone(msg.Header),
		Data:    msg.Data,
	}
	later.Header.Set(jetstream.RoomID, name)
	if _, err := r.JetStream.PublishMsg(later, nats.Context(ctx)); err != nil {
		return fmt.Errorf("putting the event aside: %w", err)
	}
	in.laggards[lane]++
	roomserverInputBackpressure.With(prometheus.Labels{"room_id": name}).Inc()
	msg.Header.Del("sync")
	return nil
}

// processLaggard is what the worker of a lane does. It does not wait for a server that has just kept it waiting for
// nothing. An event that fails may come again: the other server sends it again, or an event that follows on it.
func (w *worker) processLaggard(ctx context.Context, host spec.ServerName, input *api.InputRoomEvent) error {
	defer w.r.taken(input)
	if time.Now().Before(w.slow[input.Origin]) {
		err := w.r.processRoomEvent(ctx, host, input)
		if err == errLags {
			return fmt.Errorf("%w, and %s has not said it in time before", err, input.Origin)
		}
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithValue(ctx, patient{}, true), MaximumMissingProcessingTime)
	defer cancel()
	start := time.Now()
	err := w.r.processRoomEvent(ctx, host, input)
	if now := time.Now(); err != nil && now.Sub(start) > slowAnswer {
		maps.DeleteFunc(w.slow, func(_ spec.ServerName, until time.Time) bool { return until.Before(now) })
		w.slow[input.Origin] = now.Add(quietTime)
	}
	return err
}

// taken counts a laggard that has been processed. Those of the time before a restart were not counted.
func (r *Inputer) taken(input *api.InputRoomEvent) {
	in, lane := r.room(input.Event.RoomID().String()), laneOf(input.Origin)
	in.Lock()
	defer in.Unlock()
	in.laggards[lane] = max(0, in.laggards[lane]-1)
}

// outside is for what has to ask other servers: it leaves the room to others meanwhile. A room's own worker has only
// so much time for it.
func (r *Inputer) outside(ctx context.Context, roomID spec.RoomID, info *types.RoomInfo, ask func(context.Context)) {
	in := r.room(roomID.String())
	if live(info) && !mayWait(ctx) {
		start := time.Now()
		if start.Sub(in.since) > time.Minute {
			in.since, in.waited = start, 0
		}
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, workerWaits-in.waited)
		defer func() {
			cancel()
			in.waited += time.Since(start)
		}()
	}
	in.Unlock()
	defer in.Lock()
	ask(ctx)
}

// eventAuth asks a server for the events that an event is authorised by.
func (r *Inputer) eventAuth(
	ctx context.Context, host, server spec.ServerName, event *types.HeaderedEvent, info *types.RoomInfo,
) (res fclient.RespEventAuth, err error) {
	r.outside(ctx, event.RoomID(), info, func(ctx context.Context) {
		res, err = r.FSAPI.GetEventAuth(ctx, host, server, event.Version(), event.RoomID().String(), event.EventID())
	})
	return res, err
}

// verify checks the signatures of an event. The keys may have to be fetched.
func (r *Inputer) verify(ctx context.Context, event gomatrixserverlib.PDU, info *types.RoomInfo) (err error) {
	r.outside(ctx, event.RoomID(), info, func(ctx context.Context) {
		err = gomatrixserverlib.VerifyEventSignatures(ctx, event, r.FSAPI.KeyRing(),
			func(roomID spec.RoomID, sender spec.SenderID) (*spec.UserID, error) {
				return r.Queryer.QueryUserIDForSender(ctx, roomID, sender)
			})
	})
	return err
}
