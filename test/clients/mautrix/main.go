// Command mautrix uses all functions of mautrix-go for delayed events. The tests in the parent folder start it. It has
// a module of its own because mautrix-go needs newer versions of modules that the homeserver shares with Dendrite.
//
// The environment variable CLIENT has the user, as JSON. Results go to standard output, one JSON value a line.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"net/http"
	"os"
	"sync"
	"time"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"
)

const (
	patience = 20 * time.Second
	rounding = 5 // ms by which two times from the server may differ
)

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	b, err := login(ctx)
	if err != nil {
		log.Fatal(err)
	}
	code := 0
	for _, check := range []struct {
		name string
		run  func(context.Context) error
	}{
		{"a message comes when its time has come", b.message},
		{"state comes under its key", b.state},
		{"send", b.send},
		{"cancel", b.cancel},
		{"restart", b.restart},
		{"errors", b.errors},
	} {
		told := map[string]any{"passed": check.name}
		if err := check.run(ctx); err != nil {
			told, code = map[string]any{"failed": check.name, "error": err.Error()}, 1
		}
		if err := json.NewEncoder(os.Stdout).Encode(told); err != nil {
			log.Fatal(err)
		}
	}
	os.Exit(code)
}

// bot is a logged-in client in a room, which sees its events.
type bot struct {
	*mautrix.Client
	room id.RoomID

	mu    sync.Mutex
	heard []*event.Event
}

func login(ctx context.Context) (*bot, error) {
	var who struct{ URL, User, Token, Room string }
	if err := json.Unmarshal([]byte(os.Getenv("CLIENT")), &who); err != nil {
		return nil, fmt.Errorf("CLIENT: %w", err)
	}
	client, err := mautrix.NewClient(who.URL, id.UserID(who.User), who.Token)
	if err != nil {
		return nil, err
	}
	b := &bot{Client: client, room: id.RoomID(who.Room)}
	client.Syncer.(*mautrix.DefaultSyncer).OnEvent(func(_ context.Context, e *event.Event) {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.heard = append(b.heard, e)
	})
	go func() {
		if err := client.SyncWithContext(ctx); err != nil && ctx.Err() == nil {
			log.Print("sync: ", err)
		}
	}()
	return b, nil
}

// wait waits for a wanted event.
func (b *bot) wait(ctx context.Context, wanted func(*event.Event) bool) (*event.Event, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		if e := b.find(wanted); e != nil {
			return e, nil
		}
		select {
		case <-ctx.Done():
			return nil, errors.New("the event did not come")
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (b *bot) find(wanted func(*event.Event) bool) *event.Event {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, e := range b.heard {
		if wanted(e) {
			return e
		}
	}
	return nil
}

func says(text string) func(*event.Event) bool {
	return func(e *event.Event) bool { return e.Type == event.EventMessage && e.Content.Raw["body"] == text }
}

// delay schedules a message and returns its item in the list.
func (b *bot) delay(ctx context.Context, text string, by time.Duration) (*event.ScheduledDelayedEvent, error) {
	content := &event.MessageEventContent{MsgType: event.MsgText, Body: text}
	r, err := b.SendMessageEvent(ctx, b.room, event.EventMessage, content, mautrix.ReqSendEvent{UnstableDelay: by})
	if err != nil {
		return nil, err
	}
	if r.UnstableDelayID == "" || r.EventID != "" {
		return nil, fmt.Errorf("scheduling answers %+v", r)
	}
	item, err := b.listed(ctx, r.UnstableDelayID)
	if err == nil && item == nil {
		err = errors.New("what is scheduled is not in the list")
	}
	return item, err
}

// listed finds an item of the list of scheduled events; nil if it is not there.
func (b *bot) listed(ctx context.Context, delayID id.DelayID) (*event.ScheduledDelayedEvent, error) {
	r, err := b.DelayedEvents(ctx, &mautrix.ReqDelayedEvents{})
	if err != nil {
		return nil, err
	}
	var found *event.ScheduledDelayedEvent
	for _, item := range r.Scheduled {
		if item.DelayID != delayID {
			continue
		}
		if found != nil {
			return nil, errors.New("it is in the list twice")
		}
		found = item
	}
	return found, nil
}

func (b *bot) act(ctx context.Context, delayID id.DelayID, action event.DelayAction) error {
	_, err := b.UpdateDelayedEvent(ctx, &mautrix.ReqUpdateDelayedEvent{DelayID: delayID, Action: action})
	return err
}

// refused returns an error unless each action gets 404 and M_NOT_FOUND.
func (b *bot) refused(ctx context.Context, delayID id.DelayID, actions ...event.DelayAction) error {
	for _, action := range actions {
		if err := b.act(ctx, delayID, action); !errors.Is(err, mautrix.MNotFound) {
			return fmt.Errorf("%s: %w instead of M_NOT_FOUND", action, err)
		}
	}
	return nil
}

func (b *bot) message(ctx context.Context) error {
	const by = 2 * time.Second
	item, err := b.delay(ctx, "later", by)
	if err != nil {
		return err
	}
	if item.RoomID != b.room || item.Type.Type != "m.room.message" || item.StateKey != nil ||
		item.Delay != by.Milliseconds() || item.Content.Raw["body"] != "later" {
		return fmt.Errorf("the list has %+v", item)
	}
	e, err := b.wait(ctx, says("later"))
	if err != nil {
		return err
	}
	if due := item.RunningSince.UnixMilli() + by.Milliseconds() - rounding; e.Timestamp < due {
		return fmt.Errorf("sent at %d, due not before %d", e.Timestamp, due)
	}
	return b.refused(ctx, item.DelayID, event.DelayActionRestart)
}

func (b *bot) state(ctx context.Context) error {
	kind := event.Type{Type: "org.example.state", Class: event.StateEventType}
	for _, key := range []string{"", "st/a te ü%"} {
		content := map[string]any{"of": key}
		r, err := b.SendStateEvent(ctx, b.room, kind, key, content, mautrix.ReqSendEvent{UnstableDelay: 2 * time.Second})
		if err != nil {
			return err
		}
		item, err := b.listed(ctx, r.UnstableDelayID)
		if err != nil {
			return err
		}
		if item == nil || item.StateKey == nil || *item.StateKey != key {
			return fmt.Errorf("the list has %+v", item)
		}
		var now map[string]any
		if err := b.StateEvent(ctx, b.room, kind, key, &now); !errors.Is(err, mautrix.MNotFound) {
			return fmt.Errorf("the state exists too early: %v %w", now, err)
		}
		if _, err := b.wait(ctx, func(e *event.Event) bool { return e.StateKey != nil && e.Content.Raw["of"] == key }); err != nil {
			return err
		}
		if err := b.StateEvent(ctx, b.room, kind, key, &now); err != nil || now["of"] != key {
			return fmt.Errorf("the state is %v %w", now, err)
		}
	}
	return nil
}

func (b *bot) send(ctx context.Context) error {
	item, err := b.delay(ctx, "sent", time.Hour)
	if err != nil {
		return err
	}
	if err := b.act(ctx, item.DelayID, event.DelayActionSend); err != nil {
		return err
	}
	if _, err := b.wait(ctx, says("sent")); err != nil {
		return err
	}
	return b.refused(ctx, item.DelayID, event.DelayActionRestart, event.DelayActionCancel)
}

func (b *bot) cancel(ctx context.Context) error {
	item, err := b.delay(ctx, "cancelled", 3*time.Second)
	if err != nil {
		return err
	}
	if err := b.act(ctx, item.DelayID, event.DelayActionCancel); err != nil {
		return err
	}
	if item, err := b.listed(ctx, item.DelayID); err != nil || item != nil {
		return fmt.Errorf("the list still has it: %v %w", item, err)
	}
	over := &mautrix.ReqDelayedEvents{DelayID: item.DelayID, Status: event.DelayStatusFinalised}
	if r, err := b.DelayedEvents(ctx, over); err != nil || len(r.Scheduled)+len(r.Finalised) != 1 {
		return fmt.Errorf("the list does not have it among what is over: %+v %w", r, err)
	}
	if _, err := b.delay(ctx, "after the cancelled one", 4*time.Second); err != nil {
		return err
	}
	if _, err := b.wait(ctx, says("after the cancelled one")); err != nil {
		return err
	}
	if b.find(says("cancelled")) != nil {
		return errors.New("it was sent")
	}
	return b.refused(ctx, item.DelayID, event.DelayActionRestart, event.DelayActionSend)
}

func (b *bot) restart(ctx context.Context) error {
	const by = 3 * time.Second
	item, err := b.delay(ctx, "restarted", by)
	if err != nil {
		return err
	}
	time.Sleep(500 * time.Millisecond)
	if err := b.act(ctx, item.DelayID, event.DelayActionRestart); err != nil {
		return err
	}
	after, err := b.listed(ctx, item.DelayID)
	if err != nil {
		return err
	}
	if after == nil || !after.RunningSince.After(item.RunningSince.Time) {
		return fmt.Errorf("the list had %+v, then %+v", item, after)
	}
	e, err := b.wait(ctx, says("restarted"))
	if err != nil {
		return err
	}
	if due := after.RunningSince.UnixMilli() + by.Milliseconds() - rounding; e.Timestamp < due {
		return fmt.Errorf("sent at %d, due not before %d", e.Timestamp, due)
	}
	return nil
}

func (b *bot) errors(ctx context.Context) error {
	_, err := b.delay(ctx, "never", 5000*time.Hour)
	var e mautrix.HTTPError
	if !errors.As(err, &e) || e.Response.StatusCode != http.StatusBadRequest || e.RespError == nil {
		return fmt.Errorf("too long a delay: %w", err)
	}
	if e.RespError.ErrCode != "M_UNKNOWN" || e.RespError.ExtraData["org.matrix.msc4140.errcode"] != "M_MAX_DELAY_EXCEEDED" {
		return fmt.Errorf("too long a delay: %+v", e.RespError)
	}
	return b.refused(ctx, "m.no.such.delayed.event",
		event.DelayActionSend, event.DelayActionCancel, event.DelayActionRestart)
}
