package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
	"github.com/matrix-org/dendrite/futures/futureserver/storage"
	"github.com/matrix-org/dendrite/futures/test/rig"
)

const clients = 64

// creation compares how many futures a second 64 clients can schedule, each durable when it is answered, with one
// commit for each.
func creation(b *bench, ctx context.Context) (results []Result, err error) {
	bounds := map[kind]Bound{onSQLite: atLeast(8, 40), onPostgres: atLeast(4, 15)}
	for _, k := range kinds() {
		ours, against, err := creationOn(b, ctx, k)
		if err != nil {
			return results, err
		}
		how := fmt.Sprintf("in process, %s, %d clients, rooms that admit at once", k, clients)
		results = append(results, ratio("durable creations/s : one commit each", how, ours, against, "/s", bounds[k]))
		if b.quick {
			continue
		}
		over, err := creationHTTP(b, ctx, k)
		if err != nil {
			return results, err
		}
		how = fmt.Sprintf("over HTTP, %s, %d clients, real rooms", k, clients)
		results = append(results, ratio("creations/s over HTTP : one commit each", how, over, against, "/s", Bound{}))
	}
	return results, nil
}

// newcomer is the i-th future. Users come in random order, because neighbours in an index would be cheap.
func newcomer(i int) *api.Future {
	key := make([]byte, 32)
	rand.Read(key)
	return &api.Future{
		UserID: fmt.Sprintf("@newcomer%d:example.com", i*7919%10_000), RoomID: fmt.Sprintf("!room%d:example.com", i%1_000),
		Type: "org.matrix.msc3401.call.member", Content: content, Timeout: time.Hour,
		DeviceID: "ABCDEFGHIJ", TxnID: strconv.Itoa(i), TxnKey: key,
	}
}

func creationOn(b *bench, ctx context.Context, k kind) (ours, against float64, err error) {
	grouped, err := b.database(k)
	if err != nil {
		return 0, 0, err
	}
	single, err := b.database(k)
	if err != nil {
		return 0, 0, err
	}
	c, err := openCore(ctx, grouped, easyRoom{}, nil)
	if err != nil {
		return 0, 0, err
	}
	defer c.stop()
	db, err := openStorage(ctx, single)
	if err != nil {
		return 0, 0, err
	}
	defer closing(db)
	create := func(i int) error {
		_, err := c.PerformFutureCreation(ctx, newcomer(i))
		return err
	}
	var nid api.NID
	commit := func(i int) error {
		f := newcomer(i)
		nid++
		f.NID, f.Secret, f.State = nid, api.NewSecret(), api.Scheduled
		f.GroupID = f.Token(api.GroupToken).String()
		f.Created = time.Now().UnixMilli()
		f.Deadline = f.Created + f.Timeout.Milliseconds()
		_, err := db.Commit(ctx, &storage.Batch{Inserts: []*api.Future{f}})
		return err
	}
	for range size(b, 5, 2) {
		rate, err := perSecond(ctx, clients, 1500*time.Millisecond, create)
		if err != nil {
			return 0, 0, err
		}
		ours = max(ours, rate)
		if rate, err = perSecond(ctx, 1, 1500*time.Millisecond, commit); err != nil {
			return 0, 0, err
		}
		against = max(against, rate)
	}
	return ours, against, nil
}

// creationHTTP is the same rate of a real server over HTTP.
func creationHTTP(b *bench, ctx context.Context, k kind) (float64, error) {
	s, m, err := b.startWithRooms(ctx, plan{}, k, 16)
	if err != nil {
		return 0, err
	}
	defer s.kill()
	query := url.Values{"future_timeout": {"3600000"}}
	var txn atomic.Int64
	best := 0.0
	for range 3 {
		rate, err := perSecond(ctx, clients, 3*time.Second, func(i int) error {
			path := rig.Path("rooms", m.rooms[i%len(m.rooms)], "send_future", "m.room.message", strconv.FormatInt(txn.Add(1), 10))
			_, err := m.do(ctx, http.MethodPut, path, query, message(int64(i)))
			return err
		})
		if err != nil {
			return 0, err
		}
		best = max(best, rate)
	}
	return best, nil
}
