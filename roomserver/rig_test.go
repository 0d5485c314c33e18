package roomserver

import (
	"context"
	"database/sql"
	"encoding/json"
	"testing"
	"time"

	fsapi "github.com/matrix-org/dendrite/federationapi/api"
	rsapi "github.com/matrix-org/dendrite/roomserver/api"
	"github.com/matrix-org/dendrite/roomserver/types"
	"github.com/matrix-org/dendrite/setup/config"
	"github.com/matrix-org/dendrite/setup/jetstream"
	"github.com/matrix-org/dendrite/setup/process"
	"github.com/matrix-org/dendrite/test"
	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/nats-io/nats.go"

	"github.com/matrix-org/dendrite/futures/futureserver/api"
	"github.com/matrix-org/dendrite/futures/test/components"
)

// A rig is a real roomserver in this process, with its own database and JetStream.
type rig struct {
	*testing.T
	cfg     *config.Dendrite
	process *process.ProcessContext
	rsAPI   rsapi.RoomserverInternalAPI
	db      *sql.DB
	js      nats.JetStreamContext
	conn    *nats.Conn
	room    *Room
	output  *nats.Subscription // everything the roomserver publishes
}

// withDatabases runs the test on SQLite, and on PostgreSQL if the environment names one.
func withDatabases(t *testing.T, f func(*rig)) {
	components.WithDatabases(t, func(t *testing.T, dbType test.DBType) { f(newRig(t, dbType)) })
}

func newRig(t *testing.T, dbType test.DBType) *rig {
	rooms := components.NewRoomserver(t, dbType)
	cfg, proc := rooms.Config, rooms.Process
	rooms.SetFederationAPI(nobody{}, nil)
	db, _, err := rooms.Connections.Connection(&cfg.RoomServer.Database)
	if err != nil {
		t.Fatal(err)
	}
	js, conn := rooms.NATS.Prepare(proc, &cfg.Global.JetStream)
	output, err := js.SubscribeSync(cfg.Global.JetStream.Prefixed(jetstream.OutputRoomEvent))
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t, cfg, proc, rooms, db, js, conn, nil, output}
	r.forget()
	return r
}

// forget replaces r.room as a restart would.
func (r *rig) forget() {
	r.Helper()
	var err error
	if r.room, err = NewRoom(r.cfg, r.rsAPI, r.db, new(Gates)); err != nil {
		r.Fatal(err)
	}
}

// nobody is a federation without other servers.
type nobody struct{ fsapi.RoomserverFederationAPI }

func (nobody) QueryJoinedHostServerNamesInRoom(context.Context, *fsapi.QueryJoinedHostServerNamesInRoomRequest, *fsapi.QueryJoinedHostServerNamesInRoomResponse) error {
	return nil
}

// create creates a room of that version in which all users are joined. The first user has the power.
func (r *rig) create(version gomatrixserverlib.RoomVersion, users ...*test.User) string {
	r.Helper()
	room := test.NewRoom(r.T, users[0], test.RoomVersion(version))
	for _, u := range users[1:] {
		room.CreateAndInsert(r.T, u, spec.MRoomMember, map[string]any{"membership": "join"}, test.WithStateKey(u.ID))
	}
	r.input(room.Events()...)
	return room.ID
}

// input submits events by anybody to their room.
func (r *rig) input(events ...*types.HeaderedEvent) {
	r.Helper()
	if err := rsapi.SendEvents(r.Context(), r.rsAPI, rsapi.KindNew, events, "test", "test", "test", nil, false); err != nil {
		r.Fatal(err)
	}
}

func message(user *test.User, roomID, eventType, content string) *api.Future {
	return &api.Future{UserID: user.ID, RoomID: roomID, Type: eventType, Content: json.RawMessage(content)}
}

func state(user *test.User, roomID, eventType, key, content string) *api.Future {
	f := message(user, roomID, eventType, content)
	f.StateKey = &key
	return f
}

func text(user *test.User, roomID string) *api.Future {
	return message(user, roomID, "m.room.message", `{"body":"hello","msgtype":"m.text"}`)
}

// build builds the event and stores it in the future, as the claim does.
func (r *rig) build(f *api.Future) *api.Future {
	r.Helper()
	event, err := buildOne(r.Context(), r.room, f)
	if err != nil {
		r.Fatalf("Build: %v", err)
	}
	f.Event = event
	return f
}

// buildOne builds a chain of one.
func buildOne(ctx context.Context, room *Room, f *api.Future) (*api.Event, error) {
	built := room.Build(ctx, []*api.Future{f})
	return built[0].Event, built[0].Err
}

func (r *rig) submit(fs ...*api.Future) {
	r.Helper()
	if err := r.room.Submit(r.Context(), fs); err != nil {
		r.Fatalf("Submit: %v", err)
	}
}

// send puts the event into the room and returns its ID.
func (r *rig) send(f *api.Future) string {
	r.Helper()
	r.submit(r.build(f))
	r.verdict(f, api.Confirmed)
	return f.Event.ID
}

func (r *rig) verdict(f *api.Future, want api.Verdict) {
	r.Helper()
	if got, err := r.room.Verdict(r.Context(), []*api.Future{f}); err != nil || got[0] != want {
		r.Fatalf("Verdict = %v, %v; want %v", got, err, want)
	}
}

// levels sets the level for messages. The first user of the room is above all levels used here.
func (r *rig) levels(admin *test.User, roomID string, message string) {
	r.Helper()
	r.send(state(admin, roomID, "m.room.power_levels", "",
		`{"events_default":`+message+`,"state_default":0,"redact":50,"users":{"`+admin.ID+`":100}}`))
}

func (r *rig) event(roomID, id string) *types.HeaderedEvent {
	r.Helper()
	event := rsapi.GetEvent(r.Context(), r.rsAPI, roomID, id)
	if event == nil {
		r.Fatalf("the roomserver does not know event %s", id)
	}
	return event
}

// published returns the outputs of the event so far, in order, and discards all others.
func (r *rig) published(eventID string) []*rsapi.OutputNewRoomEvent {
	r.Helper()
	return r.publishedIf(func(id string) bool { return id == eventID })
}

func (r *rig) publishedIf(wanted func(eventID string) bool) (found []*rsapi.OutputNewRoomEvent) {
	r.Helper()
	for {
		msg, err := r.output.NextMsg(100 * time.Millisecond)
		if err != nil {
			return found
		}
		var out rsapi.OutputEvent
		if err := json.Unmarshal(msg.Data, &out); err != nil {
			r.Fatal(err)
		}
		if e := out.NewRoomEvent; e != nil && wanted(e.Event.EventID()) {
			found = append(found, e)
		}
	}
}

func (r *rig) exec(query string, args ...any) {
	r.Helper()
	if _, err := r.db.ExecContext(r.Context(), query, args...); err != nil {
		r.Fatal(err)
	}
}
