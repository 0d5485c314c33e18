// Package outage tests outages of an external NATS server and of PostgreSQL. Under a crowd of clients it stops, kills
// and restarts the real servers, and keeps them down for a while. The test acts as the service manager and restarts the
// homeserver whenever it ends. Then the judge decides by the rooms' timelines alone whether futures were lost, doubled
// or early.
//
//	go test ./test/outage -v -away 60s -rounds 10
//
// Without flags it is short.
package outage_test

import (
	"context"
	"flag"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"github.com/matrix-org/dendrite/futures/test/rig"
	"github.com/matrix-org/dendrite/futures/test/workload"
)

var (
	away   = flag.Duration("away", 10*time.Second, "how long the long absence lasts")
	rounds = flag.Int("rounds", 1, "how often the servers are restarted in each way")
	seed   = flag.Uint64("seed", uint64(time.Now().UnixNano()), "of the crowd")
)

func TestMain(m *testing.M) {
	flag.Parse()
	rig.Main(m)
}

const (
	users   = 4
	between = time.Second // normal operation before each outage
	// recovery is the time after an outage within which futures must be sent and seen again, including a restart of the
	// homeserver, on a machine that is busy with other tests.
	recovery = 45 * time.Second
	// settleTime is longer than the homeserver checks whether NATS and the database are back for good.
	settleTime = 5 * time.Second
	// healthTime is the time within which the health check notices an outage: 5 seconds on an idle machine.
	healthTime = 10 * time.Second
	// stopLimit is the longest time for a clean stop, during any outage.
	stopLimit = 15 * time.Second
)

// support is NATS or PostgreSQL.
type support interface {
	restart()              // a clean stop and a start
	crash()                // the same without a clean stop
	stop() (resume func()) // down until resume is called
}

// ordeal is a homeserver with a crowd during outages.
type ordeal struct {
	*testing.T
	server *rig.Server
	keeper *keeper
	crowd  *workload.Crowd
	beat   *beat
	prober *rig.User
	room   string
}

// endure runs the crowd through all kinds of outages and asks the judge. unnoticed is how long clients that only send
// heartbeats must not notice an outage.
func endure(t *testing.T, s *rig.Server, below support, unnoticed time.Duration) {
	t.Logf("-seed %d -rounds %d -away %s", *seed, *rounds, *away)
	o := &ordeal{T: t, server: s, prober: s.Register(t, "prober"), crowd: workload.New(t, s, users, *seed)}
	o.room = o.prober.CreateRoom(nil)
	o.beat = newBeat(t, s, o.prober, o.room)
	o.keeper = keep(t, s)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	o.crowd.Start(ctx)

	for range *rounds {
		o.suffer("a restart", below.restart)
		o.suffer("a crash", below.crash)
	}
	o.suffer("three restarts in a row", func() {
		for range 3 {
			below.restart()
		}
	})
	o.settle()
	o.suffer("an absence of "+away.String(), func() {
		resume := below.stop()
		var after time.Duration
		var health rig.Response
		var asking sync.WaitGroup
		asking.Go(func() { after, health = o.sick() })
		o.checkAbsence(*away, unnoticed)
		asking.Wait()
		o.checkHealth(after, health)
		resume()
	})
	o.settle() // otherwise it would end while the judge uses it
	stop()
	o.crowd.Wait()
	report := o.crowd.Settle(t)
	o.keeper.dismiss()
	t.Logf("%s\n%s\n%s", o.keeper, o.beat, &report)
	if !report.Good() {
		t.Error("the server broke its promises")
	}
	if report.Sent < 20 {
		t.Errorf("only %d futures were sent, so nothing is proved", report.Sent)
	}
	if o.keeper.panics() > 0 {
		t.Error("the homeserver has panicked")
	}
	o.stopWhileAway(below)
}

// suffer runs an outage and waits until futures are sent again.
func (o *ordeal) suffer(what string, outage func()) {
	o.Helper()
	time.Sleep(between)
	ends := o.keeper.count()
	start := time.Now()
	outage()
	over := time.Now()
	if !o.works(recovery) {
		o.Fatalf("after %s futures are not sent again within %s", what, recovery)
	}
	o.Logf("%s of %s: all works %s later; the homeserver ended %v", what, over.Sub(start).Round(time.Millisecond),
		time.Since(over).Round(time.Millisecond), o.keeper.since(ends))
}

// settle waits until the homeserver has ended for all outages so far, which it does a while after they are over.
func (o *ordeal) settle() {
	o.Helper()
	for ends := -1; ends != o.keeper.count(); time.Sleep(settleTime) {
		ends = o.keeper.count()
		if !o.works(recovery) {
			o.Fatalf("futures are not sent again within %s", recovery)
		}
	}
}

// checkAbsence waits for the end of the outage, and checks that a client in a call does not notice it for as long as it
// must not.
func (o *ordeal) checkAbsence(d, unnoticed time.Duration) {
	o.Helper()
	unnoticed = min(d, unnoticed)
	answered, missed := o.beat.count()
	time.Sleep(unnoticed)
	answeredSince, missedSince := o.beat.count()
	answered, missed = answeredSince-answered, missedSince-missed
	o.Logf("during the absence %d heartbeats were answered and %d were not", answered, missed)
	if answered < 9*missed || answered == 0 {
		o.Error("the absence was felt by a client in a call")
	}
	time.Sleep(d - unnoticed)
}

// sick polls the health check until it fails. It returns how long that took and the answer.
func (o *ordeal) sick() (after time.Duration, last rig.Response) {
	ctx, cancel := context.WithTimeout(o.Context(), healthTime)
	defer cancel()
	for start := time.Now(); ctx.Err() == nil; pause(ctx) {
		r, err := o.prober.Client.Do(ctx, http.MethodGet, "/_dendrite/monitor/health", nil, nil)
		if err != nil {
			continue
		}
		if after, last = time.Since(start), r; r.Status == http.StatusServiceUnavailable {
			break
		}
	}
	return after, last
}

// checkHealth is called during an outage. The server must be running, and the health check must report the outage.
func (o *ordeal) checkHealth(after time.Duration, health rig.Response) {
	o.Helper()
	o.Logf("%s into the absence the health check answers %d %s", after.Round(time.Millisecond), health.Status, health.JSON.Raw)
	if health.Status != http.StatusServiceUnavailable || len(health.JSON.Get("reasons").Array()) == 0 {
		o.Error("the health check does not know of the absence")
	}
	up, err := o.prober.Client.Do(o.Context(), http.MethodGet, "/_dendrite/monitor/up", nil, nil)
	if err != nil || up.Status != http.StatusOK {
		o.Errorf("the server lives, but is not up: %d, %v", up.Status, err)
	}
}

// works waits until a new future of a tenth of a second is seen in its room.
func (o *ordeal) works(within time.Duration) bool {
	ctx, cancel := context.WithTimeout(o.Context(), within)
	defer cancel()
	for ; ctx.Err() == nil; pause(ctx) {
		if o.probe(ctx) {
			return true
		}
	}
	return false
}

const probeTime = 5 * time.Second

func (o *ordeal) probe(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	body := o.prober.NextTxn()
	path := rig.Path("rooms", o.room, "send_future", "m.room.message", body)
	query := rig.Params{Timeout: 100 * time.Millisecond}.Query()
	r, err := o.prober.Client.Do(ctx, http.MethodPut, path, query, map[string]any{"msgtype": "m.text", "body": body})
	if err != nil || r.Status != http.StatusOK {
		return false
	}
	is := rig.HasBody(body)
	seen := false
	err = o.prober.Watch(ctx, o.room, func(e gjson.Result) bool { seen = is(e); return seen })
	return err == nil && seen
}

func pause(ctx context.Context) {
	select {
	case <-time.After(100 * time.Millisecond):
	case <-ctx.Done():
	}
}

// stopWhileAway stops the homeserver during an outage.
func (o *ordeal) stopWhileAway(below support) {
	if !o.server.Running() {
		o.Fatal("the homeserver is down")
	}
	resume := below.stop()
	defer resume()
	code, took := o.server.Stop()
	o.Logf("stopped during an absence: %s, after %s", o.server.Exit(), took.Round(time.Millisecond))
	if code != 0 || took > stopLimit {
		o.Errorf("asked to stop, it ended with code %d, %s later", code, took)
	}
}
