package futureserver_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"net/url"
	"os"
	"path/filepath"
	"time"

	dendrite "github.com/matrix-org/dendrite/setup/config"

	"github.com/matrix-org/dendrite/futures/futureserver"
	"github.com/matrix-org/dendrite/futures/futureserver/api"
	"github.com/matrix-org/dendrite/futures/setup/config"
)

// rooms are rooms that let everything in. In the server the package roomserver has the real ones.
type rooms struct {
	events chan *api.Future
}

func (rooms) Admit(context.Context, *api.Future) (base string, err error) { return "", nil }

func (rooms) Current(_ context.Context, _ string, keys []api.StateKeyTuple) ([]api.StateEvent, error) {
	return make([]api.StateEvent, len(keys)), nil
}

func (rooms) Enter(context.Context, string) (leave func()) { return func() {} }

func (rooms) Build(_ context.Context, fs []*api.Future) []api.Built {
	built := make([]api.Built, len(fs))
	for i, f := range fs {
		built[i].Event = &api.Event{ID: fmt.Sprintf("$%d", f.NID), PDU: f.Content}
	}
	return built
}

func (r rooms) Submit(_ context.Context, fs []*api.Future) error {
	for _, f := range fs {
		r.events <- f
	}
	return nil
}

func (rooms) Verdict(_ context.Context, fs []*api.Future) ([]api.Verdict, error) {
	verdicts := make([]api.Verdict, len(fs))
	for i := range verdicts {
		verdicts[i] = api.Confirmed
	}
	return verdicts, nil
}

// start starts a futureserver with its defaults and a database of its own.
func start(ctx context.Context, room api.Room) (server futureserver.Server, stop func()) {
	dir, err := os.MkdirTemp("", "futures")
	if err != nil {
		log.Fatal(err)
	}
	var cfg config.FutureServer
	cfg.Defaults()
	file := url.URL{Scheme: "file", Path: filepath.Join(dir, "futureserver.db")}
	cfg.Database.ConnectionString = dendrite.DataSource(file.String())
	if server, err = futureserver.NewInternalAPI(ctx, &cfg, room, futureserver.Options{}); err != nil {
		log.Fatal(err)
	}
	return server, func() {
		if err := errors.Join(server.Stop(ctx), os.RemoveAll(dir)); err != nil {
			log.Fatal(err)
		}
	}
}

// A client in a call schedules its leave. It sends heartbeats for as long as it lives; when it dies, the leave is sent.
func ExampleNewInternalAPI() {
	ctx, hall := context.Background(), rooms{make(chan *api.Future, 1)}
	server, stop := start(ctx, hall)
	defer stop()

	nobody := ""
	leave, err := server.PerformFutureCreation(ctx, &api.Future{
		UserID: "@alice:example.org", RoomID: "!hall:example.org", Type: "com.example.call", StateKey: &nobody,
		Content: json.RawMessage(`{}`), Timeout: 2 * time.Second,
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(leave.State)
	heartbeat := leave.Token(api.RefreshToken)
	fmt.Println("heartbeat:", server.PerformTokenAction(ctx, heartbeat))

	event := <-hall.events // two seconds after the last heartbeat
	fmt.Println(event.Type, string(event.Event.PDU))
	fmt.Println("too late:", errors.Is(server.PerformTokenAction(ctx, heartbeat), api.ErrGone))
	// Output:
	// scheduled
	// heartbeat: <nil>
	// com.example.call {}
	// too late: true
}

// Whoever has the send token need not wait. Of a group, such as everything that may end a call, only one event is ever sent.
func ExampleServer() {
	ctx, hall := context.Background(), rooms{make(chan *api.Future, 1)}
	server, stop := start(ctx, hall)
	defer stop()

	schedule := func(text, group string, timeout time.Duration) *api.Future {
		f, err := server.PerformFutureCreation(ctx, &api.Future{
			UserID: "@alice:example.org", RoomID: "!hall:example.org", Type: "m.room.message",
			Content: json.RawMessage(text), GroupID: group, Timeout: timeout,
		})
		if err != nil {
			log.Fatal(err)
		}
		return f
	}
	lost := schedule(`{"body":"alice has lost the connection"}`, "", time.Hour)
	hangUp := schedule(`{"body":"alice has hung up"}`, lost.GroupID, 0)
	fmt.Println("send:", server.PerformTokenAction(ctx, hangUp.Token(api.SendToken)))
	fmt.Println(string((<-hall.events).Content))
	futures, err := server.QueryFutures(ctx, api.Filter{NID: lost.NID, States: api.Finished})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("the other one is", futures[0].State)
	// Output:
	// send: <nil>
	// {"body":"alice has hung up"}
	// the other one is discarded
}
