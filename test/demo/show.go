package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/tidwall/gjson"

	"github.com/matrix-org/dendrite/futures/test/rig"
)

const (
	callMember = "org.matrix.msc3401.call.member"
	leaveAfter = 4 * time.Second // without a heartbeat
	heartbeat  = time.Second
	heartbeats = 4
	messageTTL = 3 * time.Second
)

// play is the room with its two users. Alice acts; Bob only watches.
type play struct {
	*stage
	alice, bob rig.Client
	aliceID    string
	room       string
	seen       chan gjson.Result // events that Bob sees
}

// show plays both acts on the homeserver at url. It returns an error if something that it announces did not happen.
func show(ctx context.Context, s *stage, url, secret string) error {
	p := &play{stage: s, seen: make(chan gjson.Result, 64)}
	p.alice = rig.Client{URL: url, HTTP: http.DefaultClient}
	p.bob = p.alice
	if err := p.prepare(ctx, secret); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go p.watch(ctx)
	if err := p.call(ctx); err != nil {
		return err
	}
	if err := p.message(ctx); err != nil {
		return err
	}
	p.say("\nBoth events were handed over beforehand. The server keeps them on disk, so they arrive even if it is\n" +
		"restarted, or killed, in the meantime: each once, and never before its time.")
	return nil
}

func (p *play) prepare(ctx context.Context, secret string) error {
	r, err := p.alice.Register(ctx, secret, "alice", "a long password", false)
	if err := check(r, err, "creating Alice's account"); err != nil {
		return err
	}
	p.aliceID = r.JSON.Get("user_id").String()
	r, err = p.bob.Register(ctx, secret, "bob", "a long password", false)
	if err := check(r, err, "creating Bob's account"); err != nil {
		return err
	}
	r, err = p.alice.Do(ctx, http.MethodPost, rig.Path("createRoom"), nil, map[string]any{"preset": "public_chat"})
	if err := check(r, err, "creating the room"); err != nil {
		return err
	}
	p.room = r.JSON.Get("room_id").String()
	r, err = p.bob.Do(ctx, http.MethodPost, rig.Path("join", p.room), nil, map[string]any{})
	return check(r, err, "Bob joining the room")
}

// watch is Bob's client: it syncs, and shows new events.
func (p *play) watch(ctx context.Context) {
	defer close(p.seen)
	p.bob.Watch(ctx, p.room, func(e gjson.Result) bool {
		switch e.Get("type").String() {
		case callMember:
			if isLeave(e) {
				p.stage.bob("Alice has left the call")
			} else {
				p.stage.bob("Alice is in the call")
			}
		case "m.room.message":
			p.stage.bob("Alice: " + e.Get("content.body").String())
		case "m.room.redaction":
			p.stage.bob("(the message has been deleted)")
		}
		p.seen <- e
		return false
	})
}

func isLeave(e gjson.Result) bool {
	return e.Get("type").String() == callMember && !e.Get("content.application").Exists()
}

// call is the first act: a membership that ends by itself when the heartbeat stops.
func (p *play) call(ctx context.Context) error {
	p.act("1. A participant who vanishes from a call",
		"Alice joins a call. At once her device schedules a second event, \"Alice has left\", as a FUTURE: it is sent\n"+
			"after 4 seconds. Each heartbeat restarts the 4 seconds. Then her battery dies.")
	p.stage.alice("joins the call")
	state := rig.Path("rooms", p.room, "state", callMember, p.aliceID)
	r, err := p.alice.Do(ctx, http.MethodPut, state, nil, map[string]any{"application": "m.call", "call_id": "", "scope": "m.room"})
	if err := check(r, err, "joining the call"); err != nil {
		return err
	}
	future := rig.Path("rooms", p.room, "state_future", callMember, p.aliceID)
	r, err = p.alice.Do(ctx, http.MethodPut, future, timeout(leaveAfter), map[string]any{})
	if err := check(r, err, "scheduling the leave"); err != nil {
		return err
	}
	p.stage.alice("schedules \"Alice has left\", due in 4 s")

	refresh, last := r.Future().Refresh, time.Now()
	anybody := rig.Client{URL: p.alice.URL, HTTP: p.alice.HTTP} // a heartbeat needs nothing but the token
	for n := range heartbeats {
		sleep(ctx, heartbeat)
		last = time.Now()
		r, err := anybody.Do(ctx, http.MethodPost, rig.Path("futures", refresh), nil, nil)
		if err := check(r, err, "the heartbeat"); err != nil {
			return err
		}
		p.stage.alice(fmt.Sprintf("heartbeat %d: due in 4 s again", n+1))
	}
	sleep(ctx, heartbeat)
	p.note("*** the battery dies ***")
	left, err := p.await(ctx, "nothing more is heard from it", isLeave)
	if err != nil {
		return err
	}
	after := time.UnixMilli(left.Get("origin_server_ts").Int()).Sub(last)
	if after < leaveAfter {
		return fmt.Errorf("the leave came %s after the last heartbeat", after)
	}
	p.say("\nThe server sent Alice's leave by itself, %.2f s after the last heartbeat. No ghost is left in the call.", after.Seconds())
	return nil
}

// message is the second act: a message, and its redaction as a future.
func (p *play) message(ctx context.Context) error {
	p.act("2. A message that is deleted after a set time",
		"Alice sends a message, and schedules its deletion, due in 3 seconds. Then she goes offline.")
	p.stage.alice("sends the message")
	r, err := p.alice.Do(ctx, http.MethodPut, rig.Path("rooms", p.room, "send", "m.room.message", "1"), nil,
		map[string]any{"msgtype": "m.text", "body": "The door code is 4711."})
	if err := check(r, err, "sending the message"); err != nil {
		return err
	}
	sent, id := time.Now(), r.JSON.Get("event_id").String()
	r, err = p.alice.Do(ctx, http.MethodPut, rig.Path("rooms", p.room, "send_future", "m.room.redaction", "2"), timeout(messageTTL),
		map[string]any{"redacts": id})
	if err := check(r, err, "scheduling the redaction"); err != nil {
		return err
	}
	p.stage.alice("schedules its deletion, due in 3 s")
	isRedaction := func(e gjson.Result) bool { return e.Get("type").String() == "m.room.redaction" }
	if _, err := p.await(ctx, "offline", isRedaction); err != nil {
		return err
	}
	r, err = p.bob.Do(ctx, http.MethodGet, rig.Path("rooms", p.room, "event", id), nil, nil)
	if err := check(r, err, "looking for the message"); err != nil {
		return err
	}
	if r.JSON.Get("content.body").Exists() {
		return errors.New("the message is still there")
	}
	p.say("\nThe message is gone from the server, %.0f s after it was sent.", time.Since(sent).Seconds())
	return nil
}

// await shows the seconds until Bob sees the event.
func (p *play) await(ctx context.Context, silence string, wanted func(gjson.Result) bool) (gjson.Result, error) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case e, ok := <-p.seen:
			if !ok {
				return e, errors.New("Bob's view of the room has broken off")
			}
			if wanted(e) {
				return e, nil
			}
		case <-tick.C:
			p.note("(" + silence + ")")
		case <-ctx.Done():
			return gjson.Result{}, errors.New("the event did not come")
		}
	}
}

func timeout(d time.Duration) url.Values { return rig.Params{Timeout: d}.Query() }

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

func check(r rig.Response, err error, what string) error {
	if err == nil && r.Status != http.StatusOK {
		err = fmt.Errorf("%d %s", r.Status, r.Body)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}
